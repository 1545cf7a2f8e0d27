"""The trajectory store below the sink: schema, missing fields, modes, selective reading, damage."""

from __future__ import annotations

import json
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import zarr

from athanor.data.fields import FIELDS
from athanor.errors import InputError, MissingFieldError, StorageError
from athanor.io.store import acknowledgement
from athanor.io.store.config import Durability, parse_config
from athanor.io.store.layout import FORMAT_KEY, Commit, StoredField, check_name, to_numpy, to_tensor
from athanor.io.store.packing import pack_arrays, unpack_arrays
from athanor.io.store.records import crc32c, frame, log_header
from athanor.io.store.rows import Rows
from athanor.io.store.shards import ArraySpec, fill_value
from athanor.io.trajectory import TrajectoryReader
from athanor.sinks import ZarrData

from .stores import make_rows, writer

SMALL = {"shard_bytes": 1024, "buffer_bytes": 0}
"""Every frame moves into the arrays at once."""


@pytest.mark.parametrize("buffer_bytes", [0, 700, 10**7])
def test_rows_come_back_in_order_whether_in_arrays_or_in_the_log(buffer_bytes):
    memory: dict = {}
    target = writer(memory, shard_bytes=1024, buffer_bytes=buffer_bytes)
    steps = 12
    for step in range(steps):
        target.append(*make_rows(step, sizes=(1 + step % 3, 4)))
    reader = TrajectoryReader(memory)
    rows = [make_rows(step, sizes=(1 + step % 3, 4))[0] for step in range(steps)]
    ends = np.cumsum(np.concatenate([part.node_counts for part in rows]))
    found = reader.rows(slice(None))
    for name in rows[0].columns:
        np.testing.assert_array_equal(found.columns[name], np.concatenate([part.columns[name] for part in rows]))
    chosen = [23, 0, 7, 7, -1]
    systems = np.split(np.concatenate([part.columns["positions"] for part in rows]), ends[:-1])
    wanted = np.concatenate([systems[index] for index in chosen])
    np.testing.assert_array_equal(reader.rows(chosen).columns["positions"], wanted)


def test_plain_zarr_reads_a_closed_store(tmp_path):
    target = writer(tmp_path / "t.zarr", shard_bytes=1024)
    for step in range(3):
        target.append(*make_rows(step))
    target.close()
    group = zarr.open_group(tmp_path / "t.zarr", mode="r")
    split = np.split(group["data/positions"][:], group["index/node_end"][:-1])
    assert [len(part) for part in split] == [2, 2, 2, 3, 3, 3], "frames of a system stand together"
    places = np.argsort(group["index/sequence"][:])
    found = np.concatenate([split[place] for place in places])
    np.testing.assert_array_equal(found, TrajectoryReader(tmp_path / "t.zarr").rows(slice(None)).columns["positions"])
    numbers = np.split(group["structures/atomic_numbers"][:], group["index/structure_end"][:-1])
    assert [len(numbers[which]) for which in group["index/structure"][:]] == [len(part) for part in split]
    for _, array in [*group["data"].arrays(), *group["structures"].arrays()]:
        names = [codec["name"] for codec in array.metadata.codecs[0].to_dict()["configuration"]["codecs"]]
        assert names == ["bytes", "blosc", "crc32c"]
        assert array.fill_value == -1 or array.fill_value != array.fill_value or array.dtype == bool


def test_modes(tmp_path):
    place = tmp_path / "t.zarr"
    with pytest.raises(FileNotFoundError, match="holds no trajectory"):
        TrajectoryReader(place)
    target = writer(place, mode="x")
    target.append(*make_rows(0))
    target.close()
    with pytest.raises(FileExistsError, match="holds a trajectory already"):
        writer(place, mode="x")
    again = writer(place)
    assert again.acknowledged == 2
    again.append(*make_rows(1))
    again.close()
    assert len(TrajectoryReader(place)) == 4
    fresh = writer(place, mode="w")
    assert fresh.written == 0
    assert len(TrajectoryReader(place)) == 0
    fresh.append(*make_rows(5, names=("energy", "system_id")))
    assert len(TrajectoryReader(place)) == 2


@pytest.mark.parametrize("mode", ["a", "w", "x"])
def test_a_folder_of_somebody_else_is_left_alone(tmp_path, mode):
    (tmp_path / "thesis.tex").write_text("years of work", encoding="utf-8")
    with pytest.raises(StorageError, match="not a trajectory store; nothing was changed"):
        writer(tmp_path, mode=mode)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(StorageError, match="is a file"):
        writer(tmp_path / "thesis.tex", mode=mode)


def test_other_things_than_stores_are_refused():
    with pytest.raises(InputError, match="`store` is a int; pass a path"):
        writer(7)


def test_a_field_of_another_kind_is_refused_and_nothing_is_written():
    memory: dict = {}
    target = writer(memory)
    target.append(*make_rows(0))
    before = dict(memory)
    rows, fields = make_rows(1, names=(*make_rows(0)[0].columns, "forces"))
    with pytest.raises(StorageError, match="`forces` is new to the store in memory"):
        target.append(rows, fields)
    rows, fields = make_rows(1, dtype=torch.float32)
    with pytest.raises(StorageError, match=r"`positions` is node-level float32 .*holds node-level float64"):
        target.append(rows, fields)
    assert target.written == 2
    assert memory.keys() == before.keys()
    target.append(*make_rows(1))
    assert target.written == 4


@pytest.mark.parametrize("buffer_bytes", [0, 10**7])
def test_a_field_that_is_missing_later_is_filled(buffer_bytes):
    memory: dict = {}
    target = writer(memory, "every:2", buffer_bytes=buffer_bytes)
    names = tuple(make_rows(0)[0].columns)
    for step in range(4):
        lacking = tuple(name for name in names if step % 2 == 0 or name not in ("energy", "cell"))
        target.append(*make_rows(step, names=lacking))
    target.flush()
    reader = TrajectoryReader(memory)
    found = reader.rows(slice(None))
    assert np.isnan(found.columns["energy"][[2, 3, 6, 7]]).all()
    np.testing.assert_array_equal(found.columns["energy"][4:6], make_rows(2)[0].columns["energy"])
    assert (found.columns["cell"][[2, 3, 6, 7]] == 0).all()
    assert "energy" not in reader.rows([2, 3]).columns


@pytest.mark.parametrize("buffer_bytes", [0, 10**7])
def test_table_fields_with_a_default_may_join_later(buffer_bytes):
    memory: dict = {}
    target = writer(memory, buffer_bytes=buffer_bytes)
    names = ("positions", "system_id")
    target.append(*make_rows(0, names=names))
    target.append(*make_rows(1, names=(*names, "velocities", "fixed", "dof")))
    target.close()
    found = TrajectoryReader(memory).rows(slice(None))
    assert (found.columns["velocities"][:5] == 0).all()
    wanted = make_rows(1, names=(*names, "velocities", "fixed", "dof"))[0].columns["velocities"]
    np.testing.assert_array_equal(found.columns["velocities"][5:], wanted)
    assert not found.columns["fixed"][:5].any()
    assert np.isnan(found.columns["dof"]).flatten().tolist() == [True, True, False, False]


@pytest.fixture
def old_store(repository, tmp_path, request):
    with zipfile.ZipFile(repository / "tests" / "data" / f"{request.param}.zip") as archive:
        archive.extractall(tmp_path)
    return tmp_path


@pytest.mark.parametrize("old_store", ["store_with_presence_rows"], indirect=True)
def test_a_store_of_version_0_with_presence_rows_is_read(old_store):
    found = ZarrData(old_store, mode="r").read()
    assert found.energy.flatten().nan_to_num(7.0).tolist() == [-1.0, 7.0, 7.0, -4.0, 7.0]
    assert [data.energy is None for data in found.to_data_list()] == [False, True, True, False, True]
    assert found.num_nodes_list == [1, 2, 3, 4, 5]
    assert int(ZarrData(old_store, mode="r").read_rows([-2]).num_nodes) == 4


@pytest.mark.parametrize("old_store", ["store_without_empty_chunks"], indirect=True)
def test_a_store_of_version_0_whose_writer_left_out_empty_chunks_is_read(old_store):
    found = ZarrData(old_store, mode="r").read()
    assert found.system_id.flatten().tolist() == [-1] * 4
    assert not found.pbc.any()
    assert found.positions[:6, 0].tolist() == [0.0, 1.0, 4.0, 10.0, 11.0, 14.0]
    assert all(data.energy is None for data in found.to_data_list())


@pytest.mark.parametrize("old_store", ["store_version_1"], indirect=True)
def test_stores_that_the_first_writer_of_version_1_left_are_read(old_store):
    """One that was closed, one whose writer was killed; with the zarr that is installed here, whichever it is."""
    wanted = {
        name: np.concatenate([make_rows(step)[0].columns[name] for step in range(6)])
        for name in make_rows(0)[0].columns
    }
    for name in ("closed", "killed"):
        found = TrajectoryReader(old_store / name).rows(slice(None))
        for field, column in wanted.items():
            np.testing.assert_array_equal(found.columns[field], column)
        target = writer(old_store / name)
        target.append(*make_rows(6))
        target.close()
    for name in ("closed", "killed"):
        group = zarr.open_group(old_store / name, mode="r")
        frames = np.split(group["data/positions"][:], group["index/node_end"][:-1])
        found = np.concatenate([frames[place] for place in np.argsort(group["index/sequence"][:])[:12]])
        np.testing.assert_array_equal(found, wanted["positions"])


@pytest.mark.parametrize("old_store", ["store_with_presence_rows"], indirect=True)
def test_a_store_of_version_0_is_not_written(old_store):
    with pytest.raises(StorageError, match=r"is of version 0 of the format, .* `athanor store upgrade` brings it to"):
        ZarrData(old_store)
    fresh = writer(old_store, mode="w")
    fresh.append(*make_rows(0))
    fresh.close()
    assert len(TrajectoryReader(old_store)) == 2
    assert not (old_store / "head.json").exists()


def rows_at_fill_values() -> tuple[Rows, list[StoredField]]:
    """Two systems with every field of the field table, each at its fill value throughout."""
    rows, fields = Rows(np.array([2, 3])), []
    for spec in (spec for spec in FIELDS.values() if spec.level != "edge"):
        dtype = {"integer": torch.int64, "boolean": torch.bool}.get(spec.kind, torch.float64)
        item = StoredField.of(spec, dtype, tuple(size or 4 for size in spec.shape))
        shape = (rows.count(spec.level), *item.shape)
        rows.columns[spec.name] = np.full(shape, fill_value(item.numpy_dtype), dtype=item.numpy_dtype)
        fields.append(item)
    return rows, fields


@pytest.mark.parametrize("buffer_bytes", [0, 10**7])
def test_every_field_may_be_at_its_fill_value_in_a_store_that_is_opened_again(tmp_path, buffer_bytes):
    given, fields = rows_at_fill_values()
    for opened in range(1, 4):
        target = writer(tmp_path, shard_bytes=1024, buffer_bytes=buffer_bytes)
        for _ in range(3):
            target.append(given, fields)
        target.close()
        reader = TrajectoryReader(tmp_path)
        assert len(reader) == 6 * opened
        for item in reader.fields:
            found = reader._frames.column(item, np.arange(len(reader)))
            np.testing.assert_array_equal(found, np.concatenate([given.columns[item.name]] * 3 * opened), item.name)


def test_a_field_that_can_not_be_filled_must_stay():
    memory: dict = {}
    target = writer(memory)
    target.append(*make_rows(0))
    rows, fields = make_rows(1, names=[name for name in make_rows(0)[0].columns if name != "atomic_numbers"])
    with pytest.raises(StorageError, match=r"`atomic_numbers` is missing from the frame.*write it in every frame"):
        target.append(rows, fields)


def test_system_values_need_no_atoms():
    memory: dict = {}
    target = writer(memory, **SMALL)
    for step in range(3):
        target.append(*make_rows(step))
    reader = TrajectoryReader(memory)
    assert reader.system_values("step").flatten().tolist() == [0, 0, 1, 1, 2, 2]
    with pytest.raises(MissingFieldError, match="no system field `positions`"):
        reader.system_values("positions")
    with pytest.raises(IndexError, match="Row 6 is out of range"):
        reader.rows([6])
    with pytest.raises(InputError, match="pass a list of integers"):
        reader.rows([0.5])


def test_a_reader_stays_at_its_commit():
    memory: dict = {}
    target = writer(memory, buffer_bytes=600)
    target.append(*make_rows(0))
    reader = TrajectoryReader(memory)
    for step in range(1, 6):
        target.append(*make_rows(step))
    target.close()
    assert len(reader) == 2
    np.testing.assert_array_equal(reader.rows([0, 1]).columns["positions"], make_rows(0)[0].columns["positions"])
    reader.refresh()
    assert len(reader) == 12


def closed_store(place, steps=40):
    target = writer(place, "close", **SMALL)
    for step in range(steps):
        target.append(*make_rows(step))
    target.close()
    return place


def flipped(raw: bytes, place: int) -> bytes:
    changed = bytearray(raw)
    changed[place] ^= 4
    return bytes(changed)


def test_every_flipped_bit_and_every_missing_file_is_told(tmp_path):
    """Of what is read; what is written for other programs only is looked at by `verify`."""
    place = closed_store(tmp_path / "t.zarr", 10)
    wanted = TrajectoryReader(place).rows(slice(None))
    files = [path for path in sorted(place.rglob("*")) if path.is_file() and path.name not in ("LOCK", "zarr.json")]
    assert len(files) > 12
    for file in files:
        raw = file.read_bytes()
        for byte in range(0, len(raw), 37):
            file.write_bytes(flipped(raw, byte))
            with pytest.raises(StorageError):
                TrajectoryReader(place).rows(slice(None))
        for part in (raw[:-1], raw[: len(raw) // 2], b""):
            file.write_bytes(part)
            with pytest.raises(StorageError):
                TrajectoryReader(place).rows(slice(None))
        file.unlink()
        if file.name != "commits.log":
            with pytest.raises(StorageError, match=r"is missing|holds no trajectory"):
                TrajectoryReader(place).rows(slice(None))
        file.write_bytes(raw)
    found = TrajectoryReader(place).rows(slice(None))
    for name, column in wanted.columns.items():
        np.testing.assert_array_equal(found.columns[name], column)


def test_metadata_of_other_programs_change_nothing(tmp_path):
    place = closed_store(tmp_path / "t.zarr", 3)
    wanted = TrajectoryReader(place).rows(slice(None))
    for file in place.rglob("zarr.json"):
        file.write_bytes(b"{")
    np.testing.assert_array_equal(TrajectoryReader(place).rows(slice(None)).columns["energy"], wanted.columns["energy"])


def test_a_flipped_bit_of_an_acknowledged_frame_is_no_torn_record(tmp_path):
    """The header of the log tells how much was acknowledged. Mutant: without it, frames vanish without a word."""
    target = writer(tmp_path, "frame")
    for step in range(3):
        target.append(*make_rows(step))
    (log,) = (tmp_path / "tail").iterdir()
    raw = log.read_bytes()
    log.write_bytes(flipped(raw, len(raw) - 9))
    with pytest.raises(
        StorageError, match=r"is damaged behind byte .*, of .* that were written safely. `athanor store"
    ):
        TrajectoryReader(tmp_path)
    log.write_bytes(log_header(0) + flipped(raw, len(raw) - 9)[len(log_header(0)) :])
    assert len(TrajectoryReader(tmp_path)) == 4
    log.write_bytes(raw)
    assert len(TrajectoryReader(tmp_path)) == 6


def test_another_version_is_refused():
    memory: dict = {}
    writer(memory).append(*make_rows(0))
    buffer = type(memory[FORMAT_KEY])
    memory[FORMAT_KEY] = buffer.from_bytes(json.dumps({"format": "athanor-trajectory", "version": 9}).encode())
    with pytest.raises(StorageError, match="is of version 9 of the format; this athanor knows versions up to 1"):
        TrajectoryReader(memory)
    for wrong in (
        b"{",
        b"[1]",
        b'{"format": "other", "version": 1}',
        b'{"format": "athanor-trajectory", "version": "1"}',
    ):
        memory[FORMAT_KEY] = buffer.from_bytes(wrong)
        for mode in ("a", "w"):
            with pytest.raises(StorageError, match="is not that of a trajectory"):
                writer(memory, mode=mode)


@pytest.mark.parametrize("name", ["../x", "a/b", ".hidden", "", "a b", "x\n", "/etc/passwd"])
def test_names_can_not_leave_the_store(name):
    with pytest.raises(StorageError, match="can not be the name of a stored field"):
        check_name(name)


def hostile(place, **changes) -> None:
    """Write the last commit record anew, changed, with the checksum that it then has."""
    target = writer(place)
    state = target._history.state.commit
    target.end()
    record = json.loads(state.to_bytes()) | changes
    raw = frame(1, json.dumps(record).encode())
    (place / "commits.log").write_bytes(log_header(len(raw)) + raw)


@pytest.mark.parametrize(
    "changes",
    [
        {"tail": "../../../etc/passwd"},
        {"tail": "tail/../x.log"},
        {"systems": 2**62},
        {"systems": -1},
        {"nodes": 1.5},
        {"arrays": {"data/../../x": [1, 1, 1]}},
        {"arrays": {"data/positions": [2**61, 1, 1]}},
        {"arrays": {"data/positions": [1, 0, 1]}},
        {"arrays": {"data/positions": [1, 2**61, 2**61]}},
        {"fields": [{"name": "../x", "level": "node", "dtype": "float64", "shape": [3]}]},
        {"fields": 3},
        {"more": 1},
    ],
)
def test_a_hostile_record_is_refused(tmp_path, changes):
    place = closed_store(tmp_path / "t.zarr", 3)
    hostile(place, **changes)
    for use in (lambda: TrajectoryReader(place).rows(slice(None)), lambda: writer(place)):
        with pytest.raises(StorageError):
            use()


def test_a_field_can_not_be_called_out_of_the_store(tmp_path):
    place = closed_store(tmp_path / "t.zarr", 3)
    commit = writer(place)._history.state.commit
    for changes in ({"name": "../../etc/passwd"}, {"dtype": "object"}, {"shape": [-1]}, {"level": "edge"}):
        fields = json.loads(commit.to_bytes())["fields"]
        fields[0] |= changes
        with pytest.raises(StorageError, match=r"says what can not be|can not be the name"):
            Commit.from_bytes(json.dumps(json.loads(commit.to_bytes()) | {"fields": fields}).encode(), "here")


@pytest.mark.parametrize(
    ("text", "frames", "seconds"),
    [
        ("frame", 1, None),
        ("every:10", 10, None),
        ("every:10,interval:5", 10, 5.0),
        ("interval:0.5, every:3", 3, 0.5),
        ("close", None, None),
        ("none", None, None),
    ],
)
def test_durability(text, frames, seconds):
    assert Durability.parse(text) == Durability(frames, seconds, text != "none")


@pytest.mark.parametrize(
    "text",
    ["", "always", "every", "every:0", "every:x", "interval:-1", "interval:nan", "frame,close", "none,every:2", 3],
)
def test_a_wrong_durability_names_the_words(text):
    with pytest.raises(InputError, match=r"Use `frame`, `every:k`, `interval:s`, `close` or `none`"):
        Durability.parse(text)


def test_durability_decides_when_frames_are_committed(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(acknowledgement, "time", SimpleNamespace(monotonic=lambda: now[0]))
    counts = {}
    for text in ("frame", "every:3", "interval:5", "close"):
        target = writer({}, text)
        counts[text] = []
        for step in range(7):
            target.append(*make_rows(step))
            counts[text].append(target.acknowledged // 2)
            now[0] += 2.0
        assert target.written == 14
        target.close()
        assert target.acknowledged == 14
    assert counts["frame"] == [1, 2, 3, 4, 5, 6, 7]
    assert counts["every:3"] == [0, 0, 3, 3, 3, 6, 6]
    assert counts["interval:5"] == [0, 0, 0, 4, 4, 4, 7]
    assert counts["close"] == [0] * 7


def test_config():
    assert parse_config({"shard_bytes": 2048}).shard_bytes == 2048
    with pytest.raises(InputError, match="chunk_size"):
        parse_config({"chunk_size": 3})


def test_arrays_are_cut_by_bytes():
    def cut(shape: tuple[int, ...], shard_bytes: int, per_atom: bool) -> tuple[int, int]:
        spec = ArraySpec.sized("data/x", np.dtype("float64"), shape, shard_bytes, per_atom=per_atom)
        return spec.inner_rows, spec.shard_rows

    assert cut((3,), 1 << 22, True) == (2048, 1 << 17)
    assert cut((1,), 1 << 22, False) == (8192, 1 << 14)
    assert cut((0,), 1 << 20, False) == (1 << 14, 1 << 14)
    assert cut((1 << 20,), 1024, True) == (1, 1)


@pytest.mark.parametrize(
    "dtype",
    [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
     torch.uint8, torch.bool, torch.complex64],
)  # fmt: skip
def test_every_dtype_survives(dtype):
    from athanor.data.fields import FieldSpec

    values = torch.arange(6).reshape(2, 3).to(dtype)
    item = StoredField.of(FieldSpec("mine", "system", (3,), "any"), values.dtype, tuple(values.shape[1:]))
    rows = Rows(np.array([1, 1]), {"mine": to_numpy(values)})
    for config in (SMALL, {}):
        memory: dict = {}
        target = writer(memory, **config)
        target.append(rows, [item])
        reader = TrajectoryReader(memory)
        back = to_tensor(reader.rows([1, 0]).columns["mine"], reader.fields[0])
        assert back.dtype == dtype
        assert torch.equal(back.flip(0), values)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_who_lacks_a_field_gets_its_default(dtype):
    velocities = StoredField.of(FIELDS["velocities"], dtype, (3,))
    assert to_tensor(velocities.missing_rows(2), velocities).tolist() == [[0.0] * 3] * 2
    for name, size in (("dipole", 3), ("charge", 1)):
        item = StoredField.of(FIELDS[name], dtype, (size,))
        assert to_tensor(item.missing_rows(1), item).isnan().all()


def test_what_can_not_be_stored_is_refused():
    from athanor.data.fields import FieldSpec

    with pytest.raises(StorageError, match=r"`mine` has dtype torch.float8_e5m2"):
        StoredField.of(FieldSpec("mine", "system", (3,), "any"), torch.float8_e5m2, (3,))


def test_a_record_with_an_impossible_header_is_refused():
    for listing in (
        [["a", "<i8", [10**9]]], [["a", "|O", [1]]], [["a", "<f8", [-1]]], [["a", "<f8", [2**62, 2**62]]],
        [["a", "<f8", [0] * 99]], [["a", "nothing", [1]]], 3, [3], [["a", "<f8", 3]], [["a", "<V0", [2**60]]],
    ):  # fmt: skip
        header = json.dumps([listing, None]).encode()
        with pytest.raises(StorageError, match="impossible header"):
            unpack_arrays(len(header).to_bytes(8, "little") + header, "here")
    for raw in (b"", b"1234567", (1 << 60).to_bytes(8, "little") + b"[]", (2).to_bytes(8, "little") + b"[["):
        with pytest.raises(StorageError, match="impossible header"):
            unpack_arrays(raw, "here")


def test_constants_are_kept_once_for_all_frames_that_share_them(tmp_path):
    target = writer(tmp_path, "frame")
    for step in range(6):
        rows, fields = make_rows(step)
        rows.columns["atomic_numbers"] = make_rows(step // 4)[0].columns["atomic_numbers"]
        rows.columns["pbc"] = make_rows(0)[0].columns["pbc"]
        target.append(rows, fields)
    target.close()
    reader = TrajectoryReader(tmp_path)
    numbers = reader.rows(slice(None)).columns["atomic_numbers"].reshape(6, 5)
    wanted = [make_rows(step // 4)[0].columns["atomic_numbers"] for step in range(6)]
    np.testing.assert_array_equal(numbers, np.stack(wanted))
    assert len(zarr.open_group(tmp_path, mode="r")["structures/pbc"][:]) == 4


def test_checksums_are_those_of_zarr():
    """Test vector of RFC 3720, B.4."""
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert pack_arrays({}) == (10).to_bytes(8, "little") + b"[[], null]"
