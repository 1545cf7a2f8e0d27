"""What a store may be given as: a path, a dictionary, a store of zarr, an address; and whether it can be one."""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

from athanor.errors import InputError, OptionalDependencyError, StorageError
from athanor.io._replace import PARTIAL
from athanor.io._store_lock import LOCK_KEY
from athanor.io.store.folder import Folder
from athanor.io.store.layout import FORMAT_KEY, KEYS_OF_GROUPS, StoreExistsError, check_format, version_of
from athanor.io.store.medium import Medium


def open_medium(store: Any, *, synced: bool = True) -> Medium:
    """Return the medium of a store; nothing is made or changed.

    Parameters
    ----------
    store
        A path (``str`` or ``Path``), a URL, a store of obstore, a ``dict``, a zarr ``Store`` or ``StorePath``.
    synced
        Whether what is written to a folder waits for the disk.

    Raises
    ------
    InputError
        If `store` is none of these.
    OptionalDependencyError
        If it needs a package that is not installed.
    StorageError
        If the path is a file.
    """
    if isinstance(store, Medium):
        return store
    if isinstance(store, str | Path) and "://" not in str(store):
        if not str(store).strip():
            raise InputError("`store` is empty; pass the path of a folder, for example `frames.zarr`.")
        path = Path(os.path.expanduser(store))
        if path.exists() and not path.is_dir():
            raise StorageError(f"`{path}` is a file; a trajectory store is a folder.")
        return Folder(path, synced=synced)
    from athanor.io.store.remote import is_obstore, is_remote, open_obstore, open_remote

    if isinstance(store, str) and is_remote(store):
        return open_remote(store)
    import zarr.storage
    from zarr.abc.store import Store

    from athanor.io.store.objects import ZarrObjects

    prefix = ""
    if isinstance(store, zarr.storage.StorePath):
        prefix = f"{store.path}/" if store.path else ""
        store = store.store
    if isinstance(store, zarr.storage.ObjectStore) and not store.read_only:
        store = store.store
    if is_obstore(store):
        return open_obstore(store, prefix, synced=synced)
    if type(store) is zarr.storage.LocalStore:
        return Folder(Path(store.root) / prefix, synced=synced)
    if isinstance(store, str):
        return ZarrObjects(_remote(store), prefix, f"`{store}`")
    if isinstance(store, Store):
        return ZarrObjects(store, prefix, f"`{store}`")
    if isinstance(store, MutableMapping):
        return ZarrObjects(zarr.storage.MemoryStore(store), prefix, "the store in memory")
    raise InputError(
        f"`store` is a {type(store).__name__}; pass a path, a dict, or a zarr store (for example LocalStore)."
    )


def holds_store(medium: Medium, mode: str) -> bool:
    """Whether there is a store, for a writer that opens it in `mode`. Changes nothing.

    Raises
    ------
    StorageError
        If it can not be opened so, or there is something else.
    """
    found = medium.read(FORMAT_KEY)
    if found is not None:
        version_of(found, medium.where) if mode == "w" else check_format(found, medium.where)
        if mode == "x":
            raise StoreExistsError(
                f"{medium.where} holds a trajectory already. Choose another place, or open it to append."
            )
        return True
    ours = {LOCK_KEY, *KEYS_OF_GROUPS}
    if any(key not in ours and not key.endswith(PARTIAL) for key in medium.list_keys()):
        if medium.read(FORMAT_KEY) is not None:  # made since we looked
            return holds_store(medium, mode)
        raise StorageError(
            f"{medium.where} is not empty and not a trajectory store; nothing was changed. Choose another place."
        )
    return False


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
