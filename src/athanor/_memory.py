"""How much memory is free, in use, and was in use at most, on the host or a GPU; and whether an error is want of it."""

from __future__ import annotations

import errno
import gc
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


_WORDS = ("out of memory", "can't allocate memory", "cannot allocate memory", "alloc_failed", "failed to allocate")
"""What allocators of hosts and devices say in errors that have no type of their own."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception, or what it was raised from, is want of memory, on the host or a device."""
    import torch

    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    if isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _WORDS):
        return True
    return error.__cause__ is not None and is_out_of_memory(error.__cause__)


def free_memory(device: torch.device | None = None) -> int:
    """Return the bytes that can be had without swapping, on the host or a GPU; 4 GB where the system does not say."""
    if device is not None and device.type == "cuda":
        import torch

        return int(torch.cuda.mem_get_info(device)[0])
    known = [room for room in (_available(), _cgroup_room()) if room is not None]
    return min(known) if known else 4_000_000_000


def used_memory(device: torch.device) -> int:
    """Return the bytes in use on the device now; on the host by this process."""
    if device.type == "cuda":
        import torch

        return torch.cuda.memory_allocated(device)
    return _value_in_proc("/proc/self/status", "VmRSS") or peak_memory(device)


def peak_memory(device: torch.device) -> int:
    """Return the most bytes that were in use so far, as `used_memory` counts them."""
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device)
    import resource  # not on Windows

    unit = 1 if sys.platform == "darwin" else 1024
    found = _value_in_proc("/proc/self/status", "VmHWM")
    return found or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _value_in_proc(file: str, name: str) -> int | None:
    """Bytes in the line ``name: 123 kB`` of a file of /proc; None where there is none."""
    with suppress(OSError), open(file, encoding="ascii", errors="replace") as lines:
        for line in lines:
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    return None


def _available() -> int | None:
    found = _value_in_proc("/proc/meminfo", "MemAvailable")
    if found is not None:
        return found
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (ValueError, OSError, AttributeError):
        return None


def _cgroup_room() -> int | None:
    """Room left in the memory limit of a container, if there is one."""
    try:
        with open("/sys/fs/cgroup/memory.max", encoding="ascii") as limit:
            text = limit.read().strip()
        if text == "max":
            return None
        with open("/sys/fs/cgroup/memory.current", encoding="ascii") as used:
            return max(0, int(text) - int(used.read()))
    except (OSError, ValueError):
        return None


class PeakMeter:
    """Measures how much more memory a piece of work takes at its peak than there was before it.

    Parameters
    ----------
    device
        Where the work is done.

    Attributes
    ----------
    bytes
        After the block: what was taken at most; None where the system does not tell.

    Examples
    --------
    >>> with PeakMeter(torch.device("cpu")) as meter:
    ...     evaluate(batch)  # doctest: +SKIP
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.bytes: int | None = None

    def __enter__(self) -> PeakMeter:
        gc.collect()
        if self._device.type == "cuda":
            import torch

            torch.cuda.synchronize(self._device)
            torch.cuda.reset_peak_memory_stats(self._device)
            self._is_anew = True
        else:
            _return_free_memory()
            self._is_anew = _start_peak_anew()
        self._before, self._peak_before = used_memory(self._device), peak_memory(self._device)
        return self

    def __exit__(self, *exc: object) -> None:
        if self._device.type == "cuda":
            import torch

            torch.cuda.synchronize(self._device)
        peak = peak_memory(self._device)
        if self._is_anew or peak > self._peak_before:
            self.bytes = max(0, peak - self._before)


def _return_free_memory() -> None:
    """Let the C library give back what it keeps for later, or work in it would not show."""
    import ctypes

    with suppress(OSError, AttributeError):  # other C libraries keep nothing, or do not say
        ctypes.CDLL(None).malloc_trim(0)


def _start_peak_anew() -> bool:
    """Let the peak of this process start at what it uses now; return whether the system can."""
    with suppress(OSError), open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")
        return True
    return False
