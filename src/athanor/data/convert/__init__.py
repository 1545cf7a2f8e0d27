"""Converters between `AtomicData` and other libraries' structures, one module per library, imported when used."""
