"""Rows of some systems on the host, and the block of bytes that a commit makes of them."""

from __future__ import annotations

import json
import struct
import zlib
from dataclasses import dataclass, field

import numpy as np

from athanor.errors import StorageError
from athanor.io.zarr_schema import StoredField, TailBlock

_BLOCK_MAGIC = b"ATHB"


@dataclass(slots=True)
class Rows:
    """Rows of some systems on the host: one numpy array per field, and counts per system."""

    node_counts: np.ndarray
    edge_counts: np.ndarray
    columns: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def counts(self) -> dict[str, int]:
        """Rows of each level."""
        return {"system": len(self.node_counts), "node": int(self.node_counts.sum()),
                "edge": int(self.edge_counts.sum())}  # fmt: skip

    @property
    def nbytes(self) -> int:
        """Bytes of all columns."""
        return sum(column.nbytes for column in self.columns.values())

    def column(self, item: StoredField) -> np.ndarray:
        """Values of a field; the missing value where these rows lack it."""
        value = self.columns.get(item.name)
        return item.missing_rows(self.counts[item.level]) if value is None else value


def merge_rows(parts: list[Rows], fields: tuple[StoredField, ...]) -> Rows:
    """Put rows behind one another; what a part lacks is filled."""
    if len(parts) == 1:
        return parts[0]
    merged = Rows(np.concatenate([part.node_counts for part in parts]),
                  np.concatenate([part.edge_counts for part in parts]))  # fmt: skip
    for item in fields:
        if any(item.name in part.columns for part in parts):
            merged.columns[item.name] = np.concatenate([part.column(item) for part in parts])
    return merged


def encode_block(rows: Rows) -> bytes:
    """Bytes of a block: magic, length of the JSON header, header, then the arrays one behind another."""
    arrays = {"node_counts": rows.node_counts, "edge_counts": rows.edge_counts}
    arrays |= {f"data/{name}": value for name, value in rows.columns.items()}
    listing = [[key, value.dtype.str, list(value.shape)] for key, value in arrays.items()]
    header = json.dumps(listing).encode()
    parts = [_BLOCK_MAGIC, struct.pack("<Q", len(header)), header]
    parts += [np.ascontiguousarray(value).tobytes() for value in arrays.values()]
    return b"".join(parts)


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
        rows = Rows(arrays.pop("node_counts"), arrays.pop("edge_counts"))
    except (ValueError, TypeError, KeyError, struct.error) as error:
        raise StorageError(f"Block `{block.key}` of {where} has an impossible header ({error}).") from error
    for key, array in arrays.items():
        group, _, name = key.partition("/")
        if group == "data":
            rows.columns[name] = array
    return rows
