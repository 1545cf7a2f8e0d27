"""Checking, mending and rewriting trajectory stores, and the command that does it."""

from __future__ import annotations

import json
import shutil
import zipfile

import numpy as np
import pytest

from athanor.cli.main import call
from athanor.errors import StorageError
from athanor.io.store import maintenance
from athanor.io.store.check import check_store
from athanor.io.store.maintenance import repair_store, rewrite_store
from athanor.io.store.places import open_medium
from athanor.io.trajectory import TrajectoryReader

from .stores import make_rows, writer

SMALL = {"shard_bytes": 1024, "buffer_bytes": 3000}
FRAMES = 8


@pytest.fixture
def place(tmp_path):
    target = writer(tmp_path / "t.zarr", "frame", **SMALL)
    for step in range(FRAMES):
        target.append(*make_rows(step))
    target.close()
    return tmp_path / "t.zarr"


def steps_of(place) -> list[int]:
    return TrajectoryReader(place).system_values("step").flatten().tolist()


WANTED = [step for step in range(FRAMES) for _ in range(2)]


def test_a_whole_store_has_no_problem(place):
    found = check_store(open_medium(place))
    assert (found.problems, found.remarks, found.frames) == ([], [], 2 * FRAMES)
    assert found.chunks > 10


def test_every_flipped_bit_and_missing_file_is_a_problem_or_a_remark(place):
    files = [path for path in sorted(place.rglob("*")) if path.is_file() and path.name != "LOCK"]
    for file in files:
        if file.name == "zarr.json" and file.parent.name in ("t.zarr", "data", "index", "structures"):
            continue  # groups hold nothing
        raw = file.read_bytes()
        places = [raw.index(b'"shape"') + 3] if file.name == "zarr.json" else range(0, len(raw), 37)
        for byte in places:
            changed = bytearray(raw)
            changed[byte] ^= 1
            file.write_bytes(bytes(changed))
            assert_noticed(place, file)
        file.unlink()
        assert_noticed(place, file)
        file.write_bytes(raw)
    assert not check_store(open_medium(place)).problems


def assert_noticed(place, file) -> None:
    try:
        found = check_store(open_medium(place))
    except StorageError:
        return
    if file.name == "commits.log" and not file.exists():
        assert found.frames == 0
        return
    told = found.remarks if file.name == "zarr.json" else found.problems
    assert told, file


def test_repair_keeps_the_frames_before_a_damaged_record(tmp_path):
    target = writer(tmp_path, "frame")
    ends = []
    for step in range(4):
        target.append(*make_rows(step))
        ends.append(target._log.size)
    target.end()
    (log,) = (tmp_path / "tail").iterdir()
    raw = bytearray(log.read_bytes())
    raw[-(ends[3] - ends[1]) + 40] ^= 1
    log.write_bytes(bytes(raw))
    with pytest.raises(StorageError, match="athanor store repair"):
        writer(tmp_path)
    assert repair_store(tmp_path).frames == 4
    assert steps_of(tmp_path) == [0, 0, 1, 1]
    target = writer(tmp_path)
    target.append(*make_rows(7))
    target.close()
    assert steps_of(tmp_path) == [0, 0, 1, 1, 7, 7]
    assert not check_store(open_medium(tmp_path)).problems


def test_repair_writes_the_metadata_of_other_programs_anew(place):
    for file in place.rglob("zarr.json"):
        file.write_bytes(b"{")
    assert len(check_store(open_medium(place)).remarks) > 5
    assert repair_store(place).frames == 2 * FRAMES
    assert not check_store(open_medium(place)).remarks
    assert steps_of(place) == WANTED


def test_a_store_is_written_anew_in_its_place(place):
    before = TrajectoryReader(place).rows(slice(None))
    assert rewrite_store(place) == 2 * FRAMES
    after = TrajectoryReader(place).rows(slice(None))
    for name, column in before.columns.items():
        np.testing.assert_array_equal(after.columns[name], column)
    assert [path.name for path in place.parent.iterdir()] == ["t.zarr"]
    target = writer(place)
    target.append(*make_rows(9))
    target.close()
    assert steps_of(place) == [*WANTED, 9, 9]


@pytest.mark.parametrize("stop", ["the new one", "the exchange"])
def test_a_store_that_could_not_be_written_anew_is_as_it_was(place, monkeypatch, stop):
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    if stop == "the exchange":
        monkeypatch.setattr(maintenance, "_exchange", fail)
    else:
        monkeypatch.setattr(maintenance.TrajectoryWriter, "close", fail)
    with pytest.raises(StorageError, match=r"was not written anew: No space left on device. It is as it was"):
        rewrite_store(place)
    assert steps_of(place) == WANTED
    assert [path.name for path in place.parent.iterdir()] == ["t.zarr"]


def test_folders_change_places_where_the_system_can_not_do_it_at_once(place, monkeypatch):
    monkeypatch.setattr(maintenance.ctypes, "CDLL", lambda *_, **__: None)
    rewrite_store(place)
    assert steps_of(place) == WANTED
    assert [path.name for path in place.parent.iterdir()] == ["t.zarr"]


@pytest.mark.parametrize("name", ["store_with_presence_rows", "store_without_empty_chunks"])
def test_a_store_of_version_0_is_brought_up_to_date(repository, tmp_path, name, capsys):
    old, new = tmp_path / "old", tmp_path / "new"
    with zipfile.ZipFile(repository / "tests" / "data" / f"{name}.zip") as archive:
        archive.extractall(old)
    shutil.copytree(old, new)
    assert call(["store", "upgrade", str(new)]) == 0
    assert "frames written anew" in capsys.readouterr().out
    before, after = (TrajectoryReader(each).rows(slice(None)) for each in (old, new))
    assert before.columns.keys() == after.columns.keys()
    for key, column in before.columns.items():
        np.testing.assert_array_equal(after.columns[key], column)
    assert call(["store", "upgrade", str(new)]) == 0
    assert "is of the newest version; nothing was done" in capsys.readouterr().out


def test_the_command(place, capsys):
    assert call(["store", "info", str(place)]) == 0
    told = capsys.readouterr().out
    assert "version 1 of the format" in told
    assert "16 frames of 2 systems, 40 atoms in all" in told
    assert "atomic_numbers       node    int64     -        once for all frames that share it" in told
    assert call(["store", "verify", str(place)]) == 0
    assert "every checksum is right" in capsys.readouterr().out
    shard = place / "data" / "energy" / "c.0.0"
    raw = bytearray(shard.read_bytes())
    raw[3] ^= 1
    shard.write_bytes(bytes(raw))
    assert call(["store", "verify", str(place), "--json"]) == 74
    found = json.loads(capsys.readouterr().out)
    assert found["exit_code"] == 74
    assert "Chunk 0 of `data/energy/c.0.0`" in found["problems"][0]
    assert call(["store", "mend", str(place)]) == 65
    assert call(["store", "info", str(place / "nowhere")]) == 74
