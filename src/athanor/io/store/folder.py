"""A store that is a folder of files, and every call that changes the disk."""

from __future__ import annotations

import os
import stat
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from athanor.errors import StorageError
from athanor.io._replace import PARTIAL, sync_folder
from athanor.io._store_lock import StoreLock
from athanor.io.store.medium import Log, LogContent, Medium, Row, Source, SyncError
from athanor.io.store.records import LOG_HEADER_BYTES, acknowledged_length, log_header

_READ = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)
_CREATE = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)


@contextmanager
def _sync_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SyncError(error.errno, error.strerror, error.filename) from error


class Disk:
    """Every call that changes a disk, one method each; tests stop, refuse and record them."""

    def create(self, path: Path) -> int:
        """Open a file to write, making it if it is absent; returns a descriptor."""
        return os.open(path, _CREATE, 0o666)

    def write(self, descriptor: int, data: bytes | memoryview, offset: int) -> None:
        """Write all of `data` at `offset`."""
        view = memoryview(data)
        while view:
            count = os.pwrite(descriptor, view, offset)
            view, offset = view[count:], offset + count

    def truncate(self, descriptor: int, size: int) -> None:
        """Cut a file."""
        os.ftruncate(descriptor, size)

    def sync(self, descriptor: int) -> None:
        """Bring a file to the disk."""
        getattr(os, "fdatasync", os.fsync)(descriptor)

    def rename(self, old: Path, new: Path) -> None:
        """Give a file its name, in place of another one."""
        os.replace(old, new)

    def remove(self, path: Path) -> None:
        """Remove a file."""
        path.unlink(missing_ok=True)

    def close(self, descriptor: int) -> None:
        """Give a descriptor back."""
        os.close(descriptor)

    def make_folder(self, path: Path) -> None:
        """Make a folder."""
        path.mkdir(exist_ok=True)

    def remove_folder(self, path: Path) -> None:
        """Remove a folder that is empty."""
        path.rmdir()

    def sync_folder(self, path: Path) -> None:
        """Bring the names in a folder to the disk."""
        sync_folder(path)


class Folder(Medium):
    """A folder of files.

    Parameters
    ----------
    root
        The folder; made by the first write.
    synced
        Whether `settle` and `Log.sync` wait for the disk.
    disk
        The calls that change it.
    """

    def __init__(self, root: Path, *, synced: bool = True, disk: Disk | None = None) -> None:
        self.root, self.synced, self.where = root, synced, f"`{root}`"
        self.disk = disk or Disk()
        self._touched: set[Path] = set()
        self._own: set[Path] = set()
        self._is_named = False

    def _path(self, key: str) -> Path:
        """The file of a key; what was tampered with must not lead out of the folder."""
        parts = key.split("/")
        if any(part in ("", ".", "..") for part in parts) or "\\" in key or "\0" in key:
            raise StorageError(
                f"{self.where} names `{key}`, which leads out of the store. It is damaged; do not use it."
            )
        folder = self.root
        for part in parts[:-1]:
            folder = folder / part
            if folder not in self._own:
                if folder.is_symlink():
                    raise StorageError(f"`{folder}` is a link, which may lead out of the store. Do not use this store.")
                if folder.is_dir():
                    self._own.add(folder)
        return folder / parts[-1]

    def _open(self, key: str) -> int | None:
        path = self._path(key)
        try:
            descriptor = os.open(path, _READ)
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                return descriptor
            os.close(descriptor)
            raise OSError(None, "it is a pipe, a device or a folder", str(path))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise StorageError(f"`{path}` can not be read: {error.strerror or error}.") from error

    def read(self, key: str) -> bytes | None:
        """See `Medium.read`."""
        descriptor = self._open(key)
        if descriptor is None:
            return None
        with os.fdopen(descriptor, "rb") as file:
            return file.read()

    def open(self, key: str) -> Source | None:
        """See `Medium.open`."""
        if key.endswith(".log") and self._path(key).is_dir():  # see `read_log`
            return Row(len(self.list_keys(f"{key}/")), self.identity(key))
        descriptor = self._open(key)
        return None if descriptor is None else _File(descriptor)

    def _folder_of(self, path: Path) -> None:
        """Make the folder of a file."""
        missing = []
        folder = path.parent
        while not folder.is_dir() and folder != folder.parent:
            missing.append(folder)
            folder = folder.parent
        for each in reversed(missing):
            self.disk.make_folder(each)
            self._touched.add(each.parent)

    @contextmanager
    def _replacing(self, path: Path) -> Iterator[int]:
        """Give a descriptor; what is written to it becomes the file `path` if the block ends well."""
        self._folder_of(path)
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}{PARTIAL}")
        descriptor = self.disk.create(temporary)
        try:
            try:
                yield descriptor
                self.sync(descriptor)
            finally:
                os.close(descriptor)
            self.disk.rename(temporary, path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
        self._touched.add(path.parent)

    def put(self, key: str, value: bytes) -> None:
        """See `Medium.put`."""
        with self._replacing(self._path(key)) as descriptor:
            self.disk.write(descriptor, value, 0)

    def sync(self, descriptor: int) -> None:
        """Bring a file to the disk, if that is asked for.

        Raises
        ------
        SyncError
            If the disk refuses.
        """
        if self.synced:
            with _sync_errors():
                self.disk.sync(descriptor)

    def settle(self) -> None:
        """See `Medium.settle`."""
        touched, self._touched = self._touched, set()
        if self.synced:
            with _sync_errors():
                if not self._is_named:  # the name of the folder, which may be new as well; where we may look at it
                    for folder in list(self.root.absolute().parents)[:2]:
                        with suppress(PermissionError):
                            self.disk.sync_folder(folder)
                    self._is_named = True
                for folder in sorted(touched, key=lambda path: len(path.parts)):
                    self.disk.sync_folder(folder)

    def delete(self, key: str) -> None:
        """See `Medium.delete`."""
        path = self._path(key)
        self.disk.remove(path)
        self._touched.discard(path.parent)
        folder = path.parent
        while folder != self.root:  # an empty folder says nothing
            try:
                folder.rmdir()
            except OSError:
                break
            self._own.discard(folder)
            self._touched.discard(folder)
            folder = folder.parent

    def list_keys(self, prefix: str = "") -> list[str]:
        """See `Medium.list_keys`."""
        start = self.root if not prefix else self._path(f"{prefix.rstrip('/')}/x").parent
        if start.is_file():
            return [prefix]
        found = []
        for folder, _, names in os.walk(start):
            base = Path(folder).relative_to(self.root)
            found += [(base / name).as_posix() for name in names]
        return sorted(key for key in found if key.startswith(prefix))

    def create_log(self, key: str, first: bytes = b"") -> Log:
        """See `Medium.create_log`."""
        self.put(key, log_header(len(first)) + first)
        return _FileLog(self, self.disk.create(self._path(key)), len(first), len(first))

    def open_log(self, key: str, size: int) -> Log:
        """See `Medium.open_log`."""
        descriptor = self.disk.create(self._path(key))
        self.disk.truncate(descriptor, LOG_HEADER_BYTES + size)  # the rest was not acknowledged, and never shall be
        return _FileLog(self, descriptor, size, -1)

    def read_log(self, key: str) -> LogContent | None:
        """See `Medium.read_log`."""
        if self._path(key).is_dir():  # a copy of a store of objects; read only, as nothing is appended to a folder
            return self.read_parts(key)
        raw = self.read(key)
        if raw is None:
            return None
        body = raw[LOG_HEADER_BYTES:]
        try:
            return LogContent(body, acknowledged_length(raw, f"`{self._path(key)}`"))
        except StorageError as error:
            return LogContent(body, 0, str(error))

    def lock(self) -> StoreLock:
        """See `Medium.lock`."""
        return StoreLock(str(self.root.resolve()), self.root, self.where)

    def room(self, prefix: str) -> int | None:
        """See `Medium.room`."""
        folder = self._path(f"{prefix}/x").parent
        return sum(each.stat(follow_symlinks=False).st_size for each in os.scandir(folder)) if folder.is_dir() else 0

    def bytes_of(self, keys: Iterable[str]) -> int:
        """See `Medium.bytes_of`."""
        return sum(self._path(key).stat(follow_symlinks=False).st_size for key in keys)

    def identity(self, key: str) -> object:
        """See `Medium.identity`."""
        try:
            found = os.stat(self._path(key))
        except OSError:
            return None
        return found.st_dev, found.st_ino


class _Descriptor:
    """What the system gave to reach a file; given back once."""

    _descriptor: int

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __del__(self) -> None:
        self.close()


class _File(_Descriptor, Source):
    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        found = os.fstat(descriptor)
        self.size, self.identity = found.st_size, (found.st_dev, found.st_ino)

    def read(self, start: int, count: int) -> bytes:
        """See `Medium.read`."""
        return os.pread(self._descriptor, count, start)


class _FileLog(_Descriptor, Log):
    """A file: a header that says how much is acknowledged, and records behind it."""

    def __init__(self, folder: Folder, descriptor: int, size: int, acknowledged: int) -> None:
        self._folder, self._descriptor = folder, descriptor
        self.size, self._acknowledged = size, acknowledged

    def append(self, record: bytes) -> None:
        self._folder.disk.write(self._descriptor, record, LOG_HEADER_BYTES + self.size)
        self.size += len(record)

    def sync(self) -> None:
        if self._acknowledged == self.size:
            return
        self._folder.sync(self._descriptor)
        # reaches the disk with the next sync; the bytes that it speaks of are there already
        self._folder.disk.write(self._descriptor, log_header(self.size), 0)
        self._acknowledged = self.size
