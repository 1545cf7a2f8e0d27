"""The one way to replace a file: write beside it, then rename, so that a reader never sees half of it."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PARTIAL = ".partial"
"""Ending of files that are not complete yet."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give the place to write to; it becomes `path` if the block ends well, and is removed if not."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}{PARTIAL}")
    try:
        yield temporary
        os.replace(temporary, path)
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
