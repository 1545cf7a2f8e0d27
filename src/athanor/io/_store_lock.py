"""One writer for a store: a lock that the operating system takes back when its process ends, however it ends.

A folder is locked by its file ``LOCK``, which stays there and says who had it last. Other stores can only be kept from
a second writer of the same program.
"""

from __future__ import annotations

import errno
import os
import platform
import sys
import threading
import warnings
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from athanor._runtime import level_of_caller
from athanor.errors import AthanorWarning, StorageError

LOCK_KEY = "LOCK"
_REFUSED = (errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK)
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
_guard = threading.RLock()
_held: weakref.WeakSet[StoreLock] = weakref.WeakSet()

if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int) -> None:
        os.lseek(descriptor, 1 << 20, os.SEEK_SET)  # behind the text: what is locked there can not be read
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


class StoreLock:
    """The right to write to one store.

    Parameters
    ----------
    identity
        What tells this store from others of the program.
    folder
        Where it is, if it is a folder.
    where
        How messages call it.
    user
        What messages call those who have it.
    otherwise
        What else messages advise to do.
    """

    def __init__(
        self,
        identity: str,
        folder: Path | None,
        where: str,
        *,
        user: str = "sink",
        otherwise: str = "open the store with `mode='r'` to read",
    ) -> None:
        self.identity, self._where, self._user, self._otherwise = identity, where, user, otherwise
        self._file = None if folder is None else str(folder / LOCK_KEY)
        self._descriptor: int | None = None
        self.is_held = False

    def __del__(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)

    def acquire(self) -> None:
        """Take the lock; nothing happens if it is held already.

        Raises
        ------
        StorageError
            If another writer has it, in this program or another one.
        """
        if self.is_held:
            return
        with _guard:
            if self._file is not None:
                self._descriptor = _lock_file(self._file, self._where, self._refused)
            if self._descriptor is None and any(other.identity == self.identity for other in _held):
                raise self._refused(_this_program())
            _held.add(self)
            self.is_held = True

    def _refused(self, holder: str) -> StorageError:
        here = holder == _this_program()
        who = f"another {self._user} of this program" if here else holder
        what = "`close()` that one first" if here else "Wait until it has ended"
        return StorageError(
            f"{self._where} is being written by {who}; nothing was changed. {what}, or {self._otherwise}."
        )

    @property
    def is_in_place(self) -> bool:
        """Whether what was locked is still what is there; a folder may have been replaced."""
        return self._file is None or self._descriptor is None or _is_at(self._file, self._descriptor)

    def release(self) -> None:
        """Let others write; nothing happens if the lock is not held."""
        with _guard:
            _held.discard(self)
            self.is_held, descriptor, self._descriptor = False, self._descriptor, None
            if descriptor is not None:
                os.close(descriptor)


def _lock_file(path: str, where: str, refused: Callable[[str], StorageError]) -> int | None:
    """Return the descriptor of the file, locked until that is closed; None if the file system has no locks."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)  # it is written to
        try:
            _lock(descriptor)
            if _is_at(path, descriptor):
                with suppress(OSError):  # only for messages: a full disk is told by who needs it
                    os.ftruncate(descriptor, 0)
                    os.write(descriptor, _this_program().encode())
                return descriptor
            os.close(descriptor)  # the folder was replaced in the meantime
        except OSError as error:
            holder = _holder(descriptor)
            os.close(descriptor)
            if error.errno in _REFUSED:
                raise refused(holder) from None
            if error.errno not in _NO_LOCKS:
                raise
            text = f"The file system of {where} has no locks ({error.strerror}). Let only one program write there."
            warnings.warn(AthanorWarning(text), stacklevel=level_of_caller())
            return None
        except BaseException:
            os.close(descriptor)
            raise


def _this_program() -> str:
    return f"process {os.getpid()} on {platform.node()}"


def _is_at(path: str, descriptor: int) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    return False


def _holder(descriptor: int) -> str:
    with suppress(OSError):
        os.lseek(descriptor, 0, os.SEEK_SET)
        text = os.read(descriptor, 300).decode(errors="replace")
        if text.isprintable() and text:
            return text
    return "another process"


def _forget_in_child() -> None:
    """A forked child has no right to write, and must not keep the lock of its parent alive."""
    global _guard
    _guard = threading.RLock()
    for lock in list(_held):
        lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)
