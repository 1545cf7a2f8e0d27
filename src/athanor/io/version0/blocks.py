"""Blocks of committed rows of a store of format version 0."""

from __future__ import annotations

import json
import struct
import zlib

import numpy as np

from athanor.errors import StorageError
from athanor.io.store.rows import Rows
from athanor.io.version0.schema import TailBlock

_BLOCK_MAGIC = b"ATHB"


def decode_block(raw: bytes, block: TailBlock, where: str) -> Rows:
    """Read a block.

    Raises
    ------
    StorageError
        If its length or checksum differs from the commit record, or its header can not be read.
    """
    if len(raw) != block.nbytes or zlib.crc32(raw) != block.crc32 or raw[:4] != _BLOCK_MAGIC:
        raise StorageError(f"Block `{block.key}` of {where} is damaged: {len(raw)} of {block.nbytes} bytes, "
                           f"or another checksum than the commit record says.")  # fmt: skip
    arrays: dict[str, np.ndarray] = {}
    try:
        (length,) = struct.unpack_from("<Q", raw, 4)
        offset = 12 + length
        for key, dtype, shape in json.loads(raw[12:offset]):
            count = int(np.prod(shape, dtype=np.int64))
            array = np.frombuffer(raw, dtype=np.dtype(dtype), count=count, offset=offset).reshape(shape).copy()
            arrays[key] = array
            offset += array.nbytes
        rows = Rows(arrays.pop("node_counts"))
    except (ValueError, TypeError, KeyError, struct.error) as error:
        raise StorageError(f"Block `{block.key}` of {where} has an impossible header ({error}).") from error
    for key, array in arrays.items():
        group, _, name = key.partition("/")
        if group == "data":
            rows.columns[name] = array
    return rows
