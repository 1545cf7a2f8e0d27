"""Standard streams that never end a run: what can no longer be written is dropped, and the loss is remembered."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Mapping
from typing import Any


class LossyFile(io.FileIO):
    """A file of the screen whose writes always succeed, also on a closed pipe or a full disk.

    Attributes
    ----------
    lost
        What the system said of the first write that it refused; None so far.
    """

    lost: OSError | None = None

    def write(self, data: Any) -> int:
        """Write as much as the system takes, and drop everything once it has refused."""
        if self.lost is None:
            try:
                return super().write(data) or 0
            except OSError as error:
                self.lost = error
        return memoryview(data).nbytes


def guard_streams() -> Mapping[str, LossyFile]:
    """Replace stdout and stderr of this process by streams that can not fail; return the files below them.

    A letter that the terminal does not have becomes a question mark. A stream that was closed by who started us goes
    nowhere, so that no file of the run gets its number.
    """
    files: dict[str, LossyFile] = {}
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w", encoding="utf-8"))
        elif isinstance(stream, io.TextIOWrapper):
            files[name] = LossyFile(number, "w", closefd=False)
            line_by_line = name == "stderr" or files[name].isatty()
            buffer = io.BufferedWriter(files[name])
            setattr(sys, name, io.TextIOWrapper(buffer, stream.encoding, errors="replace", line_buffering=line_by_line))
    return files


def output_was_refused(files: Mapping[str, LossyFile]) -> OSError | None:
    """Return why stdout is not whole, once all is written; None where it is, or where its reader left, as `head` does.

    Parameters
    ----------
    files
        What `guard_streams` returned.
    """
    sys.stdout.flush()
    lost = files["stdout"].lost if "stdout" in files else None
    return None if lost is None or lost.errno == errno.EPIPE else lost
