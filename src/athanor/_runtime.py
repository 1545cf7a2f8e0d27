"""What a process does once before its first calculation, and how many threads it uses.

Nothing here runs at import. The first Batch, engine or op calls `ready`; `set_num_threads` is for users.
"""

from __future__ import annotations

import importlib
import os
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from athanor._values import check_whole
from athanor.errors import InputError

_MOST_THREADS = 64
_LARGEST_PART = 32_768
"""Numbers of an operation on which torch uses one thread."""
_INSIDE = ("athanor", "torch", "contextlib")
"""Packages whose frames are not those of a caller."""
_state = {"ready": False, "announces": True, "has_threads": False, "is_forked": False}


def ready() -> None:
    """Warm up torch's vector functions; later calls return at once.

    The first threaded call of a transcendental function in a process has been seen to return other bits than all
    later ones. One call of each on four elements, which torch does not split over threads, settles that.
    """
    if _state["ready"]:
        return
    for dtype in (torch.float32, torch.float64):
        values = torch.full((4,), 0.5, dtype=dtype)
        for function in (torch.exp, torch.log, torch.sqrt, torch.sin):
            function(values)
    _state["ready"] = True


def level_of_caller() -> int:
    """Return the `stacklevel` at which a warning points at whoever called into athanor, however deep this is.

    Counting frames by hand breaks where a comprehension has a frame of its own (Python 3.11) or none (3.12).
    """
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in _INSIDE:
        level, frame = level + 1, frame.f_back
    return level


def user_cache() -> Path:
    """Return the folder for what can be made again, of this user."""
    if os.environ.get("XDG_CACHE_HOME"):
        return Path(os.environ["XDG_CACHE_HOME"]) / "athanor"
    home = Path(os.path.expanduser("~"))
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "athanor"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", home)) / "athanor"
    return home / ".cache" / "athanor"


def announce(text: str) -> None:
    """Print on stderr why something takes long, unless `set_announcing` turned that off or nobody can read it."""
    if _state["announces"] and sys.stderr is not None:
        with suppress(OSError, ValueError):  # a closed pipe, a full disk, a closed stream: no reason to stop
            print(f"athanor: {text}", file=sys.stderr)


def set_announcing(announces: bool) -> None:
    """Say whether `announce` prints, for callers that were asked to be quiet."""
    _state["announces"] = announces


def _look_for_threads() -> None:
    """Note, before a fork, whether libraries have threads, none of which the child will have."""
    try:
        count = len(os.listdir("/proc/self/task"))
    except OSError:
        count = threading.active_count()
    _state["has_threads"] = _state["ready"] or count > 1


def _stay_on_one_thread() -> None:
    """In a forked child of a process with threads: OpenMP would wait for ever for those that did not come along."""
    if _state["has_threads"]:
        _state["is_forked"] = True
        torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_look_for_threads, after_in_child=_stay_on_one_thread)


def set_num_threads(num_threads: int | None = None) -> None:
    """Set how many CPU threads athanor, torch, numba and the linear-algebra library use.

    Results of athanor's own kernels do not depend on it.

    Parameters
    ----------
    num_threads
        At least 1; None means every core this process may use. A process that was forked from one that had computed
        has one thread.

    Raises
    ------
    InputError
        If `num_threads` is below 1, not an integer, or far more than there are cores: the OpenMP library dies of it.
        If it is more than 1 in a forked process, where OpenMP would wait for ever.
    """
    if num_threads is None:
        num_threads = 1 if _state["is_forked"] else _available_cores()
    num_threads = check_whole(num_threads, "num_threads", 1)
    if num_threads > 1 and _state["is_forked"]:
        raise InputError(
            f"{num_threads} threads would wait for ever in this process: it was forked from one with threads, which "
            f'did not come along. It computes on one; for more, start it with `multiprocessing.get_context("spawn")`.'
        )
    most = max(_MOST_THREADS, 4 * _available_cores())
    if num_threads > most:
        raise InputError(
            f"{num_threads:,} threads are more than this machine takes, at most {most}; it has "
            f"{_available_cores()} cores. Leave the number out to use every core."
        )
    numba = sys.modules.get("numba")
    if numba is not None:
        numba.set_num_threads(min(num_threads, numba.config.NUMBA_NUM_THREADS))
    blas = _threadpoolctl()
    if blas is not None:
        blas.threadpool_limits(limits=num_threads, user_api="blas")
    torch.set_num_threads(num_threads)  # last: the others may share torch's OpenMP library and set it too


@contextmanager
def using_num_threads(num_threads: int | None) -> Iterator[None]:
    """Use so many threads for a while, as by `set_num_threads`, and put back what was before; None changes nothing.

    Raises
    ------
    InputError
        As `set_num_threads`.
    """
    if num_threads is None:  # numba must not even be asked: it starts its threads then, and sets those of OpenMP
        yield
        return
    threads, numba, blas = torch.get_num_threads(), sys.modules.get("numba"), _threadpoolctl()
    numba_threads = None if numba is None else numba.get_num_threads()
    limits = None if blas is None else blas.threadpool_limits(user_api="blas")
    try:
        set_num_threads(num_threads)
        yield
    finally:
        if limits is not None:
            limits.restore_original_limits()
        if numba is not None:
            numba.set_num_threads(numba_threads)
        torch.set_num_threads(threads)


def global_rank() -> int:
    """Return the rank of this process among all of a job; 0 unless `torch.distributed` is set up."""
    return int(torch.distributed.get_rank()) if _is_distributed() else 0


def local_rank() -> int:
    """Return the rank of this process on its machine; 0 unless `torch.distributed` is set up."""
    return int(torch.distributed.get_node_local_rank(fallback_rank=0)) if _is_distributed() else 0


def world_size() -> int:
    """Return how many processes a job has; 1 unless `torch.distributed` is set up."""
    return int(torch.distributed.get_world_size()) if _is_distributed() else 1


def _is_distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def get_num_threads() -> int:
    """Return the number of CPU threads; torch's setting is the one that counts."""
    return torch.get_num_threads()


def in_parts(*tensors: torch.Tensor) -> Iterable[tuple[torch.Tensor, ...]]:
    """Return tensors of one shape in parts so short that torch does not share them among threads.

    Threads of OpenMP wait for what comes next by spinning, for a millisecond or so, and keep the cores from kernels.
    """
    first = tensors[0]
    if first.numel() <= _LARGEST_PART or not first.is_cpu or first.dim() == 0:
        return (tensors,)
    rows = max(1, _LARGEST_PART * len(first) // first.numel())
    return zip(*(tensor.split(rows) for tensor in tensors), strict=True)


def _available_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _threadpoolctl() -> Any:
    """Return the package that sets threads of linear-algebra libraries; None if it is not installed."""
    try:
        return importlib.import_module("threadpoolctl")
    except ImportError:
        return None
