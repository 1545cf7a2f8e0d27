"""Blocks of committed rows of a store of format version 0."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterable

import numpy as np

from athanor.errors import StorageError
from athanor.io.store.layout import StoredField
from athanor.io.store.packing import unpack_arrays
from athanor.io.store.rows import Rows
from athanor.io.version0.schema import TailBlock

_BLOCK_MAGIC = b"ATHB"
_LENGTH = struct.Struct("<Q")


def decode_block(raw: bytes, block: TailBlock, fields: Iterable[StoredField], where: str) -> Rows:
    """Read a block.

    Raises
    ------
    StorageError
        If its length or checksum differs from the commit record, or it does not hold what that says.
    """
    if len(raw) != block.nbytes or zlib.crc32(raw) != block.crc32 or raw[:4] != _BLOCK_MAGIC:
        raise StorageError(f"Block `{block.key}` of {where} is damaged: {len(raw)} of {block.nbytes} bytes, "
                           f"or another checksum than the commit record says.")  # fmt: skip
    try:
        (length,) = _LENGTH.unpack_from(raw, 4)
        listing = json.loads(raw[12 : 12 + length])
        header = json.dumps([listing, None]).encode()  # as in a record of today, which is read with care
        arrays, _ = unpack_arrays(_LENGTH.pack(len(header)) + header + raw[12 + length :], where)
        counts = arrays["node_counts"]
        if counts.dtype != np.int64 or counts.shape != (block.systems,) or (counts < 0).any():
            raise ValueError("impossible numbers of atoms")
        if counts.sum(dtype=np.float64) != block.nodes or block.nodes > len(raw):
            raise ValueError("other atoms than the commit record says")
        rows = Rows(counts)
        for item in fields:
            array = arrays.get(f"data/{item.name}")
            if array is None:
                continue
            if array.shape != (rows.count(item.level), *item.shape) or array.dtype != item.numpy_dtype:
                raise ValueError(f"{array.shape} {array.dtype} for `{item.name}`")
            rows.columns[item.name] = array
    except (ValueError, TypeError, KeyError, struct.error, RecursionError) as error:
        raise StorageError(f"Block `{block.key}` of {where} has an impossible header ({error}).") from error
    return rows
