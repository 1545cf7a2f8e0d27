"""The trajectory store below the sink: schema, missing fields, modes, selective reading, damage."""

from __future__ import annotations

import json
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import zarr

from athanor.data import Batch
from athanor.data.fields import FIELDS
from athanor.errors import InputError, MissingFieldError, StorageError
from athanor.io import zarr_writer
from athanor.io.zarr_config import Durability, parse_config
from athanor.io.zarr_reader import TrajectoryReader
from athanor.io.zarr_rows import Rows, decode_block
from athanor.io.zarr_schema import (
    FORMAT_KEY,
    Head,
    StoredField,
    check_name,
    chunk_shape,
    fill_value,
    to_numpy,
    to_tensor,
)
from athanor.sinks import ZarrData

from .stores import make_rows, writer

SMALL = {"chunk_bytes": 1024, "buffer_bytes": 0}
"""No blocks: every commit goes into the arrays."""


@pytest.mark.parametrize("buffer_bytes", [0, 700, 10**7])
def test_rows_come_back_in_order_whether_in_arrays_or_blocks(buffer_bytes):
    memory: dict = {}
    target = writer(memory, chunk_bytes=1024, buffer_bytes=buffer_bytes)
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
    target = writer(tmp_path / "t.zarr", **SMALL)
    for step in range(3):
        target.append(*make_rows(step))
    target.close()
    group = zarr.open_group(tmp_path / "t.zarr", mode="r")
    split = np.split(group["data/positions"][:], group["index/node_end"][:-1])
    assert [len(part) for part in split] == [2, 3] * 3
    for _, array in group["data"].arrays():
        assert "crc32c" in [codec.to_dict()["name"] for codec in array.metadata.codecs][-1]
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


def test_a_store_with_presence_rows_is_read_and_continued(repository, tmp_path):
    with zipfile.ZipFile(repository / "tests" / "data" / "store_with_presence_rows.zip") as archive:
        archive.extractall(tmp_path)
    with ZarrData(tmp_path) as sink:
        assert sink.read().energy.flatten().nan_to_num(7.0).tolist() == [-1.0, 7.0, 7.0, -4.0, 7.0]
        sink.write(Batch.from_data_list([sink.read().get_data(0)]))
    found = ZarrData(tmp_path, mode="r").read()
    assert [data.energy is None for data in found.to_data_list()] == [False, True, True, False, True, False]
    assert found.num_nodes_list == [1, 2, 3, 4, 5, 1]


def test_a_store_whose_writer_left_out_empty_chunks_is_read_and_continued(repository, tmp_path):
    with zipfile.ZipFile(repository / "tests" / "data" / "store_without_empty_chunks.zip") as archive:
        archive.extractall(tmp_path)
    for steps in (4, 6):
        found = ZarrData(tmp_path, mode="r").read()
        assert found.system_id.flatten().tolist() == [-1] * steps
        assert not found.pbc.any()
        assert found.positions[:6, 0].tolist() == [0.0, 1.0, 4.0, 10.0, 11.0, 14.0]
        assert all(data.energy is None for data in found.to_data_list())
        with ZarrData(tmp_path) as sink:
            sink.write(found.index_select([0, 1]))


def rows_at_fill_values() -> tuple[Rows, list[StoredField]]:
    """Two systems with every field of the field table, each at its fill value throughout."""
    rows, fields = Rows(np.array([2, 3]), np.array([4, 0])), []
    for spec in FIELDS.values():
        dtype = {"integer": torch.int64, "boolean": torch.bool}.get(spec.kind, torch.float64)
        item = StoredField.of(spec, torch.zeros(1, *(size or 4 for size in spec.shape), dtype=dtype))
        shape = (rows.counts[spec.level], *item.shape)
        rows.columns[spec.name] = np.full(shape, fill_value(item.numpy_dtype), dtype=item.numpy_dtype)
        fields.append(item)
    return rows, fields


@pytest.mark.parametrize("buffer_bytes", [0, 10**7])
def test_every_field_may_be_at_its_fill_value_in_a_store_that_is_opened_again(tmp_path, buffer_bytes):
    given, fields = rows_at_fill_values()
    for opened in range(1, 4):
        target = writer(tmp_path, chunk_bytes=1024, buffer_bytes=buffer_bytes)
        for _ in range(3):
            target.append(given, fields)
        target.close()
        reader = TrajectoryReader(tmp_path)
        assert len(reader) == 6 * opened
        for item in reader.fields:
            found = reader._column(item, np.arange(len(reader)))
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
    target.append(*make_rows(steps))
    return place


def test_damage_is_an_error(tmp_path):
    place = closed_store(tmp_path / "t.zarr")
    files = [path for path in sorted(place.rglob("*")) if path.is_file() and "/c/" in str(path)]
    assert len(files) > 8
    for file in files:
        raw = file.read_bytes()
        flipped = bytearray(raw)
        flipped[len(raw) // 2] ^= 4
        file.write_bytes(bytes(flipped))
        with pytest.raises(StorageError, match="damaged"):
            TrajectoryReader(place).rows(slice(None))
        file.unlink()
        with pytest.raises(StorageError, match="is missing"):
            TrajectoryReader(place).rows(slice(None))
        file.write_bytes(raw)
    assert len(TrajectoryReader(place).rows(slice(None)).columns["energy"]) == 82


@pytest.mark.parametrize(
    ("whole", "damaged"),
    [("chunk_shape", "chunk_sh)pe"), ('"regular"', "7"), ('"shape": [', '"shape": [[1],'), ("{", "[")],
)
def test_damaged_metadata_are_an_error(tmp_path, whole, damaged):
    place = closed_store(tmp_path / "t.zarr")
    file = place / "data" / "energy" / "zarr.json"
    file.write_text(file.read_text(encoding="utf-8").replace(whole, damaged, 1), encoding="utf-8")
    for use in (lambda: TrajectoryReader(place).rows(slice(None)), lambda: writer(place)):
        with pytest.raises(StorageError, match=r"Array `data/energy` of .* is missing or damaged"):
            use()


def test_a_damaged_block_or_record_is_an_error():
    memory: dict = {}
    writer(memory).append(*make_rows(0))
    for key in [key for key in memory if key.startswith("tail/") or key == "head.json"]:
        raw = memory[key]
        flipped = bytearray(raw.to_bytes())
        flipped[len(flipped) // 2] ^= 1
        memory[key] = type(raw).from_bytes(bytes(flipped))
        with pytest.raises(StorageError, match="damaged"):
            TrajectoryReader(memory)
        del memory[key]
        if key != "head.json":
            with pytest.raises(StorageError, match="is missing"):
                TrajectoryReader(memory)
        memory[key] = raw


def test_another_version_is_refused():
    memory: dict = {}
    writer(memory).append(*make_rows(0))
    buffer = type(memory[FORMAT_KEY])
    memory[FORMAT_KEY] = buffer.from_bytes(json.dumps({"format": "athanor-trajectory", "version": 9}).encode())
    with pytest.raises(StorageError, match="version 9; this athanor reads 'athanor-trajectory' version 0"):
        TrajectoryReader(memory)
    memory[FORMAT_KEY] = buffer.from_bytes(b"{")
    with pytest.raises(StorageError, match="can not be read"):
        writer(memory)


@pytest.mark.parametrize("name", ["../x", "a/b", ".hidden", "", "a b", "x\n", "/etc/passwd"])
def test_names_can_not_leave_the_store(name):
    with pytest.raises(StorageError, match="can not be the name of a stored field"):
        check_name(name)


def test_a_hostile_record_can_not_leave_the_store():
    memory: dict = {}
    writer(memory, **SMALL).append(*make_rows(0))
    raw = memory["head.json"]
    head = Head.from_bytes(raw.to_bytes(), "here")
    item = head.fields[0]
    evil = StoredField("../../etc/passwd", item.level, item.dtype, item.shape)
    memory["head.json"] = type(raw).from_bytes(Head(1, 2, 5, 0, (evil,), head.arrays, ()).to_bytes())
    with pytest.raises(StorageError, match="can not be the name"):
        TrajectoryReader(memory)


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
    assert Durability.parse(text) == Durability(frames, seconds)


@pytest.mark.parametrize(
    "text",
    ["", "always", "every", "every:0", "every:x", "interval:-1", "interval:nan", "frame,close", "none,every:2", 3],
)
def test_a_wrong_durability_names_the_words(text):
    with pytest.raises(InputError, match=r"Use `frame`, `every:k`, `interval:s`, `close` or `none`"):
        Durability.parse(text)


def test_durability_decides_when_frames_are_committed(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(zarr_writer, "time", SimpleNamespace(monotonic=lambda: now[0]))
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
    assert parse_config({"chunk_bytes": 2048}).chunk_bytes == 2048
    with pytest.raises(InputError, match="chunk_size"):
        parse_config({"chunk_size": 3})


def test_chunks_are_sized_by_bytes():
    assert chunk_shape(np.dtype("float64"), (3,), 1 << 20) == (43690, 3)
    assert chunk_shape(np.dtype("float64"), (0,), 1 << 20) == (1 << 20, 1)
    assert chunk_shape(np.dtype("float64"), (1 << 20,), 1024) == (1, 1 << 20)


@pytest.mark.parametrize(
    "dtype",
    [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
     torch.uint8, torch.bool, torch.complex64],
)  # fmt: skip
def test_every_dtype_survives(dtype):
    from athanor.data.fields import FieldSpec

    values = torch.arange(6).reshape(2, 3).to(dtype)
    item = StoredField.of(FieldSpec("mine", "system", (3,), "any"), values)
    rows = Rows(np.array([1, 1]), np.zeros(2, dtype=np.int64), {"mine": to_numpy(values)})
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
    velocities = StoredField.of(FIELDS["velocities"], torch.ones(1, 3, dtype=dtype))
    assert to_tensor(velocities.missing_rows(2), velocities).tolist() == [[0.0] * 3] * 2
    for name, size in (("dipole", 3), ("charge", 1)):
        item = StoredField.of(FIELDS[name], torch.ones(1, size, dtype=dtype))
        assert to_tensor(item.missing_rows(1), item).isnan().all()


def test_what_can_not_be_stored_is_refused():
    from athanor.data.fields import FieldSpec

    with pytest.raises(StorageError, match=r"`mine` has dtype torch.float8_e5m2"):
        StoredField.of(FieldSpec("mine", "system", (3,), "any"), torch.zeros(2, 3).to(torch.float8_e5m2))


def test_a_block_with_an_impossible_header_is_refused():
    import zlib

    from athanor.io.zarr_schema import TailBlock

    huge = [["node_counts", "<i8", [10**9]]]
    for length, header in ((1 << 60, b"{"), (2, b"[]"), (2, b"[["), (len(json.dumps(huge)), json.dumps(huge).encode())):
        raw = b"ATHB" + length.to_bytes(8, "little") + header
        with pytest.raises(StorageError, match="impossible header"):
            decode_block(raw, TailBlock("tail/1", 1, 1, 0, len(raw), zlib.crc32(raw)), "here")
