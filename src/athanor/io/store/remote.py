"""Stores of S3, Google Cloud Storage and Azure, through obstore."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from athanor._optional import OptionalDependency
from athanor.errors import InputError
from athanor.io.store.folder import Folder
from athanor.io.store.medium import Medium
from athanor.io.store.shared import NEW, RefusedError, SharedObjects, TakenError, UnansweredError

SCHEMES = frozenset({"s3", "s3a", "gs", "az", "azure", "adl", "abfs", "abfss"})
HOSTS = ("amazonaws.com", "r2.cloudflarestorage.com", "core.windows.net", "fabric.microsoft.com")
"""Ends of the names of hosts whose ``https`` addresses are stores of objects."""

_REFUSALS = re.compile(r"status 4(?!08|09|29)\d\d|builder error")
"""In errors of no kind of their own: what will not be another time. 408, 409 and 429 ask to come again."""


def is_remote(url: str) -> bool:
    """Whether a URL is that of a store of objects which knows conditional puts."""
    parts = urlsplit(url)
    return parts.scheme in SCHEMES or (parts.scheme == "https" and (parts.hostname or "").endswith(HOSTS))


def is_obstore(store: Any) -> bool:
    """Whether something is a store of obstore."""
    return type(store).__module__.partition(".")[0] == "obstore"


def open_remote(url: str) -> Medium:
    """Open a store by its URL; keys and endpoints come from the environment, as of the tools of the cloud.

    Raises
    ------
    OptionalDependencyError
        If obstore is not installed.
    InputError
        If it is not an address of a store.
    """
    stores = OptionalDependency.OBSTORE.load("store", needed_by=f"`{url}`")
    try:
        # we try again ourselves: only who wrote the object can tell its own from that of another writer
        store = stores.from_url(url, retry_config={"max_retries": 0})
    except (ValueError, _errors().BaseError) as error:
        raise InputError(f"`{url}` is not an address of a store: {_first_line(error)}. Use a local path.") from error
    return ObstoreObjects(store, "", f"`{url}`")


def open_obstore(store: Any, prefix: str, *, synced: bool) -> Medium:
    """Medium of a store of obstore, such as ``obstore.store.S3Store``."""
    if type(store).__name__ == "LocalStore":
        return Folder(Path(store.prefix or "/") / prefix, synced=synced)
    return ObstoreObjects(store, prefix, f"`{store!r}`")


def _errors() -> Any:
    return OptionalDependency.OBSTORE.load("exceptions")


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


class ObstoreObjects(SharedObjects):
    """The keys of a store of obstore.

    Parameters
    ----------
    store
        Any store of ``obstore.store``.
    prefix
        In front of every key, with a ``/`` at its end unless it is empty.
    where
        How messages call the place.
    """

    def __init__(self, store: Any, prefix: str, where: str, **more: Callable[[float], None]) -> None:
        super().__init__(where, **more)
        self._store, self._prefix = store, prefix
        self._obstore = OptionalDependency.OBSTORE.load(needed_by=where)
        errors = _errors()
        self._taken = errors.AlreadyExistsError, errors.PreconditionError
        self._refused = (errors.PermissionDeniedError, errors.UnauthenticatedError, errors.InvalidPathError,
                         errors.NotSupportedError, errors.UnknownConfigurationKeyError)  # fmt: skip
        self._absent = errors.NotFoundError, FileNotFoundError
        self._any = errors.BaseError

    @contextmanager
    def _answers(self) -> Iterator[None]:
        """Tell the kinds of answers apart; objects that are absent are told by the caller."""
        try:
            yield
        except self._absent:
            raise
        except self._taken as error:
            raise TakenError(_first_line(error)) from error
        except self._refused as error:
            raise RefusedError(_first_line(error)) from error
        except self._any as error:
            text = _first_line(error)
            raise (RefusedError if _REFUSALS.search(text) else UnansweredError)(text) from error

    def fetch(self, key: str, start: int = 0, count: int | None = None, version: Any = None) -> bytes | None:
        """See `SharedObjects.fetch`."""
        options: dict[str, Any] = {} if count is None else {"range": (start, start + count)}
        if version is not None and "e_tag" in version:
            options["if_match"] = version["e_tag"]
        with suppress(*self._absent), self._answers():
            return bytes(self._obstore.get(self._store, self._prefix + key, options=options).bytes())
        return None

    def look_at(self, key: str) -> tuple[int, Any] | None:
        """See `SharedObjects.look_at`."""
        with suppress(*self._absent), self._answers():
            found = self._obstore.head(self._store, self._prefix + key)
            names = [name for name in ("e_tag", "version") if found.get(name) is not None]
            return int(found["size"]), {name: found[name] for name in names}
        return None

    def store(self, key: str, value: bytes, condition: Any = None) -> None:
        """See `SharedObjects.store`."""
        mode = "overwrite" if condition is None else "create" if condition is NEW else condition
        try:
            with self._answers():
                self._obstore.put(self._store, self._prefix + key, value, mode=mode, use_multipart=False)
        except self._absent as error:
            if condition is None or condition is NEW:  # the bucket
                raise RefusedError(_first_line(error)) from error
            raise TakenError(_first_line(error)) from error

    def remove(self, keys: Sequence[str]) -> None:
        """See `SharedObjects.remove`."""
        with suppress(*self._absent), self._answers():
            self._obstore.delete(self._store, [self._prefix + key for key in keys])

    def keys(self, prefix: str, after: str = "") -> list[str]:
        """See `SharedObjects.keys`."""
        whole = (self._prefix + prefix).rstrip("/")
        with self._answers():
            found = self._obstore.list(
                self._store, whole or None, offset=self._prefix + after if after else None
            ).collect()
        return [item["path"].removeprefix(self._prefix) for item in found]
