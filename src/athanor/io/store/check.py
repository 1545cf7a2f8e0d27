"""Look at every byte of a store that an acknowledged frame needs, and say what is wrong."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from athanor.errors import StorageError
from athanor.io.store.layout import COMMITS_KEY, GROUPS, array_spec
from athanor.io.store.medium import Medium
from athanor.io.store.reader import StoredFrames
from athanor.io.store.records import crc32c, records
from athanor.io.store.shards import ShardReader, group_document, to_json
from athanor.io.store.state import COMMIT, load_state


@dataclass(frozen=True, slots=True)
class StoreReport:
    """What was found in a store.

    Attributes
    ----------
    frames
        Frames that it counts.
    chunks
        Chunks whose checksum was looked at.
    problems
        One line for each thing that is wrong with frames; empty if all can be read.
    remarks
        What other programs would see, or the next writer will mend.
    """

    frames: int
    chunks: int
    problems: list[str]
    remarks: list[str]


def check_store(medium: Medium) -> StoreReport:
    """Check logs, indices and every chunk.

    Raises
    ------
    StoreNotFoundError
        If there is no store.
    """
    problems: list[str] = []
    remarks: list[str] = []
    state = load_state(medium, all_of_it=False)
    try:
        state = load_state(medium)
    except StorageError as error:
        problems.append(str(error))
    problems += _history(medium)
    shards, chunks = ShardReader(medium), 0
    documents = {}
    for path, stored in state.commit.arrays.items():
        spec = array_spec(path, stored, state.commit.fields)
        for number in range(-(-stored.rows // spec.inner_rows)):
            try:
                shards.check(spec, number)
                chunks += 1
            except StorageError as error:
                if str(error) not in problems:
                    problems.append(str(error))
        documents[path] = spec.document(stored.rows, 0)
        if not _says(medium, path, documents[path]):
            remarks.append(f"`{path}/zarr.json` does not say what is stored; other programs read the array wrongly.")
    for path in GROUPS:
        listings = [None] if path else [None, documents]  # of the whole store as of its last `close`, or not at all
        if not any(_says(medium, path, group_document(each)) for each in listings):
            key = f"{path}/zarr.json".lstrip("/")
            remarks.append(
                f"`{key}` does not say what is stored; other programs may not find all of it, or read it wrongly."
            )
    shards.forget()
    if not problems:
        frames = StoredFrames(medium)
        try:
            counts = frames.node_counts(np.arange(len(frames)))
            for item in frames.fields:
                if item.constant and item.level == "node":
                    rows = frames.column(item, np.arange(len(frames))[:1])
                    if len(frames) and len(rows) != counts[0]:
                        problems.append(
                            f"The structures of {medium.where} have other numbers of atoms than its frames."
                        )
        except StorageError as error:
            problems.append(str(error))
    return StoreReport(state.systems, chunks, problems, remarks)


def _history(medium: Medium) -> list[str]:
    """Every commit record names the checksum of the one before."""
    log = medium.read_log(COMMITS_KEY)
    before = None
    for kind, payload, _ in records(log.raw if log is not None else b""):
        if kind != COMMIT:
            continue
        try:
            previous = json.loads(payload)["previous"]
        except (ValueError, KeyError, TypeError, RecursionError):
            previous = None
        if before is not None and previous != before:
            return [f"`{COMMITS_KEY}` of {medium.where} has a record that does not follow the one before it."]
        before = crc32c(payload)
    return []


_PACKING = re.compile(rb'"cname":"(zstd|lz4)","clevel":[0-9],"shuffle":"(bit)?shuffle"')
"""How chunks were packed, which each chunk says itself."""


def _says(medium: Medium, path: str, document: dict[str, Any]) -> bool:
    """Whether a ``zarr.json`` is as it would be written."""
    found = medium.read(f"{path}/zarr.json".lstrip("/")) or b""
    return _PACKING.sub(b"", found) == _PACKING.sub(b"", to_json(document))
