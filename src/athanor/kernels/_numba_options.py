"""The one decorator that compiles CPU kernels, and where compiled code is kept.

Import this only from ``_cpu.py`` files, which are themselves imported when a CPU kernel first runs.
No fast-math flag is ever set: the bits of a sum are a function of its terms and their order.
Kernels release the interpreter lock and are spread over threads by `athanor.kernels._threads`, not by numba.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import FunctionType
from typing import Any, TypeVar

import numba

from athanor._runtime import announce, user_cache

Function = TypeVar("Function", bound=Callable[..., Any])

_numba_config: Any = numba.config
_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": False, "boundscheck": False}


def inlined(function: Function) -> Function:
    """Compile `function` as a part of each kernel that calls it: for bodies of hot loops that several kernels share."""
    return numba.njit(inline="always", **_OPTIONS)(function)


def jit(function: Function) -> Function:
    """Compile `function` at its first call, once per installation where a cache folder can be written."""
    return _kept(function, **_OPTIONS)


def jit_loop(function: Function) -> Function:
    """Compile a `function` that makes no arrays, without counting references to those that it is given.

    In a loop around functions that are `inlined`, counting takes longer than the arithmetic.
    """
    return _kept(function, _nrt=False, **_OPTIONS)


def _kept(function: Function, **options: Any) -> Function:
    dispatcher: Any = numba.njit(**options)(function)
    folder = cache_folder()
    if folder is not None:
        from athanor.kernels._cache import KernelCache

        users_folder = _numba_config.CACHE_DIR
        _numba_config.CACHE_DIR = str(folder)  # read by numba when it makes a cache
        try:
            dispatcher._cache = KernelCache(function)
        except Exception as error:  # whatever numba finds wrong with the folder
            announce(f"compiling kernels for this process only: {error}.")
        finally:
            _numba_config.CACHE_DIR = users_folder
    return dispatcher


def renamed(function: Callable[..., Any], name: str, **parts: Any) -> Any:
    """Return a copy of `function` under another name, in which other things stand for its global names of `parts`.

    One loop is written once and compiled for each formula that is used: as a global constant, not as an argument, the
    formula becomes a part of the loop, and the compiled code can be kept on disk.
    """
    copy = FunctionType(function.__code__, {**function.__globals__, **parts}, name)
    copy.__module__, copy.__qualname__ = function.__module__, name
    return copy


@cache
def cache_folder() -> Path | None:
    """Return the writable folder for compiled kernels, or None; says so on stderr when code must be compiled.

    The name holds a digest of every kernel source and the numba version, so that a changed helper never leaves
    stale code in use.
    """
    folder = _base_folder() / f"kernels-{sources_digest(Path(__file__).parent)}"
    existed = folder.is_dir()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError:
        announce(
            f"compiling kernels for this process only, because {folder} can not be written; "
            "set NUMBA_CACHE_DIR to a writable folder to keep them."
        )
        return None
    if not existed:
        announce(f"compiling kernels, once for this installation (kept in {folder}); a quarter of a minute.")
    return folder


def sources_digest(folder: Path) -> str:
    """Return a short digest of every Python file under `folder` and of the numba version."""
    digest = hashlib.sha256(numba.__version__.encode())
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.relative_to(folder).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _base_folder() -> Path:
    if _numba_config.CACHE_DIR:
        return Path(_numba_config.CACHE_DIR) / "athanor"
    return user_cache()
