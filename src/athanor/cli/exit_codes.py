"""What the numbers mean with which ``athanor`` ends."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of the command line."""

    DONE = 0
    BAD_INPUT = 65
    """A job, argument, file or field is not usable; nothing ran."""
    SOME_FAILED = 69
    """Some systems were set aside, or checks of a model failed; the rest is complete."""
    OUR_ERROR = 70
    SHORTAGE = 71
    """The machine, or a limit on the process, refused memory, threads or open files."""
    STORAGE = 74
    """Results can not be written or read."""
    CHECKPOINT = 75
    """A checkpoint was written, to be resumed."""
    INTERRUPTED = 130
    """Ctrl-C; what was done is written."""
