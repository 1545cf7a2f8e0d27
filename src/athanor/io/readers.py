"""Frames of structure files, read through ASE behind a fence: what one frame is not, the others do not suffer for.

Extended XYZ, the format of most collections, is cut into frames here, so that a damaged frame costs only itself and
frames that nobody asked for are not parsed. Other formats are read frame by frame until their reader stops.
"""

from __future__ import annotations

import codecs
import io
import re
import reprlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from athanor._optional import OptionalDependency
from athanor.errors import InputError, in_words
from athanor.io.pipes import is_pipe, read_pipe

if TYPE_CHECKING:
    from ase import Atoms

_NEEDED_BY = "Reading structure files"
_BYTE_ORDER_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
_START = 100_000
"""Bytes of a file that are looked at to say what is wrong with it."""
_MOST_DIGITS = 12
"""Of a number of atoms."""


class Frame(NamedTuple):
    """One frame, read or not: ``atoms``, or ``text`` that begins in ``line``, or the ``problem`` with it."""

    atoms: Atoms | None = None
    text: str = ""
    line: int = 1
    problem: str = ""


def frames_of(path: str, shown: str) -> list[Frame]:
    """Return the frames of a file or pipe, those of extended XYZ as text.

    Parameters
    ----------
    path
        The file.
    shown
        What messages call it.

    Raises
    ------
    InputError
        If nothing of it can be read; the text says why.
    OSError
        If it can not be opened.
    """
    content = _content(path, shown)
    frames: list[Frame] = []
    try:
        name = _format_of(path, content)
        if name == "extxyz":
            return list(_cut(_lines_of(path, content), shown))
        _check_promise(path, content, shown)
        frames.extend(Frame(atoms) for atoms in _iread(path, content, name))
    except Exception as error:  # ASE's readers raise whatever comes: AssertionError, KeyError, IndexError, ...
        if not frames:
            raise InputError(_why_not_read(shown, path, content, error)) from error
        frames.append(Frame(problem=_why_not_parsed(f"Frame {len(frames)} of `{shown}`", path, error)))
    return frames


def _check_promise(path: str, content: bytes | None, shown: str) -> None:
    """Raise InputError if a LAMMPS dump promises more atoms than it has room for: ASE would count to the end."""
    size = Path(path).stat().st_size if content is None else len(content)
    promise = re.search(rb"ITEM: NUMBER OF ATOMS\s+(\d+)", _start_of(path, content))
    atoms = int(promise[1][:_MOST_DIGITS]) if promise else 0
    if atoms > size:
        raise InputError(
            f"`{shown}` promises {atoms:,} atoms and has {size:,} bytes. It is damaged or cut off; complete it."
        )


def _start_of(path: str, content: bytes | None) -> bytes:
    if content is not None:
        return content[:_START]
    with open(path, "rb") as stream:
        return stream.read(_START)


def parsed(frame: Frame, number: int, shown: str) -> Frame:
    """Return a frame with its atoms, or with the problem that it has."""
    if frame.atoms is not None or frame.problem:
        return frame
    ase_io = OptionalDependency.ASE.load("io", needed_by=_NEEDED_BY)
    subject = f"Frame {number} of `{shown}`" if number else f"`{shown}`"
    rows = [row.split()[:1] for row in io.StringIO(frame.text)]  # not splitlines, which also ends one at a form feed
    found, promised = max(len(rows) - 2, 0), int(rows[0][0])
    if found < promised:  # which ASE would look for until it has counted to the end
        return Frame(problem=f"{subject} can not be read: it has {found} atoms, expected {promised}. Complete it.")
    try:
        return Frame(ase_io.read(io.StringIO(frame.text), index=0, format="extxyz"))
    except Exception as error:
        symbol = _symbol_of(error)
        if not symbol:
            return Frame(problem=_why_not_parsed(subject, shown, error))
        line = frame.line + next((place for place, row in enumerate(rows[2:], start=2) if row == [symbol]), 0)
        return Frame(problem=_unknown_element(subject, symbol, line))


def _content(path: str, shown: str) -> bytes | None:
    """Return what comes through a pipe, or the text of a file whose start ASE would stumble over; else None."""
    if is_pipe(path):
        return read_pipe(path)
    file = Path(path)
    if file.stat().st_size == 0:
        raise InputError(f"`{shown}` is empty (0 bytes).")
    with file.open("rb") as stream:
        start = stream.read(4)
        mark = next((mark for mark in _BYTE_ORDER_MARKS if start.startswith(mark)), None)
        if mark is None:
            return None
        try:
            return (start + stream.read()).decode(_BYTE_ORDER_MARKS[mark]).encode()
        except UnicodeDecodeError as error:
            raise InputError(f"`{shown}` is not text, or damaged: {error.reason} at byte {error.start}.") from error


def _format_of(path: str, content: bytes | None) -> str:
    """Return ASE's name of the format, by ending and content."""
    formats = OptionalDependency.ASE.load("io.formats", needed_by=_NEEDED_BY)
    if content is None:
        return str(formats.filetype(path))
    stream = io.BytesIO(content)
    stream.name = path
    return str(formats.filetype(stream))


def _iread(path: str, content: bytes | None, name: str) -> Iterator[Atoms]:
    formats = OptionalDependency.ASE.load("io.formats", needed_by=_NEEDED_BY)
    if content is None:
        yield from formats.iread(path, index=":", format=name, do_not_split_by_at_sign=True)
        return
    binary = formats.ioformats[name].isbinary
    stream: Any = io.BytesIO(content) if binary else io.StringIO(content.decode(errors="replace"))
    yield from formats.iread(stream, index=":", format=name)


def _lines_of(path: str, content: bytes | None) -> Iterator[str]:
    """Yield the lines of a text file, which may be compressed; a byte that is no text becomes ``�``."""
    if content is not None:
        yield from io.StringIO(content.decode(errors="replace"))
        return
    formats = OptionalDependency.ASE.load("io.formats", needed_by=_NEEDED_BY)
    stream = formats.open_with_compression(path, "rb")
    with io.TextIOWrapper(stream, encoding="utf-8-sig", errors="replace") as text:
        yield from text


def _cut(lines: Iterator[str], shown: str) -> Iterator[Frame]:
    """Cut extended XYZ into frames. A number alone in a line begins one, whatever the frame before it has promised."""
    numbered = ((number, line) for number, line in enumerate(lines, start=1))
    ahead = next(numbered, None)

    def take() -> str:
        nonlocal ahead
        assert ahead is not None
        line, ahead = ahead[1], next(numbered, None)
        return line

    while ahead is not None:
        if not ahead[1].strip():
            take()
            continue
        first, text = ahead[0], [take()]
        if not _begins_frame(text[0]):
            if "\0" in text[0]:
                raise InputError(f"`{shown}` is not text, or damaged: line {first} holds zero bytes.")
            while ahead is not None and not _begins_frame(ahead[1]):
                take()
            found = reprlib.repr(text[0].strip())
            yield Frame(problem=f"Line {first} of `{shown}` is {found}; a frame begins with its number of atoms.")
            continue
        atoms = int(text[0].strip())  # which takes away more than int does
        if ahead is not None:
            text.append(take())  # the comment may be anything
        while ahead is not None and len(text) < atoms + 2 and not _begins_frame(ahead[1]):
            text.append(take())
        while ahead is not None and ahead[1].lstrip().startswith("VEC"):
            text.append(take())
        yield Frame(text="".join(text), line=first)


def _begins_frame(line: str) -> bool:
    digits = line.strip()
    return digits.isdecimal() and len(digits) <= _MOST_DIGITS


def _why_not_read(shown: str, path: str, content: bytes | None, error: Exception) -> str:
    """Say why nothing of a file could be read, in words of the file and not of the reader."""
    if isinstance(error, InputError):
        return str(error)
    suffix = Path(path).suffix
    if type(error).__name__ == "UnknownFileTypeError":
        return (
            f"`{shown}` has an ending and a content that ASE does not know. "
            f"Convert it to extended XYZ, or give it the ending of its format (.cif, .xyz, .vasp, .json ...)."
        )
    start = _start_of(path, content)
    if b"\0" in start or isinstance(error, UnicodeDecodeError):
        return f"`{shown}` is not text, or damaged: it can not be read as {suffix or 'a structure file'}."
    symbol = _symbol_of(error)
    if symbol:
        lines = start.decode(errors="replace").splitlines()
        line = next((number for number, line in enumerate(lines, start=1) if symbol in line.split()), None)
        return _unknown_element(f"`{shown}`", symbol, line)
    return _why_not_parsed(f"`{shown}`", path, error)


def _why_not_parsed(subject: str, path: str, error: Exception) -> str:
    tells = isinstance(error, ValueError | OSError)  # others are slips of the reader, such as "list index out of range"
    reason = in_words(error).removeprefix(f"{type(error).__name__}: ").removeprefix("ase.io.extxyz: ").rstrip(".")
    kind = Path(path).suffix or "a structure file"
    because = f": {reason}" if tells and str(error) else f" as {kind}: its content does not fit"
    return f"{subject} can not be read{because}. Check its ending and content, or convert it to extended XYZ."


def _symbol_of(error: Exception) -> str:
    """Return what a reader took for the symbol of an element and did not find; empty if it failed otherwise."""
    symbol = error.args[0] if isinstance(error, KeyError) and error.args else None
    return symbol if isinstance(symbol, str) and re.fullmatch("[A-Z][A-Za-z]{0,2}[0-9]*|[0-9]+", symbol) else ""


def _unknown_element(subject: str, symbol: str, line: int | None) -> str:
    from athanor.data.elements import SYMBOLS

    where = f" in line {line}" if line else ""
    letters = symbol.rstrip("0123456789")
    if not letters:
        known = f" ({SYMBOLS[int(symbol)]})" if len(symbol) < 4 and 0 < int(symbol) < len(SYMBOLS) else ""
        return (
            f"{subject} has the number {symbol}{known}{where} where a symbol is expected. Write symbols, or declare "
            f"the column with `Properties=Z:I:1:pos:R:3`."
        )
    if letters != symbol and letters in SYMBOLS:
        return (
            f"{subject} has the label `{symbol}`{where} where a symbol is expected. Write `{letters}`, and labels in a "
            f"column of their own."
        )
    return f"{subject} has the element `{symbol}`{where}, which does not exist. Correct the symbol."
