"""Numbers as people read them: counts, sizes and times."""

from __future__ import annotations


def printable(text: str) -> str:
    """Return text whose control characters are spelled out, so that a name can not steer the terminal; lines stay."""
    return "".join(
        character if character.isprintable() or character in "\n\t" else character.encode("unicode_escape").decode()
        for character in text
    )


def count(number: int, noun: str) -> str:
    """Return ``1 atom`` or ``1,200 atoms``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def format_bytes(count: float) -> str:
    """Return a size for people: ``3.1 GB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.0f} TB"


def format_seconds(seconds: float) -> str:
    """Return a time for people: ``42 s``, ``3 min 10 s``, ``2 h 5 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
