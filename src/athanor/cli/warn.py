"""Warnings on the command line: one line each on stderr, and none with ``--quiet``."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def warnings_as_lines(*, quiet: bool) -> Iterator[None]:
    """Print warnings as ``warning: text``; ours also where a filter would make them errors. Quiet: print none."""
    from athanor import _runtime
    from athanor.errors import AthanorWarning

    _runtime.set_announcing(not quiet)

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        if quiet:
            return
        if isinstance(message, AthanorWarning):
            silence = f" [--silence {message.topic}]" if message.topic else ""
            message = f"{message.text}{silence}"
        print(f"warning: {message}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.simplefilter("always", AthanorWarning)
        warnings.showwarning = show
        yield
