"""Structures that come through a pipe or from standard input, read in bounded time and memory.

Only what is written for a pipe is read from one: text. A device is refused, since it may have no end.
"""

from __future__ import annotations

import io
import os
import select
import stat
import sys
import time
from collections.abc import Iterator

from athanor.errors import InputError

STANDARD_INPUT = "-"
MOST_BYTES = 1 << 30
"""Of one pipe: ten million atoms as text."""
SECONDS_FOR_A_WRITER = 10.0
"""How long a pipe may wait for somebody who writes into it; who writes may take any time."""
_BLOCK = 1 << 20


def is_pipe(path: str) -> bool:
    """Whether `path` is standard input or a pipe, and not a file.

    Raises
    ------
    InputError
        If it is a device or a socket.
    """
    if path == STANDARD_INPUT:
        return True
    mode = os.stat(path).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISFIFO(mode)):
        raise InputError(f"`{path}` is a device or socket, and not a file with structures. Pass a file or a pipe.")
    return stat.S_ISFIFO(mode)


def read_pipe(path: str) -> bytes:
    """Return all that comes through a pipe, or through standard input for ``-``.

    Raises
    ------
    InputError
        If nothing comes, nobody writes, it is not text, or it is more than `MOST_BYTES`.
    """
    if path == STANDARD_INPUT:
        shown, stream = "Standard input", getattr(sys.stdin, "buffer", io.BytesIO())
        content = _joined(iter(lambda: stream.read(_BLOCK), b""), shown)
    else:
        shown = f"`{path}`"
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            content = _joined(_blocks_of(descriptor, shown), shown)
        finally:
            os.close(descriptor)
    if not content.strip():
        raise InputError(f"{shown} is empty: nothing came through it.")
    return content


def _joined(blocks: Iterator[bytes], shown: str) -> bytes:
    kept: list[bytes] = []
    size = 0
    for block in blocks:
        if b"\0" in block:
            raise InputError(f"{shown} is not text; a pipe is read as text. Pass binary files by their names.")
        size += len(block)
        if size > MOST_BYTES:
            raise InputError(f"{shown} brings more than {MOST_BYTES >> 20} MB. Write it to a file, and pass that.")
        kept.append(block)
    return b"".join(kept)


def _blocks_of(descriptor: int, shown: str) -> Iterator[bytes]:
    """Yield what is written into a pipe until it ends. One without a writer looks as if it had ended: wait for one."""
    deadline, poll = time.monotonic() + SECONDS_FOR_A_WRITER, select.poll()
    poll.register(descriptor, select.POLLIN)
    has_begun = False
    while True:
        try:
            block = os.read(descriptor, _BLOCK)
        except BlockingIOError:  # there is a writer, who takes some time
            poll.poll()
            continue
        if block:
            has_begun = True
            yield block
        elif has_begun or dict(poll.poll(20)).get(descriptor) == select.POLLHUP:  # a writer left, and nothing is there
            return
        elif time.monotonic() > deadline:
            raise InputError(f"{shown} is a pipe that nobody writes to. Start what writes into it, or pass a file.")
