"""Whole pickles that may be loaded without being trusted: files that packages ship, by what stands in them.

Loading one runs the code that it names. These do nothing but build a network: each was read, instruction by
instruction, with `pickletools`.
"""

from __future__ import annotations

KNOWN_PICKLES: dict[str, str] = {}
"""SHA-256 of a file -> package and name of it."""
