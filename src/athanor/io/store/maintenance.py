"""Repair a store, and write it anew beside itself: for another version of the format, or without gaps."""

from __future__ import annotations

import ctypes
import itertools
import os
import shutil
import uuid
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from athanor.errors import InputError, StorageError
from athanor.io._replace import PARTIAL
from athanor.io.store.config import Durability, TrajectoryConfig
from athanor.io.store.folder import Folder
from athanor.io.store.layout import CONSTANTS, FORMAT_KEY, StoreNotFoundError, version_of
from athanor.io.store.medium import Medium
from athanor.io.store.places import open_medium
from athanor.io.store.writer import TrajectoryWriter
from athanor.io.trajectory import TrajectoryReader

_ATOMS_AT_ONCE = 1 << 18
_EXCHANGE = 2


@dataclass(frozen=True, slots=True)
class Repair:
    """What became of a store.

    Attributes
    ----------
    frames
        Frames that can be read.
    lost
        What is lost, one line each.
    """

    frames: int
    lost: list[str]


def repair_store(store: object) -> Repair:
    """Keep what can be read of a store, so that it can be read and continued again.

    Records behind a damaged one are given up; if the log is missing, all frames that are not wholly in shards. Damaged
    chunks stay as they are: `check_store` names them.

    Raises
    ------
    StorageError
        If not even a beginning can be read.
    """
    writer = TrajectoryWriter(open_medium(store), mode="repair", durability=Durability(), config=TrajectoryConfig())
    return Repair(lost=writer.repair(), frames=writer.written)


def version_of_store(medium: Medium) -> int:
    """Version of the format of a store.

    Raises
    ------
    StoreNotFoundError
        If there is none.
    """
    found = medium.read(FORMAT_KEY)
    if found is None:
        raise StoreNotFoundError(f"{medium.where} holds no trajectory (no `{FORMAT_KEY}` there). Check the path.")
    return version_of(found, medium.where)


def rewrite_store(store: object, config: TrajectoryConfig | None = None) -> int:
    """Write every frame into a new store of today's version, then put it in the place of the old one.

    At any moment either the old store is there, whole, or the new one. Returns the number of frames.

    Raises
    ------
    InputError
        If it is not a folder.
    StorageError
        If it can not be read or written; the old one is as it was then.
    """
    medium = open_medium(store)
    if not isinstance(medium, Folder):
        raise InputError(
            f"{medium.where} is not a folder; only those are written anew. Copy it into one, and do it there."
        )
    reader = TrajectoryReader(medium)
    lock = medium.lock()
    root = medium.root.resolve()  # where it is, if the path is that of a link
    beside = root.with_name(f".{root.name}.{uuid.uuid4().hex[:12]}{PARTIAL}")
    try:
        lock.acquire()
        reader.refresh()  # what came before nobody else could write
        writer = TrajectoryWriter(
            Folder(beside), mode="x", durability=Durability(), config=config or TrajectoryConfig()
        )
        fields = tuple(replace(item, constant=item.name in CONSTANTS) for item in reader.fields)
        for rows in _slices(reader.num_atoms):
            writer.append(reader.all_rows(rows), fields)
        writer.close()
        _exchange(beside, root)
        medium.disk.sync_folder(root.parent)
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(
            f"{medium.where} was not written anew: {error.strerror or error}. It is as it was."
        ) from error
    finally:
        lock.release()
        shutil.rmtree(beside, ignore_errors=True)
    return len(reader)


def _slices(num_atoms: np.ndarray) -> list[slice]:
    """Cut frames into parts of some atoms."""
    parts = np.cumsum(num_atoms) // _ATOMS_AT_ONCE
    edges = [0, *(np.flatnonzero(np.diff(parts)) + 1).tolist(), len(num_atoms)]
    return [slice(start, end) for start, end in itertools.pairwise(edges) if end > start]


def _exchange(new: Path, old: Path) -> None:
    """Put one folder in the place of another, in one step where the system can."""
    with_flags = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if os.name == "posix" else None
    if with_flags is not None and with_flags(-100, os.fsencode(new), -100, os.fsencode(old), _EXCHANGE) == 0:
        return
    aside = old.with_name(f".{old.name}.{uuid.uuid4().hex[:12]}{PARTIAL}")
    os.rename(old, aside)
    try:
        os.rename(new, old)
    except OSError:
        os.rename(aside, old)
        raise
    shutil.rmtree(aside, ignore_errors=True)
