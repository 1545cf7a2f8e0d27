"""PotentialText: a text file of a potential, read word by word, strictly; what is wrong is told with its line."""

from __future__ import annotations

import hashlib
import math
import os
from pathlib import Path
from typing import NoReturn

from athanor._values import shown
from athanor.data.elements import number_of_symbol
from athanor.errors import InputError

_MOST_DIGITS = 12
"""Of a number that counts what stands in a file."""


class PotentialText:
    """Words of a file, line by line.

    Parameters
    ----------
    path
        The file.
    kind
        What it should be, for messages.
    comments
        Whether ``#`` begins a comment; empty lines are skipped either way.

    Attributes
    ----------
    digest
        ``sha256:`` and the digest of its bytes.

    Raises
    ------
    InputError
        If there is no such file, or it is no text.
    """

    def __init__(self, path: str | os.PathLike[str], kind: str, *, comments: bool = False) -> None:
        self.path, self.kind = Path(path), kind
        if not self.path.is_file():
            what = (
                "is a folder" if self.path.is_dir() else "is no regular file" if self.path.exists() else "is not there"
            )
            raise InputError(f"`{path}` {what}. Pass the path of {kind}.")
        try:
            content = self.path.read_bytes()
        except OSError as error:
            raise InputError(f"`{path}` can not be read: {error.strerror}.") from error
        self.digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        if b"\0" in content:
            raise InputError(f"`{path}` is no text, so it is not {kind}.")
        self._text = _lines_of(content)
        lines = (line.partition("#")[0] if comments else line for line in self._text)
        self._lines = [(number, words) for number, line in enumerate(lines, 1) if (words := line.split())]
        self._next, self._rest = 0, list[str]()
        self.line = 0
        self._check_units()

    @property
    def at_end(self) -> bool:
        """Whether no words are left."""
        return not self._rest and self._next >= len(self._lines)

    def first_lines(self, count: int) -> str:
        """Return the first lines of the file as one."""
        return " / ".join(line.strip() for line in self._text[:count] if line.strip())

    def words_of(self, line: int) -> list[str]:
        """Return the words of a line by its number, without reading on."""
        return self._text[line - 1].split() if line <= len(self._text) else []

    def skip_comment_lines(self, count: int) -> None:
        """Leave out the first lines of the file, whatever is in them."""
        while self._next < len(self._lines) and self._lines[self._next][0] <= count:
            self._next += 1
        self.line = count

    def peek(self) -> list[str]:
        """Return the words of the next line, which stay; none at the end."""
        return self._lines[self._next][1] if self._next < len(self._lines) else []

    def words(self, expected: str) -> list[str]:
        """Return the words of the next line.

        Parameters
        ----------
        expected
            What should stand there, for the message when the file ends.
        """
        if self._rest:
            self.refuse(f"goes on with {shown(' '.join(self._rest))} where a new line with {expected} should begin")
        if self._next >= len(self._lines):
            self.line = len(self._text)
            self.refuse(f"the file ends where {expected} should follow")
        self.line, words = self._lines[self._next]
        self._next += 1
        return list(words)

    def word(self, expected: str) -> str:
        """Return the next word, from this line or a later one."""
        if not self._rest:
            self._rest = self.words(expected)[::-1]
        return self._rest.pop()

    def numbers(self, count: int, expected: str) -> list[float]:
        """Return the next numbers, which begin on a new line and may go over many."""
        found: list[float] = []
        while len(found) < count:
            words = self.words(f"{expected}, of which {len(found)} of {count} are there")
            if len(words) > count - len(found):
                self.refuse(f"has {len(words)} numbers where {count - len(found)} are left of {expected}")
            found += [self.number(word, expected) for word in words]
        return found

    def number(self, word: str, expected: str) -> float:
        """Return a word as a finite number; exponents of Fortran are read too."""
        try:
            value = float(word.replace("D", "E").replace("d", "e"))
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            self.refuse(f"has {shown(word)} where {expected} should stand")
        return value

    def count(self, word: str, expected: str, at_least: int = 1) -> int:
        """Return a word as a whole number."""
        if not word.isascii() or not word.isdigit() or len(word) > _MOST_DIGITS or int(word) < at_least:
            self.refuse(f"has {shown(word)} where {expected}, a whole number of at least {at_least}, should stand")
        return int(word)

    def positive(self, word: str, expected: str) -> float:
        """Return a word as a number above 0."""
        value = self.number(word, expected)
        if value <= 0.0:
            self.refuse(f"has {shown(word)} where {expected}, above 0, should stand")
        return value

    def element(self, word: str) -> int:
        """Return the atomic number of a symbol."""
        try:
            return number_of_symbol(word)
        except InputError:
            self.refuse(f"has {shown(word)} where the symbol of an element should stand")

    def finish(self) -> None:
        """Refuse a file that goes on."""
        if not self.at_end:
            words = self.word("nothing")
            self.refuse(f"goes on with {shown(words)} where the file should end")

    def refuse(self, what: str) -> NoReturn:
        """Raise InputError about the line that was read last."""
        raise InputError(f"`{self.path}`, line {self.line}: {what}. It should be {self.kind}.")

    def _check_units(self) -> None:
        """Refuse a file whose first line says, as LAMMPS has it, that its numbers are in other units than eV and Å."""
        words = self.words_of(1)
        units = words[words.index("UNITS:") + 1 :][:1] if "UNITS:" in words else []
        if units and units != ["metal"]:
            raise InputError(
                f"`{self.path}` says that it is in the units {shown(units[0])} of LAMMPS; only `metal`, eV and Å, are "
                f"read. Convert its numbers, and write `UNITS: metal` there."
            )


def _lines_of(content: bytes) -> list[str]:
    """Return lines as LAMMPS counts them; what is no UTF-8, such as a name in a comment, is taken for Latin-1."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    text = text.replace("\r\n", "\n").replace("\r", "\n").removesuffix("\n")
    return text.split("\n") if text else []
