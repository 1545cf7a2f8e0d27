"""What the numbers mean with which ``athanor`` ends."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of the command line."""

    DONE = 0
    BAD_INPUT = 65
    """A job, argument, file or field is not usable; nothing ran."""
    SOME_FAILED = 69
    """Some systems were set aside; the rest is complete."""
    OUR_ERROR = 70
    STORAGE = 74
    """Results can not be written or read."""
    CHECKPOINT = 75
    """A checkpoint was written, to be resumed."""
    INTERRUPTED = 130
    """Ctrl-C; what was done is written."""
