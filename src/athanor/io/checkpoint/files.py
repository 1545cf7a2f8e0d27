"""One checkpoint: a folder with the text of a state, its tensors, and the digests of both.

``state.json`` holds the tree and the table of tensors, ``tensors.bin`` their bytes, one behind the other, and
``SHA256SUMS`` the digests, as ``sha256sum -c`` reads them. Nothing is allocated before sizes were compared, and nothing
is taken from a file whose digest is another one.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch

from athanor.errors import StorageError
from athanor.io.checkpoint.tensors import Row, bytes_of, read_tensors
from athanor.io.checkpoint.tree import MOST_TEXT, decode, encode, from_text, to_text
from athanor.io.store.folder import Disk, Folder
from athanor.io.store.medium import Source

FORMAT, VERSION = "athanor-checkpoint", 1
STATE, TENSORS, DIGESTS = "state.json", "tensors.bin", "SHA256SUMS"
FILES = (STATE, TENSORS, DIGESTS)
_MOST_DIGESTS = 4096


class DamagedError(StorageError):
    """A file of a checkpoint is not what was written."""


class OtherVersionError(StorageError):
    """A checkpoint of another version of athanor, which is whole."""


def write_files(folder: Path, tree: Any, disk: Disk) -> None:
    """Write a checkpoint into a folder that is there, and bring it to the disk.

    Raises
    ------
    ArgumentError
        If the tree holds what can not be stored, or too much text.
    OSError
        If the disk refuses.
    """
    tensors: list[torch.Tensor] = []

    def put(tensor: torch.Tensor) -> int:
        tensors.append(tensor)
        return len(tensors) - 1

    encoded = encode(tree, put)
    table = [Row.of(tensor) for tensor in tensors]
    document = {"format": FORMAT, "version": VERSION, "tensors": [[row.dtype, [*row.shape]] for row in table]}
    text = to_text({**document, "tree": encoded})
    digests = {
        STATE: _write(folder / STATE, [text], disk),
        TENSORS: _write(folder / TENSORS, bytes_of(tensors), disk),
    }
    _write(folder / DIGESTS, ["".join(f"{digest}  {name}\n" for name, digest in digests.items()).encode()], disk)
    disk.sync_folder(folder)


def _write(path: Path, parts: Any, disk: Disk) -> str:
    """Write a file, bring it to the disk, and return its digest."""
    found, place = hashlib.sha256(), 0
    descriptor = disk.create(path)
    try:
        for part in parts:
            disk.write(descriptor, part, place)
            found.update(part)
            place += len(part)
        disk.sync(descriptor)
    finally:
        disk.close(descriptor)
    return found.hexdigest()


def read_files(folder: Path) -> Any:
    """Return the tree of a checkpoint.

    Raises
    ------
    StorageError
        If a file is missing, damaged, no regular file, or not what its digest says: which, and what was found.
    OtherVersionError
        If another version has written it.
    """
    if folder.is_symlink() or not folder.is_dir():
        raise StorageError(f"`{folder}` is no folder.")
    place = Folder(folder)
    digests = _digests(place)
    text = _read_whole(place, STATE, MOST_TEXT)
    if hashlib.sha256(text).hexdigest() != digests[STATE]:
        raise _damaged(folder, STATE, f"its digest is not that of `{DIGESTS}`")
    try:
        return _tree_of(place, from_text(text), digests[TENSORS])
    except (OtherVersionError, DamagedError):
        raise
    except StorageError as error:
        raise _damaged(folder, STATE, str(error)) from error


def _tree_of(place: Folder, document: Any, digest: str) -> Any:
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise StorageError("it is no state of a checkpoint")
    if document.get("version") != VERSION:
        raise OtherVersionError(
            f"`{place.root / STATE}` is of version {document.get('version')!r} of the format; this athanor reads "
            f"{VERSION}. Go on with the athanor that wrote it."
        )
    table = document.get("tensors")
    if not isinstance(table, list) or "tree" not in document:
        raise StorageError("it has no table of tensors")
    tensors = _read_tensors(place, [Row.parse(entry) for entry in table], digest)
    left: dict[int, torch.Tensor] = dict(enumerate(tensors))

    def take(number: int) -> torch.Tensor:
        if number not in left:
            raise StorageError(f"it names tensor {number} twice, or there is none")
        return left.pop(number)

    tree = decode(document["tree"], take)
    if left:
        raise StorageError(f"it names {len(left)} tensors nowhere")
    return tree


def _read_tensors(place: Folder, rows: list[Row], digest: str) -> list[torch.Tensor]:
    source = _open(place, TENSORS)
    try:
        wanted = sum(row.size for row in rows)
        if source.size != wanted:
            raise _damaged(place.root, TENSORS, f"it has {source.size:,} bytes; `{STATE}` says {wanted:,}")
        found = hashlib.sha256()
        try:
            tensors = read_tensors(rows, source.read, found.update)
        except (StorageError, RuntimeError) as error:
            raise _damaged(place.root, TENSORS, str(error)) from error
    finally:
        source.close()
    if found.hexdigest() != digest:
        raise _damaged(place.root, TENSORS, f"its digest is not that of `{DIGESTS}`")
    return tensors


def _digests(place: Folder) -> dict[str, str]:
    lines = _read_whole(place, DIGESTS, _MOST_DIGESTS).decode("ascii", "replace").split("\n")
    found = dict(line.split("  ", 1)[::-1] for line in lines if "  " in line)
    if found.keys() != {STATE, TENSORS} or lines[-1] or len(lines) != 3:
        raise _damaged(place.root, DIGESTS, f"it does not hold the digests of `{STATE}` and `{TENSORS}`")
    return found


def _open(place: Folder, name: str) -> Source:
    source = place.open(name)
    if source is None:
        raise _damaged(place.root, name, "it is missing")
    return source


def _read_whole(place: Folder, name: str, most: int) -> bytes:
    source = _open(place, name)
    try:
        if source.size > most:
            raise _damaged(place.root, name, f"it has {source.size:,} bytes, more than any has")
        return source.read(0, source.size)
    finally:
        source.close()


def _damaged(folder: Path, name: str, what: str) -> DamagedError:
    return DamagedError(f"`{folder / name}` is damaged: {what}.")
