"""The one way to replace a file: write beside it, then rename, so that a reader never sees half of it.

What was written is on the disk before its name is, and the name before the block ends: a power cut leaves the old
file or the new one.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PARTIAL = ".partial"
"""Ending of files that are not complete yet."""


def sync_file(path: Path) -> None:
    """Bring what was written to a file to the disk.

    Raises
    ------
    OSError
        If the disk refuses.
    """
    descriptor = os.open(path, os.O_RDWR | getattr(os, "O_BINARY", 0))
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(path: Path) -> None:
    """Bring the names in a folder to the disk, where the system can.

    Raises
    ------
    OSError
        If the disk refuses.
    """
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give the place to write to; it becomes `path` if the block ends well, and is removed if not."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}{PARTIAL}")
    try:
        yield temporary
        sync_file(temporary)
        os.replace(temporary, path)
        sync_folder(path.parent)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Do the same with a folder, which the block makes; one that is replaced is gone for the time of two renames."""
    temporary, former = (path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}{PARTIAL}") for _ in range(2))
    try:
        yield temporary
        if path.exists():
            os.replace(path, former)
        os.replace(temporary, path)
    except BaseException:
        if former.exists() and not path.exists():
            os.replace(former, path)
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    shutil.rmtree(former, ignore_errors=True)
