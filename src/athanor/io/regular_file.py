"""Opening a file that others may have replaced: a pipe or device, which may never begin or end, is refused at once."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO


def open_regular(path: Path) -> BinaryIO:
    """Open a file to read its bytes.

    Raises
    ------
    OSError
        If it is a pipe, a device or a folder, or the system refuses.
    """
    # a pipe that nobody writes to would wait for ever; Windows has no such files, and no such flag
    number = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise OSError(None, "it is a pipe, a device or a folder", str(path))
    return os.fdopen(number, "rb")


def read_regular(path: Path, most_bytes: int) -> bytes:
    """Return the bytes of a file.

    Raises
    ------
    OSError
        As `open_regular`, and if it holds more than `most_bytes`.
    """
    with open_regular(path) as file:
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise OSError(None, f"it is larger than {most_bytes:,} bytes", str(path))
    return content
