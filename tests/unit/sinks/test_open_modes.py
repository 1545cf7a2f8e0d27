"""Every way to name a place, in every mode, after every end: what was written is there, and goes on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import zarr.storage

from athanor.data.batch import Batch
from athanor.errors import StorageError
from athanor.sinks import ZarrData
from athanor.testing.sink_contract import assert_equal, make_batch

_kept: dict[str, Any] = {}


def _memory(path: Path) -> Any:
    return _kept.setdefault(str(path), {})


PLACES: dict[str, Callable[[Path], Any]] = {
    "path": lambda path: path,
    "text": str,
    "dict": _memory,
    "MemoryStore": lambda path: zarr.storage.MemoryStore(_memory(path)),
    "LocalStore": lambda path: zarr.storage.LocalStore(path),
    "StorePath": lambda path: zarr.storage.StorePath(zarr.storage.LocalStore(path.parent), "inner/t.zarr"),
    "StorePath in memory": lambda path: zarr.storage.StorePath(zarr.storage.MemoryStore(_memory(path)), "inner"),
    "address": lambda path: f"memory://{path}",
}
LAYOUTS = ({"buffer_bytes": 0, "shard_bytes": 1024}, {}, {"buffer_bytes": 4000, "shard_bytes": 2048})


@pytest.fixture(params=list(PLACES))
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Any]:
    if request.param == "address":
        pytest.importorskip("fsspec")
    return lambda: PLACES[request.param](tmp_path / "t.zarr")


def behind(*batches: Batch) -> Batch:
    whole = batches[0].clone()
    for batch in batches[1:]:
        whole.append(batch)
    return whole


@pytest.mark.parametrize("end", ["close", "flush", "abandon"])
def test_what_was_written_is_read_and_goes_on(place: Callable[[], Any], end: str) -> None:
    with pytest.raises(StorageError, match="holds no trajectory"):
        ZarrData(place(), mode="r")
    written: list[Batch] = []
    for number, layout in enumerate(LAYOUTS):
        sink = ZarrData(place(), mode="x" if number == 0 else "a", config=layout, durability="frame")
        assert len(sink) == sink.acknowledged == 3 * len(written)
        for step in range(2):
            written.append(make_batch(100 * number + 10 * step))
            sink.write(written[-1])
        getattr(sink, end)()
        reader = ZarrData(place(), mode="r")
        assert_equal(reader.read(), behind(*written))
        assert_equal(reader.read_rows([-1, 0]), behind(written[-1], written[0]).index_select([2, 3]))
        if end == "flush":
            sink.abandon()
    with pytest.raises(StorageError, match="holds a trajectory already"):
        ZarrData(place(), mode="x")
    for call in (lambda: reader.write(written[0]), reader.zero, lambda: reader.truncate_to(0)):
        with pytest.raises(StorageError, match="was opened to read"):
            call()
    assert_equal(ZarrData(place(), mode="r").read(), behind(*written))
    with ZarrData(place(), mode="w") as fresh:
        assert len(fresh) == 0
        assert len(ZarrData(place(), mode="r")) == 0
        with pytest.raises(StorageError, match="empty"):
            ZarrData(place(), mode="r").read()
        fresh.write(make_batch(0, dtype=torch.float32))
    assert_equal(ZarrData(place(), mode="r").read(), make_batch(0, dtype=torch.float32))


def test_a_store_without_frames_is_one(place: Callable[[], Any]) -> None:
    ZarrData(place()).close()
    for mode in ("r", "a"):
        sink = ZarrData(place(), mode=mode)
        assert len(sink) == 0
        with pytest.raises(StorageError, match="is empty; write to it before"):
            sink.read()
        sink.close()
    with pytest.raises(StorageError, match="holds a trajectory already"):
        ZarrData(place(), mode="x")
    with ZarrData(place()) as again:
        again.write(make_batch(0))
    assert_equal(ZarrData(place(), mode="r").read(), make_batch(0))
