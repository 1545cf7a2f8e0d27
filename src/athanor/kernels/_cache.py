"""Compiled kernels on disk, with a digest: what is damaged is compiled again, what can not be written is done without.

numba keeps compiled code as plain pickles. An empty one ends the run, and a wrong byte in the code of a kernel would be
executed. Import this only from `athanor.kernels._numba_options`.
"""

from __future__ import annotations

import hashlib
import pickle
from typing import Any

from numba.core.caching import FunctionCache, IndexDataCacheFile

from athanor._runtime import announce

_DIGEST_BYTES = 32


class KernelCache(FunctionCache):
    """numba's cache of one function; nothing that goes wrong with it stops a call."""

    _has_announced = False

    def __init__(self, function: Any) -> None:
        super().__init__(function)
        locator: Any = self._impl.locator
        self._cache_file = _CheckedFiles(self._cache_path, self._impl.filename_base, locator.get_source_stamp())

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return compiled code, or None if there is none that is whole."""
        try:
            return super().load_overload(sig, target_context)
        except Exception as error:
            self._announce("read", error)
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep compiled code if the disk takes it."""
        try:
            super().save_overload(sig, data)
        except Exception as error:
            self._announce("kept", error)

    def _announce(self, what: str, error: Exception) -> None:
        if not KernelCache._has_announced:
            KernelCache._has_announced = True
            announce(
                f"compiled kernels can not be {what} in {self._cache_path} ({type(error).__name__}: {error}); they are "
                "compiled in memory. Make room there, or set NUMBA_CACHE_DIR to another folder."
            )


class _CheckedFiles(IndexDataCacheFile):
    """The index of a function and its files of code, each behind the SHA-256 of what follows."""

    def _dump(self, obj: Any) -> bytes:
        content = super()._dump(obj)
        return hashlib.sha256(content).digest() + content

    def _load_data(self, name: str) -> Any:
        with open(self._data_path(name), "rb") as file:
            return _load(file.read())

    def _load_index(self) -> Any:
        try:
            with open(self._index_path, "rb") as file:
                version = pickle.load(file)
                content = file.read()
            stamp, overloads = _load(content) if version == self._version else (None, {})
        except Exception:  # absent or damaged: as if there were none, so that a whole one is written in its place
            return {}
        return overloads if stamp == self._source_stamp else {}


def _load(content: bytes) -> Any:
    digest, content = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
    if hashlib.sha256(content).digest() != digest:
        raise ValueError("its bytes are not those that were written")
    return pickle.loads(content)
