"""A tree of plain values and tensors as text, and back, exactly.

Dictionaries keep their order. What JSON does not have is an object with one key that begins with ``$``: ``$tuple``,
``$dict`` (pairs, for keys that are whole numbers or begin with ``$``), ``$float`` (the eight bytes of a number that is
not finite) and ``$tensor`` (a number of the table of tensors). Equal trees give equal text.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from athanor.errors import ArgumentError, StorageError

MOST_TEXT = 16 << 20
"""Bytes of the text of a tree; numbers of systems and atoms are in tensors."""
_DEEPEST = 60
_MOST_CONTAINERS = 1_000_000
"""Lists and dictionaries in a tree: each takes some 60 bytes of memory and may be written with two."""
Put = Callable[[torch.Tensor], int]
"""Takes a tensor, and returns the number under which it is found."""
Take = Callable[[int], torch.Tensor]


def encode(tree: Any, put: Put) -> Any:
    """Return a tree as what JSON holds; tensors are handed to `put`.

    Raises
    ------
    ArgumentError
        If it holds something else, naming where.
    """
    return _encoded(tree, put, "", 0)


def _encoded(value: Any, put: Put, where: str, depth: int) -> Any:
    if depth > _DEEPEST:
        raise ArgumentError(f"The state is nested more than {_DEEPEST} times at `{where}`; it may hold itself.")
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int | str):  # of a subclass, such as an enumeration, the value
        return (int if isinstance(value, int) else str)(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"$float": struct.pack(">d", value).hex()}
    if isinstance(value, torch.Tensor):
        return {"$tensor": put(value)}
    if isinstance(value, list | tuple):  # a named tuple comes back as a tuple
        inside = [_encoded(each, put, f"{where}[{place}]", depth + 1) for place, each in enumerate(value)]
        return inside if isinstance(value, list) else {"$tuple": inside}
    if isinstance(value, dict):
        for key in value:
            if type(key) not in (str, int):
                raise ArgumentError(f"The state has the key {key!r} at `{where}`; keys are text or whole numbers.")
        pairs = [(key, _encoded(each, put, f"{where}[{key!r}]", depth + 1)) for key, each in value.items()]
        if all(type(key) is str and not key.startswith("$") for key, _ in pairs):
            return dict(pairs)
        return {"$dict": [[key, each] for key, each in pairs]}
    raise ArgumentError(
        f"The state holds a {type(value).__name__} at `{where}`; a checkpoint holds dictionaries, lists, tuples, text, "
        f"numbers, None and tensors. Let `state_dict` return these."
    )


def to_text(document: Any) -> bytes:
    """Return what `encode` returned, with what stands around it, as text.

    Raises
    ------
    ArgumentError
        If there is too much of it.
    """
    text = json.dumps(document, separators=(",", ":"), allow_nan=False).encode("ascii")
    if len(text) > MOST_TEXT or _containers(text) > _MOST_CONTAINERS:
        raise ArgumentError(
            f"The state has {len(text):,} bytes of text beside its tensors; at most {MOST_TEXT:,} are kept, and "
            f"{_MOST_CONTAINERS:,} lists and dictionaries. Put what is large into tensors."
        )
    return text


def _containers(text: bytes) -> int:
    return text.count(b"[") + text.count(b"{")


def from_text(text: bytes) -> Any:
    """Inverse of `to_text`.

    Raises
    ------
    StorageError
        If it is none, or larger or deeper than a state is.
    """
    if _containers(text) > _MOST_CONTAINERS:
        raise StorageError(f"it holds more than {_MOST_CONTAINERS:,} lists and dictionaries")
    try:
        return json.loads(text, object_pairs_hook=_once, parse_constant=_refuse)
    except StorageError:
        raise
    except (ValueError, RecursionError) as error:
        raise StorageError(f"it is no JSON of a state: {type(error).__name__}") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise StorageError("it names a key twice")
    return found


def _refuse(text: str) -> Any:
    raise StorageError(f"it holds the number {text}")


def decode(value: Any, take: Take, depth: int = 0) -> Any:
    """Inverse of `encode`.

    Raises
    ------
    StorageError
        If it is not what `encode` returns.
    """
    if depth > 2 * _DEEPEST:
        raise StorageError("it is nested too deep")
    if isinstance(value, list):
        return [decode(each, take, depth + 1) for each in value]
    if not isinstance(value, dict):
        return value
    special = next((key for key in value if key.startswith("$")), None)
    if special is None:
        return {key: decode(each, take, depth + 1) for key, each in value.items()}
    if len(value) > 1:
        raise StorageError(f"`{special}` is not alone")
    return _decoded(special, value[special], take, depth + 1)


def _decoded(kind: str, content: Any, take: Take, depth: int) -> Any:
    """Return what an object with one key that begins with ``$`` stands for."""
    if kind == "$tensor" and type(content) is int:
        return take(content)
    if kind == "$float" and isinstance(content, str):
        return _not_finite(content)
    if kind == "$tuple" and isinstance(content, list):
        return tuple(decode(each, take, depth) for each in content)
    if kind == "$dict" and isinstance(content, list):
        pairs = [pair for pair in content if isinstance(pair, list) and len(pair) == 2 and type(pair[0]) in (str, int)]
        found = {key: decode(each, take, depth) for key, each in pairs}
        if len(found) == len(content):
            return found
    raise StorageError(f"`{kind}` is not what a state holds")


def _not_finite(digits: str) -> float:
    try:
        number = float(struct.unpack(">d", bytes.fromhex(digits))[0])
    except (ValueError, struct.error) as error:
        raise StorageError("`$float` is no number") from error
    return number
