"""A folder of checkpoints, numbered in the order of writing, of which the newest few are kept.

What does not change any more need not stand in each of them: it is a part, written once, which they name.

A checkpoint is written under another name, brought to the disk with all its files, renamed, and its new name brought to
the disk; only then are older ones removed. Whatever happens in between, the newest one that is whole is the one before
or the new one.
"""

from __future__ import annotations

import re
import uuid
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from athanor import _runtime
from athanor._values import check_whole
from athanor.errors import AthanorWarning, MissingFileError, StorageError
from athanor.io._replace import PARTIAL
from athanor.io._store_lock import StoreLock
from athanor.io.checkpoint.files import FILES, OtherVersionError, read_files, write_files
from athanor.io.store.folder import Disk

_NUMBER, _PART = re.compile(r"[0-9]{8}"), re.compile(r"part-([0-9]{8})")
_SHOWN = 5


class LoadedTree(NamedTuple):
    """A checkpoint that was read.

    Parameters
    ----------
    number
        Its number.
    path
        Its folder.
    tree
        What it holds.
    newest
        Number of the newest one that was there, whole or not.
    """

    number: int
    path: Path
    tree: Any
    newest: int


class CheckpointFolder:
    """Write checkpoints into a folder, and read the newest one that is whole.

    Parameters
    ----------
    path
        The folder; made by the first write.
    keep
        How many are kept.
    disk
        The calls that change it.

    Examples
    --------
    >>> import tempfile
    >>> from athanor.io.checkpoint import CheckpointFolder
    >>> folder = CheckpointFolder(tempfile.mkdtemp())
    >>> with folder.held():
    ...     number = folder.write({"step": 3})
    >>> folder.load().tree
    {'step': 3}
    """

    def __init__(self, path: Any, keep: int = 2, *, disk: Disk | None = None) -> None:
        self.path, self.keep = Path(path).expanduser().absolute(), check_whole(keep, "keep", 1)
        self._disk = disk or Disk()
        self._lock = StoreLock(
            str(self.path.resolve()), self.path, f"`{self.path}`", user="run", otherwise="give this run another folder"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return CheckpointFolder, (self.path, self.keep)  # a copy has to get the right to write for itself

    def __repr__(self) -> str:
        return f"CheckpointFolder({str(self.path)!r}, keep={self.keep})"

    # -- one run at a time ---------------------------------------------------------------------------------------

    def acquire(self) -> None:
        """Keep other runs away until `release`, or the end of the program; nothing happens if this was done before.

        Raises
        ------
        StorageError
            If another one has the folder, or it can not be made.
        """
        with _told(self.path, "can not be used"):
            if not self._lock.is_held:
                self._make_root()
                self._lock.acquire()

    def release(self) -> None:
        """Let others use the folder."""
        self._lock.release()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Have the folder for as long as the context lasts."""
        self.acquire()
        try:
            yield
        finally:
            self.release()

    # -- writing -------------------------------------------------------------------------------------------------

    def write(self, tree: Any) -> int:
        """Write a checkpoint, remove those that are too many, and return its number.

        Raises
        ------
        ArgumentError
            If the tree holds what can not be stored; nothing was changed then.
        StorageError
            If the folder can not be written, or another run has it. The checkpoints before are as they were.
        """
        self.acquire()
        with _told(self.path, "can not be written"):
            self._remove_partial()
            number = max(self.numbers(), default=0) + 1
            self._write_as(self.path / f"{number:08d}", tree)
        with suppress(OSError):  # they go with the next one
            self._remove_older(self.keep)
        return number

    def _remove_older(self, keep: int) -> None:
        for old in self.numbers()[:-keep]:
            self._remove(self.path / f"{old:08d}")

    def write_part(self, tree: Any) -> int:
        """Write a part, and return its number, which no part had before; raises as `write` does."""
        self.acquire()
        with _told(self.path, "can not be written"):
            number = max((*self.parts(), *self.numbers()), default=0) + 1
            self._write_as(self._part(number), tree)
        return number

    def keep_parts(self, numbers: Collection[int]) -> None:
        """Remove the parts but these; those that can not be removed now go with the next ones."""
        self.acquire()
        with suppress(OSError):
            for number in self.parts():
                if number not in numbers:
                    self._remove(self._part(number))

    def keep_newest(self) -> None:
        """Remove the checkpoints but the newest; those that can not be removed stay."""
        self.acquire()
        with suppress(OSError):
            self._remove_older(1)

    def _part(self, number: int) -> Path:
        return self.path / f"part-{number:08d}"

    def _write_as(self, final: Path, tree: Any) -> None:
        temporary = final.with_name(f".{final.name}.{uuid.uuid4().hex[:12]}{PARTIAL}")
        self._disk.make_folder(temporary)
        try:
            write_files(temporary, tree, self._disk)
            self._disk.rename(temporary, final)
        except BaseException:
            with suppress(OSError):
                self._remove_folder(temporary)
            raise
        self._disk.sync_folder(self.path)

    def _make_root(self) -> None:
        """Make the folder, and bring its name to the disk: it may be new. What we may not open is older."""
        missing = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
        for folder in reversed(missing):
            self._disk.make_folder(folder)
        for folder in {folder.parent for folder in missing} | {self.path.parent}:
            with suppress(PermissionError):
                self._disk.sync_folder(folder)

    def _remove(self, folder: Path) -> None:
        """Remove a checkpoint; one that is removed half is none."""
        gone = folder.with_name(f".{folder.name}{PARTIAL}")
        self._disk.rename(folder, gone)
        self._remove_folder(gone)

    def _remove_folder(self, folder: Path) -> None:
        for name in FILES:
            self._disk.remove(folder / name)
        self._disk.remove_folder(folder)

    def _remove_partial(self) -> None:
        """Remove what a program left that ended in the midst of a write, or of a removal."""
        for entry in (*self.path.glob(f".[0-9]*{PARTIAL}"), *self.path.glob(f".part-[0-9]*{PARTIAL}")):
            if entry.is_dir() and not entry.is_symlink():
                with suppress(OSError):  # somebody put something into it
                    self._remove_folder(entry)

    def drop_after(self, number: int) -> None:
        """Remove the checkpoints behind one, from which a run goes on: they are of another future.

        Raises
        ------
        StorageError
            If that is refused, or another run has the folder.
        """
        self.acquire()
        with _told(self.path, "can not be changed"):
            for later in self.numbers():
                if later > number:
                    self._remove(self.path / f"{later:08d}")
            self._disk.sync_folder(self.path)

    # -- reading -------------------------------------------------------------------------------------------------

    def numbers(self) -> list[int]:
        """Return the numbers of the checkpoints, in order, whole or not; none if there is no folder."""
        return sorted(int(name) for name in self._names() if _NUMBER.fullmatch(name))

    def bytes_of(self, number: int) -> int:
        """Return how large a checkpoint is."""
        return sum(entry.stat().st_size for entry in (self.path / f"{number:08d}").iterdir())

    def parts(self) -> list[int]:
        """Return the numbers of the parts, in order, whole or not."""
        return sorted(int(found[1]) for name in self._names() if (found := _PART.fullmatch(name)))

    def _names(self) -> list[str]:
        try:
            return [entry.name for entry in self.path.iterdir()]
        except (FileNotFoundError, NotADirectoryError):
            return []

    def load_part(self, number: int) -> Any:
        """Return what a part holds.

        Raises
        ------
        StorageError
            If it is missing or damaged: which file, and what was found.
        """
        with _told(self.path, "can not be read"):
            return read_files(self._part(number))

    def load(self, number: int | None = None) -> LoadedTree:
        """Return the newest checkpoint that is whole, or the one of a number.

        Raises
        ------
        MissingFileError
            If there is none.
        StorageError
            If none is whole: which file, and what was found. Or if the newest is of another version of athanor.

        Warns
        -----
        AthanorWarning
            Of those that are passed over, as they are damaged.
        """
        with _told(self.path, "can not be read"):
            there = self.numbers()
        if not there or (number is not None and number not in there):
            what = "no checkpoint" if number is None else f"no checkpoint {number}"
            raise MissingFileError(f"`{self.path}` holds {what}. Give the folder that a `Checkpoint` hook wrote to.")
        problems: list[str] = []
        for each in reversed(there) if number is None else [number]:
            path = self.path / f"{each:08d}"
            try:
                tree = read_files(path)
            except OtherVersionError:
                raise
            except (StorageError, OSError) as error:
                problems.append(
                    str(error) if isinstance(error, StorageError) else f"`{path}` can not be read: {error}."
                )
                continue
            if problems:
                text = f"The run goes on from checkpoint {each} of `{self.path}`. " + " ".join(problems[:_SHOWN])
                warnings.warn(AthanorWarning(text), stacklevel=_runtime.level_of_caller())
            return LoadedTree(each, path, tree, there[-1])
        raise StorageError(
            f"No checkpoint of `{self.path}` can be used. {' '.join(problems[:_SHOWN])} Start the run anew, in another "
            f"folder, or put back a copy of the checkpoint."
        )


@contextmanager
def _told(path: Path, what: str) -> Iterator[None]:
    """Raise what the system says as an error of storage."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"`{path}` {what}: {error.strerror or error}. The checkpoints in it are as they were. Make room, or give "
            f"another folder."
        ) from error
