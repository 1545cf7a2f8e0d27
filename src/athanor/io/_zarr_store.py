"""Reach the bytes of a store: paths, dictionaries and Zarr stores behind one small class. Knows nothing of the layout.

zarr is imported when the first store is opened. Plain keys of a local store are read and written as files without
zarr's event loop: that is faster, and still works while the interpreter shuts down.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import numpy as np

from athanor.errors import InputError, OptionalDependencyError, StorageError
from athanor.io._replace import replacing
from athanor.io._store_lock import StoreLock
from athanor.io.regular_file import open_regular

_WRITE_EVERY_CHUNK: Any = {"write_empty_chunks": True}
"""zarr leaves out, and removes, chunks that hold only the fill value; then a missing one would be no sign of damage."""


def _remote(url: str) -> Any:
    """Open a store by a URL, which fsspec and what it needs for the protocol must understand."""
    import zarr.storage

    try:
        return zarr.storage.FsspecStore.from_url(url)
    except ImportError as error:
        raise OptionalDependencyError(
            f"`{url}` needs a package that is not installed: {error}. Install it with pip, or use a local path."
        ) from error
    except ValueError as error:
        raise InputError(f"`{url}` is not an address of a store: {error}. Use a local path.") from error


class RawStore:
    """A Zarr store, its keys as bytes and its arrays.

    Parameters
    ----------
    store
        A path (``str`` or ``Path``), a URL that fsspec understands, a ``dict``, a zarr ``Store`` or ``StorePath``.
    read_only
        Refuse every write.

    Raises
    ------
    InputError
        If `store` is none of these.
    """

    def __init__(self, store: Any, *, read_only: bool = False) -> None:
        import zarr.storage
        from zarr.abc.store import Store

        from athanor.io._local_store import RegularFiles

        self._prefix = ""
        self.read_only = read_only
        self.where: str
        self.store: Any
        if isinstance(store, zarr.storage.StorePath):
            self._prefix = f"{store.path}/" if store.path else ""
            store = store.store
        if isinstance(store, str) and "://" in store:
            self.where, self.store = f"`{store}`", _remote(store)
        elif isinstance(store, str | Path):
            if not str(store).strip():
                raise InputError("`store` is empty; pass the path of a folder, for example `frames.zarr`.")
            path = Path(os.path.expanduser(store))
            if path.exists() and not path.is_dir():
                raise StorageError(f"`{path}` is a file; a trajectory store is a folder.")
            self.where, self.store = f"`{path}`", RegularFiles(path)
        elif isinstance(store, Store):
            self.where, self.store = f"`{store}`", store
        elif isinstance(store, MutableMapping):
            self.where, self.store = "the store in memory", zarr.storage.MemoryStore(store)
        else:
            raise InputError(
                f"`store` is a {type(store).__name__}; pass a path, a dict, or a zarr store (for example LocalStore)."
            )
        self._folder = Path(self.store.root) if type(self.store) in (zarr.storage.LocalStore, RegularFiles) else None

    def lock(self) -> StoreLock:
        """Return the right to write to this store, to be acquired."""
        folder = None if self._folder is None else self._folder / self._prefix
        place = str(self.store) if folder is None else str(folder.resolve())
        return StoreLock(f"{place} {self._prefix}", folder, self.where)

    def _sync(self, awaitable: Any) -> Any:
        from zarr.core.sync import sync

        return sync(awaitable)

    def _path(self, key: str) -> Path:
        """Return the file of a key of a local store; a record that was tampered with must not lead out of it."""
        assert self._folder is not None
        if key.startswith("/") or ".." in key.split("/"):
            raise StorageError(
                f"{self.where} names `{key}`, which leads out of the store. It is damaged; do not use it."
            )
        return self._folder / (self._prefix + key)

    def get(self, key: str) -> bytes | None:
        """Bytes under a key, or None."""
        if self._folder is not None:
            try:
                with open_regular(self._path(key)) as file:
                    return file.read()
            except (FileNotFoundError, NotADirectoryError):
                return None
            except OSError as error:
                raise StorageError(f"`{self._path(key)}` can not be read: {error.strerror or error}.") from error
        from zarr.core.buffer import default_buffer_prototype

        found = self._sync(self.store.get(self._prefix + key, default_buffer_prototype()))
        return None if found is None else found.to_bytes()

    def set(self, key: str, value: bytes) -> None:
        """Put bytes under a key; a local file is replaced whole, by rename."""
        if self._folder is not None:
            path = self._path(key)
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as partial:
                partial.write_bytes(value)
            return
        from zarr.core.buffer import default_buffer_prototype

        buffer = default_buffer_prototype().buffer.from_bytes(value)
        self._sync(self.store.set(self._prefix + key, buffer))

    def delete(self, key: str) -> None:
        """Remove a key; no error if it is absent."""
        if self._folder is not None:
            self._path(key).unlink(missing_ok=True)
        else:
            self._sync(self.store.delete(self._prefix + key))

    def delete_dir(self, prefix: str) -> None:
        """Remove all keys below a prefix."""
        self._sync(self.store.delete_dir((self._prefix + prefix).rstrip("/")))

    def keys(self, prefix: str = "") -> list[str]:
        """All keys below a prefix, sorted."""

        async def collect() -> list[str]:
            return [key async for key in self.store.list_prefix(self._prefix + prefix)]

        return sorted(key.removeprefix(self._prefix) for key in self._sync(collect()))

    def create_group(self, path: str) -> None:
        """Make a group, so that plain Zarr readers see the hierarchy."""
        import zarr

        zarr.create_group(self.store, path=(self._prefix + path).rstrip("/"), zarr_format=3, overwrite=False)

    def create_array(
        self, path: str, *, dtype: np.dtype, shape: tuple[int, ...], chunks: tuple[int, ...], fill: Any, level: int
    ) -> Any:
        """Make an array filled with `fill`; an older one of this name is replaced. Chunks end with a CRC32C."""
        import zarr
        from zarr.codecs import Crc32cCodec, ZstdCodec

        return zarr.create_array(
            self.store,
            name=self._prefix + path,
            shape=shape,
            chunks=chunks,
            dtype=dtype,
            fill_value=fill,
            compressors=[ZstdCodec(level=level), Crc32cCodec()],
            zarr_format=3,
            overwrite=True,
            config=_WRITE_EVERY_CHUNK,
        )

    def open_array(self, path: str) -> Any:
        """Open an array.

        Raises
        ------
        StorageError
            If it is missing or damaged.
        """
        import zarr

        try:
            found: Any = zarr.open_array(
                self.store, path=self._prefix + path, mode="r" if self.read_only else "r+", zarr_format=3
            )
        except (FileNotFoundError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise StorageError(f"Array `{path}` of {self.where} is missing or damaged ({error}).") from error
        # not an argument of open_array, which has forgotten it in some versions
        return zarr.Array(zarr.AsyncArray(found.metadata, found.store_path, config=_WRITE_EVERY_CHUNK))
