"""Tensors one behind the other in a file, and the table that says what they are."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from athanor.errors import ArgumentError, StorageError

DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
        torch.uint64, torch.uint32, torch.uint16, torch.uint8, torch.bool, torch.complex128, torch.complex64,
        torch.float8_e4m3fn, torch.float8_e5m2,
    )
}  # fmt: skip
"""Name -> dtype of what can be stored, as it is in memory: the smallest byte first."""
_BLOCK = 4 << 20
_MOST_AXES = 32
_LONGEST_AXIS = 1 << 48


class Row(NamedTuple):
    """What a tensor is: one row of the table."""

    dtype: str
    shape: tuple[int, ...]

    @classmethod
    def of(cls, tensor: torch.Tensor) -> Row:
        """Return the row of a tensor.

        Raises
        ------
        ArgumentError
            If it can not be stored.
        """
        name = str(tensor.dtype).removeprefix("torch.")
        if name not in DTYPES or tensor.layout is not torch.strided or tensor.is_meta:
            raise ArgumentError(f"A tensor of dtype {tensor.dtype} and layout {tensor.layout} can not be stored.")
        return cls(name, tuple(tensor.shape))

    @classmethod
    def parse(cls, entry: Any) -> Row:
        """Return the row that a table holds.

        Raises
        ------
        StorageError
            If it is none.
        """
        if isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], str) and isinstance(entry[1], list):
            name, shape = entry
            sound = all(type(size) is int and 0 <= size < _LONGEST_AXIS for size in shape)
            if name in DTYPES and sound and len(shape) <= _MOST_AXES:
                return cls(name, tuple(shape))
        raise StorageError("its table of tensors is damaged")

    @property
    def size(self) -> int:
        """Bytes of the tensor."""
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize


def bytes_of(tensors: Sequence[torch.Tensor]) -> Iterator[memoryview | bytes]:
    """Yield the bytes of all tensors in order, small ones together."""
    small: list[bytes] = []
    waiting = 0
    for tensor in tensors:
        flat = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
        flat = flat.as_strided((flat.numel(),), (1,))  # one number may have any stride
        content = flat.view(torch.uint8).numpy().data if flat.numel() else memoryview(b"")
        if len(content) < _BLOCK // 4:
            small.append(bytes(content))
            waiting += len(content)
            if waiting < _BLOCK:
                continue
        if small:
            yield b"".join(small)
            waiting = 0
            small = []
        if len(content) >= _BLOCK // 4:
            yield from (content[start : start + _BLOCK] for start in range(0, len(content), _BLOCK))
    if small:
        yield b"".join(small)


def read_tensors(
    rows: Sequence[Row], read: Callable[[int, int], bytes], see: Callable[[Any], None]
) -> list[torch.Tensor]:
    """Return the tensors of a table, whose sizes were compared with that of the file.

    Parameters
    ----------
    rows
        The table.
    read
        Returns so many bytes from a place on.
    see
        Is given everything that was read, in order.

    Raises
    ------
    StorageError
        If the file ends before.
    """
    tensors, place = [], 0
    for row in rows:
        memory = np.empty(row.size, dtype=np.uint8)
        for start in range(0, row.size, _BLOCK):
            part = read(place + start, min(_BLOCK, row.size - start))
            if len(part) != min(_BLOCK, row.size - start):
                raise StorageError("it is shorter than when it was opened")
            see(part)
            memory[start : start + len(part)] = np.frombuffer(part, dtype=np.uint8)
        place += row.size
        if row.dtype == "bool" and row.size and int(memory.max()) > 1:
            raise StorageError("a tensor of bools holds something else")
        flat = torch.from_numpy(memory)
        tensors.append((flat.view(DTYPES[row.dtype]) if row.size else flat.to(DTYPES[row.dtype])).reshape(row.shape))
    return tensors
