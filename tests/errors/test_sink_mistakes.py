"""Every usual mistake with sinks, one row each; what belongs to others is left as it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from athanor.errors import (
    ArgumentError,
    CapacityError,
    InputError,
    OutOfRangeError,
    ShapeError,
    StorageError,
)
from athanor.io.store.records import LOG_HEADER_BYTES, frame, log_header, records
from athanor.sinks import GPUBuffer, HostMemory, ZarrData

from .mistakes import Mistake, argon, batch, check, table


def full(sink: Any) -> Any:
    sink.write(batch())
    sink.write(batch())


def reader() -> ZarrData:
    store: dict = {}
    sink = ZarrData(store)
    sink.write(batch())
    sink.close()
    return ZarrData(store, mode="r")


SINKS = [
    ("capacity 0", lambda: HostMemory(0), InputError, "`capacity` is 0; give a whole number of at least 1"),
    ("capacity in words", lambda: ZarrData({}, "all"), InputError, "`capacity` is 'all'; give a whole number"),
    ("full", lambda: full(HostMemory(3)), CapacityError, "2 of 3 places are taken and 2 .* Nothing was stored; `drain"),
    ("full store", lambda: full(ZarrData({}, 3)), CapacityError, "Store is full: 2 of 3 .*larger `capacity`"),
    ("too many atoms", lambda: GPUBuffer(3, max_atoms=1).write(batch()), CapacityError, "has 3, more than `max_atoms="),
    ("empty", lambda: HostMemory(3).drain(), StorageError, r"HostMemory is empty; write to it before"),
    ("structure", lambda: HostMemory(3).write(argon()), ArgumentError, "`batch` is a AtomicData; a sink stores a Batc"),
    ("mask", lambda: HostMemory(3).write(batch(), torch.ones(3, dtype=bool)), ShapeError, r"shape \(3,\); .*Nothing w"),
    ("device", lambda: GPUBuffer(3, device="gpu"), InputError, "`device` is 'gpu'"),
    ("mode", lambda: ZarrData({}, mode="rw"), InputError, "`mode='rw'` is unknown. Use one of 'a'"),
    ("durability", lambda: ZarrData({}, durability="often"), InputError, "has the word 'often'. Use `frame`"),
    ("config", lambda: ZarrData({}, config={"chunk": 1}), InputError, "no `chunk`. It has shard_bytes"),
    ("number", lambda: ZarrData(3), InputError, "`store` is a int; pass a path"),
    ("empty path", lambda: ZarrData(""), InputError, "`store` is empty; pass the path of a folder"),
    ("below a file", lambda: ZarrData(Path(__file__) / "x"), StorageError, "can not be opened to write: Not a directo"),
    ("no protocol", lambda: ZarrData("nowhere://x"), InputError, "is not an address of a store"),
    ("read-only", lambda: reader().write(batch()), StorageError, "opened to read; open it with `mode='a'` to write"),
    ("nobody", lambda: reader().frames(99), InputError, "`system_id=99` is not in .*; it holds"),
    ("row", lambda: reader().read_rows([2]), OutOfRangeError, "Row 2 is out of range; .* has 2 rows"),
    ("missing", lambda: ZarrData("no-such-store", mode="r"), StorageError, "holds no trajectory .*Check the path"),
]


@table(SINKS)
def test_mistakes_with_sinks(mistake: Mistake) -> None:
    check(mistake)


def test_stores_of_other_programs_are_left_as_they_are(tmp_path: Path) -> None:
    import zarr

    group = zarr.open_group(str(tmp_path / "other"), mode="w")
    group.create_array("x", shape=(3,), dtype="f4")
    before = sorted(tmp_path.rglob("*"))
    for mode in ("a", "w", "x", "r"):
        with pytest.raises(StorageError, match=r"not a trajectory store; nothing was changed|holds no trajectory"):
            ZarrData(tmp_path / "other", mode=mode)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_record_that_leads_out_of_the_store_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("not a frame", encoding="utf-8")
    sink = ZarrData(tmp_path / "frames")
    sink.write(batch())
    sink.close()
    commits = tmp_path / "frames" / "commits.log"
    *_, (kind, payload, _) = records(commits.read_bytes()[LOG_HEADER_BYTES:])
    raw = frame(kind, json.dumps(json.loads(payload) | {"tail": "../secret"}).encode())
    commits.write_bytes(log_header(len(raw)) + raw)
    with pytest.raises(StorageError, match=r"says what can not be \(the log is called '../secret'\)"):
        ZarrData(tmp_path / "frames", mode="r").read()


def test_a_link_in_a_store_is_not_followed(tmp_path: Path) -> None:
    sink = ZarrData(tmp_path / "frames")
    sink.write(batch())
    sink.close()
    (tmp_path / "frames" / "data").rename(tmp_path / "elsewhere")
    (tmp_path / "frames" / "data").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageError, match="is a link, which may lead out of the store"):
        ZarrData(tmp_path / "frames", mode="r").read()
    (tmp_path / "frames" / "data").unlink()
    (tmp_path / "elsewhere").rename(tmp_path / "frames" / "data")
    commits = tmp_path / "frames" / "commits.log"
    commits.rename(tmp_path / "commits.log")
    commits.symlink_to(tmp_path / "commits.log")
    with pytest.raises(StorageError, match="can not be read"):
        ZarrData(tmp_path / "frames", mode="r").read()
