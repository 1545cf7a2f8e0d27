"""What a store of format version 0 looks like. It is read, and no longer written; `athanor store upgrade` rewrites it.

========================  ======================================================================================
``format.json``           name and version of the format
``head.json``             the commit record: row counts, fields, blocks, checksum
``tail/<commit>``         committed rows that are not in the arrays, one checksummed block per commit
``data/<field>``          one array per field, rows along the first axis
``index/node_end``        row after the last atom of each system
========================  ======================================================================================

Rows beyond the counts of ``head.json`` are leftovers of an interrupted write.
"""

from __future__ import annotations

import json
import re
import zlib
from dataclasses import dataclass

from athanor.errors import StorageError
from athanor.io.store.layout import StoredField, fields_from_json

HEAD_KEY = "head.json"
NODE_END = "index/node_end"
_BLOCK_KEY = re.compile(r"tail/\d{10}")


@dataclass(frozen=True, slots=True)
class TailBlock:
    """A block of committed rows: where it is, how long it is, and its checksum."""

    key: str
    systems: int
    nodes: int
    edges: int
    nbytes: int
    crc32: int


@dataclass(frozen=True, slots=True)
class Head:
    """The commit record. `systems`, `nodes`, `edges` count rows inside `arrays` (paths); blocks come behind them.

    `is_whole` says that every chunk of these rows was written, so that a missing one is damage. Older records do not
    say it: their writers left out chunks that hold only the fill value.
    """

    commit: int = 0
    systems: int = 0
    nodes: int = 0
    edges: int = 0
    fields: tuple[StoredField, ...] = ()
    arrays: tuple[str, ...] = ()
    tail: tuple[TailBlock, ...] = ()
    is_whole: bool = True

    @property
    def total_systems(self) -> int:
        """Systems in the arrays and in the blocks."""
        return self.systems + sum(block.systems for block in self.tail)

    def rows(self, level: str) -> int:
        """Rows of one level inside the arrays."""
        return {"system": self.systems, "node": self.nodes, "edge": self.edges}[level]

    @classmethod
    def from_bytes(cls, raw: bytes, where: str) -> Head:
        """Read a commit record and check it.

        Raises
        ------
        StorageError
            If it is damaged.
        """
        try:
            outer = json.loads(raw)
            body = outer["record"]
            if zlib.crc32(body.encode()) != outer["crc32"]:
                raise ValueError("checksum differs")
            values = {"is_whole": False} | json.loads(body)
            fields = fields_from_json(values.pop("fields"))
            tail = tuple(TailBlock(**item) for item in values.pop("tail"))
            arrays = values.pop("arrays")
            head = cls(**values, arrays=tuple(arrays), fields=fields, tail=tail)
            counts = [head.commit, head.systems, head.nodes, head.edges]
            counts += [count for block in tail for count in (block.systems, block.nodes, block.edges, block.nbytes)]
            if not all(type(count) is int and 0 <= count < 1 << 62 for count in counts):
                raise ValueError("a count is out of range")
            if not all(isinstance(block.key, str) and _BLOCK_KEY.fullmatch(block.key) for block in tail):
                raise ValueError("a block has a name that none has")
            if not all(isinstance(path, str) for path in arrays):
                raise ValueError("an array has no name")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise StorageError(
                f"The commit record `{HEAD_KEY}` of {where} is damaged ({error}). The arrays beside it are untouched."
            ) from error
        return head
