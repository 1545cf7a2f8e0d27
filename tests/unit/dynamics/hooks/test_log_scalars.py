"""LoggingHook: columns, appending, errors that come through."""

from __future__ import annotations

import csv
import resource

import pytest
import torch

from athanor.data.batch import Batch
from athanor.data.observables import pressure, temperature
from athanor.dynamics.hooks import LoggingHook
from athanor.errors import InputError, OptionalDependencyError, ShapeError, StorageError
from athanor.hooks.context import DynamicsContext
from athanor.hooks.stages import DynamicsStage
from athanor.testing.sink_contract import make_batch, make_system

AFTER = DynamicsStage.AFTER_STEP


def context(batch: Batch, step_count: int = 0) -> DynamicsContext:
    return DynamicsContext(batch=batch, step_count=step_count)


def rows_of(path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_columns_and_types(tmp_path):
    batch = make_batch(3)
    batch.set_field("status", torch.tensor([[0], [1], [2]]))
    hook = LoggingHook("csv", log_path=tmp_path / "log.csv")
    hook(context(batch, 8), AFTER)
    hook.close()
    rows = rows_of(tmp_path / "log.csv")
    assert list(rows[0]) == [
        "step", "time_fs", "system_id", "graph_idx", "status", "energy", "fmax", "kinetic_energy", "total_energy",
        "temperature", "volume", "pressure",
    ]  # fmt: skip
    assert [row["step"] for row in rows] == ["21", "28", "35"]
    assert [row["system_id"] for row in rows] == ["3", "4", "5"]
    assert [row["graph_idx"] for row in rows] == ["0", "1", "2"]
    assert [row["status"] for row in rows] == ["0", "1", "2"]
    assert [float(row["energy"]) for row in rows] == batch.energy.flatten().tolist()
    assert [float(row["temperature"]) for row in rows] == temperature(batch).flatten().tolist()
    largest = batch.forces.norm(dim=1)[:2].max()
    assert float(rows[0]["fmax"]) == pytest.approx(float(largest), rel=1e-12)
    assert [float(row["pressure"]) for row in rows] == pressure(batch).tolist()


def test_a_molecule_beside_a_crystal_has_no_volume(tmp_path):
    molecule = make_system(1, 2)
    molecule.cell, molecule.pbc = torch.zeros(1, 3, 3, dtype=torch.float64), torch.zeros(1, 3, dtype=torch.bool)
    hook = LoggingHook("csv", log_path=tmp_path / "log.csv")
    hook(context(Batch.from_data_list([make_system(0, 2), molecule])), AFTER)
    hook.close()
    rows = rows_of(tmp_path / "log.csv")
    assert float(rows[0]["volume"]) > 0
    assert (rows[1]["volume"], rows[1]["pressure"]) == ("", "")


def test_a_second_run_appends(tmp_path):
    path = tmp_path / "new folder" / "log.csv"
    hook = LoggingHook("csv", log_path=path)
    for _ in range(2):
        with hook:
            hook(context(make_batch(0)), AFTER)
    other = LoggingHook("csv", log_path=path)
    other(context(make_batch(0)), AFTER)
    other.close()
    assert len(rows_of(path)) == 9
    assert path.read_text(encoding="utf-8").count("system_id") == 1


def test_two_hooks_on_one_file_share_its_header(tmp_path):
    batch, path = make_batch(3), tmp_path / "log.csv"
    hooks = [LoggingHook("csv", log_path=path) for _ in range(2)]
    other = LoggingHook("csv", log_path=path, custom_scalars={"one": lambda ctx: torch.ones(3)})
    for hook in (*hooks, other):
        hook(context(batch), AFTER)
    for hook in hooks:
        hook.close()
    assert [row["system_id"] for row in rows_of(path)] == ["3", "4", "5"] * 2
    with pytest.raises(StorageError, match="`log_path` of its own"):
        other.close()


def test_a_half_written_line_is_cut(tmp_path):
    path = tmp_path / "log.csv"
    hook = LoggingHook("csv", log_path=path)
    hook(context(make_batch(0)), AFTER)
    hook.close()
    whole = path.read_text(encoding="utf-8")
    path.write_text(whole + "14,0.", encoding="utf-8")
    hook(context(make_batch(0)), AFTER)
    hook.close()
    assert path.read_text(encoding="utf-8").startswith(whole)
    assert len(rows_of(path)) == 6


def test_other_columns_are_refused(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("step,mood\n1,good\n", encoding="utf-8")
    hook = LoggingHook("csv", log_path=path)
    with pytest.raises(StorageError, match=r"`time_fs` is not a column of `.*log\.csv`, whose header is step,mood"):
        hook(context(make_batch(0)), AFTER)
    hook.close()
    assert path.read_text(encoding="utf-8") == "step,mood\n1,good\n"


def test_a_column_that_is_missing_later_stays_empty(tmp_path):
    path = tmp_path / "log.csv"
    hook = LoggingHook("csv", log_path=path)
    hook(context(make_batch(0)), AFTER)
    hook(context(Batch.from_data_list([make_system(1, 2, energy=False)])), AFTER)
    hook.close()
    assert [row["energy"] == "" for row in rows_of(path)] == [False, False, False, True]


def test_custom_scalars(tmp_path):
    hook = LoggingHook(
        "csv",
        log_path=tmp_path / "log.csv",
        custom_scalars={
            "atoms": lambda ctx: ctx.batch.num_nodes_per_graph,
            "half": lambda ctx: 0.5,
            "energy": lambda ctx: torch.tensor([[1.0], [2.0], [3.0]]),
        },
    )
    hook(context(make_batch(0)), AFTER)
    hook.close()
    rows = rows_of(tmp_path / "log.csv")
    assert [row["atoms"] for row in rows] == ["2", "1", "3"]
    assert [row["half"] for row in rows] == ["0.5"] * 3
    assert [row["energy"] for row in rows] == ["1.0", "2.0", "3.0"]
    hook.custom_scalars["bad"] = lambda ctx: torch.zeros(2)
    with pytest.raises(ShapeError, match="The scalar `bad` has shape"):
        hook(context(make_batch(0)), AFTER)


def test_rows_are_copies(tmp_path):
    seen = []
    hook = LoggingHook("custom", writer_fn=lambda step, rows: seen.append((step, rows)))
    batch = make_batch(0)
    energy = batch.energy.flatten().tolist()
    hook(context(batch, 4), AFTER)
    batch.energy.zero_()
    assert seen[0][0] == 4
    assert [row["energy"] for row in seen[0][1]] == energy
    assert isinstance(seen[0][1][0]["step"], int)


def test_errors_come_through(tmp_path):
    def broken(step, rows):
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        LoggingHook("custom", writer_fn=broken)(context(make_batch(0)), AFTER)
    (tmp_path / "file").write_text("", encoding="utf-8")
    hook = LoggingHook("csv", log_path=tmp_path / "file" / "log.csv")
    with pytest.raises(StorageError, match=r"can not be (written|continued)"), hook:
        hook(context(make_batch(0)), AFTER)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"backend": "loguru"}, "`backend='loguru'` is unknown"),
        ({"backend": "csv"}, "needs `log_path`"),
        ({"backend": "tensorboard"}, "needs `log_path`"),
        ({"backend": "custom"}, "needs `writer_fn`"),
    ],
)
def test_arguments(arguments, text):
    with pytest.raises(InputError, match=text):
        LoggingHook(**arguments)


def test_tensorboard_says_what_to_install(tmp_path):
    try:
        import tensorboard  # noqa: F401
    except ImportError:
        with pytest.raises(OptionalDependencyError, match="pip install"):
            LoggingHook("tensorboard", log_path=tmp_path)
    else:
        hook = LoggingHook("tensorboard", log_path=tmp_path)
        hook(context(make_batch(0)), AFTER)
        hook.close()
        assert list(tmp_path.iterdir())


def test_memory_goes_into_a_checkpoint_and_the_file_is_cut_back_to_it(tmp_path):
    hook = LoggingHook("csv", log_path=tmp_path / "a.csv")
    hook(context(make_batch(0)), AFTER)
    state = hook.state_dict()
    assert state["rows"] == 3
    before = (tmp_path / "a.csv").read_text(encoding="utf-8")
    hook(context(make_batch(1)), AFTER)
    hook.close()
    other = LoggingHook("csv", log_path=tmp_path / "a.csv")
    other.load_state_dict(state)
    other(context(Batch.from_data_list([make_system(1, 2, energy=False)])), AFTER)
    assert other.state_dict()["rows"] == 4
    lines = (tmp_path / "a.csv").read_text(encoding="utf-8").splitlines()
    assert lines[:4] == before.splitlines()
    assert len(lines) == 5
    with pytest.raises(StorageError, match=r"it had \d+ when the checkpoint was written"):
        LoggingHook("csv", log_path=tmp_path / "b.csv").load_state_dict(state)


def test_rows_that_a_full_disk_took_in_part_are_written_once(tmp_path):
    hook = LoggingHook("csv", log_path=tmp_path / "log.csv")
    hook(context(make_batch(0)), AFTER)
    hook.close()
    before = (tmp_path / "log.csv").read_text(encoding="utf-8")
    for step in range(1, 9):
        hook(context(make_batch(0), step), AFTER)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) * 3, limits[1]))
    try:
        with pytest.raises(StorageError, match="24 rows wait in memory"):
            hook.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / "log.csv").read_text(encoding="utf-8") == before
    hook.close()
    rows = (tmp_path / "log.csv").read_text(encoding="utf-8").splitlines()[1:]
    assert len(rows) == 27
    assert rows[:3] * 9 == rows
