"""Checking, mending and rewriting trajectory stores, and the command that does it."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections import Counter

import numpy as np
import pytest
import zarr
from zarr.core.buffer import cpu
from zarr.storage import MemoryStore

from athanor.cli.main import call
from athanor.errors import StorageError
from athanor.io.store import maintenance, salvage
from athanor.io.store.check import check_store
from athanor.io.store.layout import fields_to_json
from athanor.io.store.maintenance import repair_store, rewrite_store
from athanor.io.store.places import open_medium
from athanor.io.store.reader import StoredFrames
from athanor.io.store.records import LOG_HEADER_BYTES, frame, log_header, records
from athanor.io.trajectory import TrajectoryReader

from .clouds import Cloud, Server
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


def steps_by_zarr(place) -> list[int]:
    """What other programs read, in the order of writing."""
    group = zarr.open_group(place, mode="r")
    if "data/step" not in group:
        return []
    return group["data/step"][:][np.argsort(group["index/sequence"][:]), 0].tolist()


@pytest.mark.parametrize("then", ["goes on", "is closed", "is killed, and the next one closes it"])
@pytest.mark.parametrize("kept", [FRAMES, 7, 0])
def test_other_programs_do_not_see_what_was_cut_off(place, kept, then):
    """Mutant: a `close` that writes nothing where no row waits."""
    target = writer(place, "frame", **SMALL)
    target.truncate_to(kept)
    if then == "is killed, and the next one closes it":
        target._let_go()
        target = writer(place, "frame", **SMALL)
    wanted = WANTED[:kept]
    if then == "goes on":
        target.append(*make_rows(9))
        wanted = [*wanted, 9, 9]
    target.close()
    assert steps_by_zarr(place) == steps_of_any(place) == wanted
    assert check_store(open_medium(place)).remarks == []
    before = (place / "commits.log").read_bytes()
    writer(place).close()
    assert (place / "commits.log").read_bytes() == before, "there was nothing to do"
    target.zero()
    target.close()
    assert steps_by_zarr(place) == []
    assert check_store(open_medium(place)).remarks == []


def steps_of_any(place) -> list[int]:
    return steps_of(place) if len(TrajectoryReader(place)) else []


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
        raw = file.read_bytes()
        for byte in range(0, len(raw), 37):
            if raw[:byte].endswith(b'"clevel":'):
                continue  # how hard a writer tried is nothing to a reader
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
        ends.append(target._history.log.size)
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


def broken_after_a_close(place, before: int, after: int, damage: str):
    """A store that was closed, went on, and has lost its log, or the first rows of it; frames that it had."""
    target = writer(place, "frame", shard_bytes=1024, buffer_bytes=20_000)
    for step in range(before):
        target.append(*make_rows(step, sizes=SIZES))
    target.close()
    for step in range(before, before + after):
        target.append(*make_rows(step, sizes=SIZES))
    target.end()
    (log,) = (place / "tail").iterdir()
    if damage == "missing":
        log.unlink()
        return
    raw = bytearray(log.read_bytes())
    raw[LOG_HEADER_BYTES + 40] ^= 1
    log.write_bytes(bytes(raw))


SIZES = (2, 3, 1)


def assert_of_the_frames_written(store) -> list[tuple[int, int]]:
    """Every frame has the values with which it was written; step and system of each."""
    rows = TrajectoryReader(store).rows(slice(None))
    atoms = np.split(np.arange(rows.num_nodes), np.cumsum(rows.node_counts)[:-1])
    found = list(zip(*(rows.columns[name].flatten().tolist() for name in ("step", "system_id")), strict=True))
    for place, (step, system) in enumerate(found):
        wanted = make_rows(step, sizes=SIZES)[0].columns
        start = sum(SIZES[:system])
        for name in ("atomic_numbers", "positions"):
            np.testing.assert_array_equal(rows.columns[name][atoms[place]], wanted[name][start : start + SIZES[system]])
        for name in ("cell", "pbc", "energy"):
            np.testing.assert_array_equal(rows.columns[name][place], wanted[name][system])
    return found


def repair_all_that_lost_their_log(tmp_path) -> Counter:
    kinds: Counter = Counter()
    for number, (before, after) in enumerate([(4, 0), (1, 9), (5, 1), (5, 60), (9, 130), (0, 5)]):
        for damage in ("missing", "changed"):
            place = tmp_path / f"{number} {damage}"
            if damage == "changed" and after < 60:
                continue  # its first record is a frame, or there is none
            broken_after_a_close(place, before, after, damage)
            with pytest.raises(StorageError, match="athanor store repair"):
                TrajectoryReader(place)
            done = repair_store(place)
            found = assert_of_the_frames_written(place) if done.frames else []
            assert len(found) == done.frames
            assert found == sorted(set(found)), "in the order of writing"
            assert {(step, system) for step in range(before) for system in range(3)} <= set(found)
            assert "can" in done.lost[0] or "is missing" in done.lost[0] or "is damaged" in done.lost[0]
            assert "are lost, and all that came after it" in done.lost[1]
            kinds[sum(step >= before for step, _ in found) > 0] += 1
            target = writer(place)
            target.append(*make_rows(90, sizes=SIZES))
            target.close()
            assert assert_of_the_frames_written(place) == [*found, (90, 0), (90, 1), (90, 2)]
            assert not check_store(open_medium(place)).problems
    return kinds


def test_repair_keeps_what_stands_in_shards_when_the_log_is_gone(tmp_path):
    kinds = repair_all_that_lost_their_log(tmp_path)
    assert kinds[True]
    assert kinds[False]


def test_frames_that_are_taken_by_their_old_numbers_are_found(tmp_path, monkeypatch):
    """Broken twin: as if only the last frames were lost."""
    monkeypatch.setattr(salvage, "_Left", StoredFrames)
    with pytest.raises((AssertionError, StorageError)):
        repair_all_that_lost_their_log(tmp_path)


def test_frames_whose_atoms_are_lost_are_found(tmp_path, monkeypatch):
    """Broken twin: a frame counts when its rows of systems are there."""
    known, as_system = salvage.level_of, {"node": "system"}
    monkeypatch.setattr(salvage, "level_of", lambda *given: as_system.get(known(*given), known(*given)))
    with pytest.raises((AssertionError, StorageError, KeyError)):
        repair_all_that_lost_their_log(tmp_path)


def test_repair_keeps_all_records_behind_first_bytes_that_are_damaged(tmp_path):
    target = writer(tmp_path, "frame", **SMALL)
    for step in range(5):
        target.append(*make_rows(step))
    target.end()
    for log in (next((tmp_path / "tail").iterdir()), tmp_path / "commits.log"):
        raw = bytearray(log.read_bytes())
        raw[3] ^= 1
        log.write_bytes(bytes(raw))
        with pytest.raises(StorageError, match=r"The first bytes of .* are damaged. `athanor store repair`"):
            writer(tmp_path)
    done = repair_store(tmp_path)
    assert done.frames == 10
    assert ["first bytes" in each for each in done.lost] == [True, True]
    assert steps_of(tmp_path) == [step for step in range(5) for _ in range(2)]


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


def test_the_command_with_an_address(capsys):
    pytest.importorskip("fsspec")
    address = "memory://bucket/t.zarr"
    target = writer(address, "frame", **SMALL)
    for step in range(FRAMES):
        target.append(*make_rows(step))
    target.close()
    assert call(["store", "info", address]) == 0
    told = capsys.readouterr().out
    assert told.startswith(f"{address}: version 1 of the format\n16 frames of 2 systems, 40 atoms in all; ")
    assert call(["store", "info", address, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["path"], found["bytes"]) == (address, None)
    assert call(["store", "verify", address]) == 0
    assert "every checksum is right" in capsys.readouterr().out
    open_medium(address).delete_log(TrajectoryReader(address)._frames._commit.tail)
    assert call(["store", "verify", address]) == 74
    assert call(["store", "repair", address]) == 0
    assert (
        "is missing; the commit record names it.\nOf the 16 frames of the last commit 0 are lost"
        in capsys.readouterr().out
    )
    assert steps_of(address) == WANTED
    assert call(["store", "upgrade", address]) == 0
    assert "newest version" in capsys.readouterr().out
    assert call(["store", "defragment", address]) == 65
    assert "is not a folder; only those are written anew. Copy it into one, and do it there." in capsys.readouterr().err
    assert call(["store", "info", f"{address}/none"]) == 74


def test_repair_of_a_store_that_can_only_be_read_is_refused(place):
    memory = {path.relative_to(place).as_posix(): cpu.Buffer.from_bytes(path.read_bytes())
              for path in place.rglob("*") if path.is_file()}  # fmt: skip
    with pytest.raises(StorageError, match=r"can only be read; nothing was changed. Copy it into a folder first"):
        repair_store(MemoryStore(memory, read_only=True))


def test_repair_at_a_server_that_another_writer_has_is_told():
    """Its log goes while we look, as a later commit names another one: nothing of it is cut."""
    server = Server()
    target = writer(Cloud(server), "frame", **SMALL)
    for step in range(4):
        target.append(*make_rows(step))
    (log,) = {key.rpartition("/")[0] for key in server.objects if key.startswith("tail/")}
    for key in [key for key in server.objects if key.startswith(log)]:
        del server.objects[key]
    done = repair_store(Cloud(server))
    assert "is missing" in done.lost[0]
    with pytest.raises(StorageError, match="another writer"):
        target.append(*make_rows(5))


def test_wide_rows_that_nobody_wrote_are_not_believed(tmp_path):
    """Frames that lack a field are filled with it: not with 32 MB each because a record says so."""
    for number, (closed, believed) in enumerate([(False, 0), (True, 0), (True, 1)]):
        place = tmp_path / str(number)
        target = writer(place, "frame")
        for step in range(5):
            target.append(*make_rows(step))
        target.close() if closed else target.end()
        commits = place / "commits.log"
        (*_, (_, payload, _)) = records(commits.read_bytes()[LOG_HEADER_BYTES:])
        commit = json.loads(payload)
        item = next(item for item in fields_to_json(make_rows(0)[1]) if item["name"] == "energy")
        commit["fields"].append(item | {"name": "descriptor", "shape": [1 << 22], "declared_shape": [1 << 22]})
        if believed:
            commit["arrays"]["data/descriptor"] = [1, 1, 1]
            shutil.copytree(place / "data" / "energy", place / "data" / "descriptor")
        record = frame(1, json.dumps(commit).encode())
        commits.write_bytes(log_header(len(record)) + record)
        with pytest.raises(StorageError, match=r"no such row|does not begin with|does not hold|is damaged"):
            TrajectoryReader(place)
