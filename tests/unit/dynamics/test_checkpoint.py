"""A run that is saved and goes on in another process ends as one that was never interrupted, in every bit."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from athanor.data import Batch
from athanor.dynamics import FIRE, NVE, DynamicsStage, NVTLangevin, SizeAwareSampler
from athanor.dynamics import checkpoint as checkpoint_module
from athanor.dynamics.checkpoint import SavedCheckpoint
from athanor.dynamics.hooks import Checkpoint, SnapshotHook
from athanor.errors import AthanorWarning, ContractError, InputError, MissingFileError, StorageError
from athanor.hooks.csv_file import CsvFile
from athanor.io.checkpoint import CheckpointFolder
from athanor.io.checkpoint.files import DIGESTS
from athanor.models.lj import LennardJonesModelWrapper
from athanor.sinks import AsyncSink, GPUBuffer, HostMemory, TeeSink, ZarrData
from athanor.sinks.base import DataSink
from athanor.testing.dynamics_contract import argon_cluster, argon_crystal, argon_model, with_neighbor_hooks

from .checkpoint_cases import NAMES, PLACES, differences, go_on, outcome, write


@pytest.fixture(scope="module")
def written() -> Iterator[Path]:
    """Where cases are written, in memory if there is such a place: there is much of it, and no disk is tried here."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as place:
        yield Path(place)


@pytest.mark.timeout(300)
def test_a_run_goes_on_in_another_process_with_equal_bits(written, repository):
    """For each integrator and optimizer, and runs in flight: from the first boundary, from the last, and in between."""
    jobs = []
    for name in NAMES:
        last = write(name, written / name)
        numbers = sorted({min(place + 1, last) for place in PLACES} | {last // 2, last - 1, last})
        jobs += [
            {"name": name, "place": str(written / name), "number": number, "scratch": str(written / f"scratch {name}")}
            for number in numbers
        ]
    command = [sys.executable, "-m", "tests.unit.dynamics.checkpoint_cases"]
    done = subprocess.run(command, input=json.dumps(jobs), capture_output=True, text=True, check=False, cwd=repository)
    assert done.returncode == 0, done.stderr[-3000:]
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == len(jobs)
    assert not [(each["name"], each["number"], each["found"][:5]) for each in found if each["found"]]


def test_a_checkpoint_is_a_function_of_the_run(written, tmp_path):
    for name in ("Nose-Hoover", "FIRE", "in flight, stages"):
        if not (written / name).exists():
            write(name, written / name)
        last = write(name, tmp_path / name)
        for number in (1, 4, last):
            one, other = (place / name / "C" / f"{number:08d}" / DIGESTS for place in (written, tmp_path))
            assert one.read_bytes() == other.read_bytes(), (name, number)


def test_what_saves_changes_no_bit(written, tmp_path, monkeypatch):
    name = "in flight, stages"
    if not (written / name).exists():
        write(name, written / name)
    monkeypatch.setattr(Checkpoint, "is_due", lambda self, engine: False)
    write(name, tmp_path)
    one, other = outcome(written / name), outcome(tmp_path)
    del one["state"], other["state"]
    assert not list(differences(one, other, ""))


def test_who_leaves_is_kept_once_with_all_that_it_remembers(tmp_path):
    def engine() -> NVTLangevin:
        sampler = SizeAwareSampler([argon_cluster(3, number) for number in range(7)], max_batch_size=3)
        saves = Checkpoint(tmp_path, every=1, keep_left=True)
        made = NVTLangevin(argon_model(), dt=2.0, temperature=40.0, friction=0.01, n_steps=4, sampler=sampler)
        made.register_hook(saves)
        return with_neighbor_hooks(made)

    engine().run()
    folder = CheckpointFolder(tmp_path)
    saved = Checkpoint.load(tmp_path)
    assert saved.tree["left"] == folder.parts()
    assert len(folder.parts()) == 3
    again = engine()
    saved.restore(again)
    left = saved.left(again)
    assert sorted(one for some in left for one in some.system_id.flatten().tolist()) == list(range(7))
    for some in left:
        assert some.step.flatten().tolist() == [4] * len(some)
        assert "friction" in some.state_rows(again.key)
        again.reopen(some, some.status[:, 0] > 0, torch.full((len(some),), 4))
    again.n_steps = 6
    batch = again.take_back(left)
    (checkpoint,) = [hook for hook in again.hooks if isinstance(hook, Checkpoint)]
    checkpoint.forget_left()
    assert again.tally.running == 7
    assert len(batch) == 3
    again.run()
    assert again.tally == (7, 0, 7, 0, 0, 0)
    saved = Checkpoint.load(tmp_path)
    assert saved.tree["left"] == folder.parts(), "parts that nobody needs stay"
    assert sorted(step for some in saved.left(again) for step in some.step.flatten().tolist()) == [6] * 7


# -- mutants: something is forgotten ---------------------------------------------------------------------------------


def _forget_age(tree):
    """A list is taken for one that was searched just now."""
    for pairs in tree["batch"]["pair_lists"]:
        pairs["reference_positions"] = tree["batch"]["levels"]["node"]["fields"]["positions"].clone()


def _forget_list(tree):
    tree["batch"]["pair_lists"] = []


def _forget_step(tree):
    tree["batch"]["levels"]["system"]["fields"]["step"].zero_()


def _forget_thermostat(tree):
    for level in tree["batch"]["levels"].values():
        level["state"] = [row for row in level["state"] if row[1] not in ("chain", "bath_energy", "known")]


def _forget_hooks(tree):
    tree["hooks"] = [
        (name, {key: value for key, value in state.items() if key not in ("news", "told", "converged")})
        for name, state in tree["hooks"]
    ]


def _forget_steps_of_run(tree):
    tree["steps"] = 0


def _forget_past(tree):
    """What a system that fails goes back to is taken to be where it is."""
    older = tree["engine"]["older"]["keys"]
    for level in tree["batch"]["levels"].values():
        level["state"] = [row for row in level["state"] if row[0] not in older]


FORGETFUL = {
    "older states": ("second chances", _forget_past),
    "age of lists": ("Langevin", _forget_age),
    "lists": ("Langevin", _forget_list),
    "step of the noise": ("Langevin", _forget_step),
    "thermostat": ("Nose-Hoover", _forget_thermostat),
    "memory of hooks": ("FIRE", _forget_hooks),
    "steps of the run": ("NVE", _forget_steps_of_run),
}


@pytest.mark.parametrize("mutant", FORGETFUL.values(), ids=list(FORGETFUL))
def test_what_is_forgotten_is_found(written, tmp_path, mutant, monkeypatch):
    name, forget = mutant
    if not (written / name).exists():
        write(name, written / name)
    number = 10
    assert not go_on(name, written / name, number, tmp_path / "right")
    real = CheckpointFolder.load

    def load(self, which=None):
        found = real(self, which)
        if self.path.parent.name == "wrong" and found.number == number:
            forget(found.tree)
        return found

    monkeypatch.setattr(CheckpointFolder, "load", load)
    try:
        assert go_on(name, written / name, number, tmp_path / "wrong")
    except (InputError, StorageError, KeyError):
        assert forget in (_forget_thermostat,), "it is refused, which is as well"


@pytest.mark.parametrize(
    "twin",
    [
        (DataSink, "load_state_dict", lambda self, state: None),
        (CsvFile, "_cut", lambda self, size: None),
        (HostMemory, "load_state_dict", lambda self, state: None),
        (checkpoint_module, "_renamed", lambda tree, rename: tree),
    ],
    ids=["stores are not cut", "logs are not cut", "what is in memory is lost", "keys are those of the process"],
)
def test_outputs_that_are_not_cut_back_are_found(written, tmp_path, twin, monkeypatch):
    name = "in flight, NVE"
    if not (written / name).exists():
        write(name, written / name)
    assert not go_on(name, written / name, 10, tmp_path / "right")
    monkeypatch.setattr(*twin)
    with pytest.raises((AssertionError, StorageError, KeyError)):
        assert_same(name, written, tmp_path)


def assert_same(name: str, written: Path, place: Path) -> None:
    """That a case is written as before, and goes on with equal bits."""
    write(name, place / "again")
    assert not go_on(name, place / "again", 10, place / "wrong")
    one, other = (folder / "C" / "00000004" / DIGESTS for folder in (written / name, place / "again"))
    assert one.read_bytes() == other.read_bytes()


# -- the hook --------------------------------------------------------------------------------------------------------


def systems() -> Batch:
    return Batch.from_data_list([argon_crystal(2, 3), argon_cluster(9, 1)])


def engine(*hooks, make=NVE, **options):
    options = {"dt": 2.0, "start_temperature": 60.0, **options} if make is NVE else options
    return with_neighbor_hooks(make(argon_model(), hooks=hooks, **options))


def test_when_it_saves(tmp_path, monkeypatch):
    saved = []
    real = Checkpoint._save
    monkeypatch.setattr(
        Checkpoint, "_save", lambda self, *args: (saved.append(args[0]._driver.done), real(self, *args))
    )
    engine(Checkpoint(tmp_path / "a", every=4, seconds=None)).run(systems(), 10)
    assert saved == [0, 4, 8, 10]
    saved.clear()
    engine(Checkpoint(tmp_path / "b", seconds=1e9)).run(systems(), 10)
    assert saved == [0, 10]
    saved.clear()
    engine(Checkpoint(tmp_path / "c", seconds=0.0, keep=3)).run(systems(), 3)
    assert saved == [0, 1, 2, 3, 3]
    assert CheckpointFolder(tmp_path / "c").numbers() == [3, 4, 5]
    saved.clear()

    class Asks:
        frequency, stage = 1, DynamicsStage.AFTER_STEP

        def __call__(self, ctx, stage):
            if ctx.step_count == 5:
                hook.request()

    hook = Checkpoint(tmp_path / "d", seconds=None, every=100)
    run = engine(hook, Asks())
    run.run(systems(), 10)
    assert saved == [0, 6, 10]
    run.run(systems(), 3)
    assert saved == [0, 6, 10, 3]


def test_what_makes_no_sense_is_told(tmp_path):
    for options in ({"every": 0}, {"seconds": -1.0}, {"seconds": None}, {"keep": 0}, {"seconds": "x"}):
        with pytest.raises(InputError):
            Checkpoint(tmp_path / "x", **options)
    with pytest.raises(ContractError, match="pass a function"):
        Checkpoint(tmp_path / "x", extra={})
    with pytest.raises(MissingFileError, match="holds no checkpoint"):
        engine().resume(tmp_path / "nothing")
    assert not Checkpoint.is_in(tmp_path / "nothing")
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="can not be"):
        engine(Checkpoint(tmp_path / "file" / "C")).run(systems(), 1)


def test_a_folder_of_another_run_is_left_alone(tmp_path):
    engine(Checkpoint(tmp_path)).run(systems(), 1)
    before = CheckpointFolder(tmp_path).numbers()
    with pytest.raises(InputError, match="holds checkpoints of another run"):
        engine(Checkpoint(tmp_path)).run(systems(), 1)
    assert CheckpointFolder(tmp_path).numbers() == before
    engine(Checkpoint(tmp_path, overwrite=True)).run(systems(), 1)
    assert CheckpointFolder(tmp_path).numbers() == [before[-1] + 1, before[-1] + 2]


def test_a_tree_of_the_caller_is_kept_beside(tmp_path):
    engine(Checkpoint(tmp_path, extra=lambda: {"chunk": (3, None)})).run(systems(), 2)
    found = SavedCheckpoint.load(tmp_path)
    assert (found.extra, found.steps, found.number) == ({"chunk": (3, None)}, 2, 2)
    assert found.about["engine"]["class"] == "NVE"


def test_a_run_goes_on_beyond_its_end(tmp_path):
    whole = engine().run(systems(), 9)
    engine(Checkpoint(tmp_path)).run(systems(), 5)
    again = engine(Checkpoint(tmp_path))
    again.resume(tmp_path)
    one, other = (batch.without_pairs().state_dict() for batch in (whole, again.run(n_steps=9)))
    assert not list(differences(one["levels"], other["levels"], ""))


def test_two_can_not_go_on_at_once(tmp_path):
    engine(Checkpoint(tmp_path)).run(systems(), 2)
    for hooks in ([Checkpoint(tmp_path)], []):
        one = engine(*hooks)
        batch = one.resume(tmp_path)
        with pytest.raises(StorageError, match="is being written by another run"):
            engine(Checkpoint(tmp_path)).resume(tmp_path)
        one.run(batch, 3)
    engine().resume(tmp_path)


def test_what_was_read_before_another_run_went_on_is_old(tmp_path):
    engine(Checkpoint(tmp_path)).run(systems(), 2)
    old = SavedCheckpoint.load(tmp_path)
    other = engine(Checkpoint(tmp_path))
    other.run(other.resume(tmp_path), 5)
    with pytest.raises(StorageError, match=r"was written to by another run since .* Load the newest"):
        old.restore(engine(Checkpoint(tmp_path)))
    assert SavedCheckpoint.load(tmp_path).steps == 5


class Criterion:
    """Somebody's own, which does not say what it is."""

    works_on_part = False
    keys = frozenset()
    frequency = 1

    def evaluate(self, batch):
        return None


def test_a_criterion_that_says_no_more_than_its_address_is_no_other_one(tmp_path):
    def make():
        return engine(Checkpoint(tmp_path), make=FIRE, dt=0.3, convergence_hook=Criterion())

    make().run(systems(), 2)
    again = make()
    assert int(again.run(again.resume(tmp_path), 4).step.max()) == 4


def test_another_job_is_told_with_what_differs(tmp_path):
    engine(Checkpoint(tmp_path / "C")).run(systems(), 2)
    others = {
        "`engine.dt` was 2.0, and is 1.0": lambda: engine(dt=1.0),
        "`engine.class` was NVE, and is NVTLangevin": lambda: engine(
            make=NVTLangevin, dt=2.0, temperature=60.0, friction=0.1
        ),
        "`model.digest` was": lambda: NVE(LennardJonesModelWrapper(0.0104, 3.4, 6.0), 2.0, start_temperature=60.0),
        "`engine.random_seed` was 42, and is 7": lambda: engine(random_seed=7),
        "`engine.on_error` was 'quarantine', and is 'raise'": lambda: engine(on_error="raise"),
    }
    for words, make in others.items():
        with pytest.raises(InputError, match="was written by another job") as told:
            make().resume(tmp_path / "C")
        assert words in str(told.value)
    with pytest.raises(InputError, match=r"hooks none; this engine has SnapshotHook\. Register the same hooks"):
        engine(SnapshotHook(HostMemory(9))).resume(tmp_path / "C")
    other = engine(random_seed=7)
    with pytest.warns(AthanorWarning, match="The run goes on, with the state of the checkpoint"):
        batch = other.resume(tmp_path / "C", allow=True)
    assert other.random_seed == 42
    with pytest.raises(InputError, match="Run that one"):
        other.run(systems(), 3)
    other.run(batch, 3)
    assert int(batch.step.max()) == 3


def test_outputs_that_are_not_there_any_more_are_told(tmp_path):
    def make(place: Path):
        return engine(SnapshotHook(ZarrData(place / "t.zarr")), Checkpoint(tmp_path / "C"))

    run = make(tmp_path / "a")
    run.run(systems(), 3)
    run.hooks[0].sink.close()
    with pytest.raises(StorageError, match=r"holds 0 frames; it held 6 when the checkpoint was written"):
        make(tmp_path / "b").resume(tmp_path / "C")
    with pytest.raises(InputError, match="Register the same hooks"):
        engine(Checkpoint(tmp_path / "C")).resume(tmp_path / "C")


def test_a_store_with_other_frames_is_told(tmp_path):
    def make():
        return engine(SnapshotHook(ZarrData(tmp_path / "t.zarr"), 2), Checkpoint(tmp_path / "C", every=4, seconds=None))

    run = make()
    run.run(systems(), 9)
    sink = run.hooks[0].sink
    sink.zero()
    batch = systems()
    for name in ("system_id", "step"):
        batch[name] = torch.full((2, 1), 7)
    for _ in range(9):
        sink.write(batch)
    sink.close()
    del run, sink
    gc.collect()
    with pytest.raises(StorageError, match=r"holds other frames .* number 9 is \[7, 7\] and was \[1, 9\]"):
        make().resume(tmp_path / "C")


class Writes(DataSink):
    """A sink of somebody else, that only stores."""

    capacity = None

    def __init__(self):
        self.count = 0

    def write(self, batch, mask=None):
        self.count += len(batch)

    def read(self):
        raise NotImplementedError

    def zero(self):
        self.count = 0

    def __len__(self):
        return self.count


@pytest.mark.parametrize("make", [
    lambda place: AsyncSink(ZarrData(place)), lambda place: GPUBuffer(100), lambda place: HostMemory(100),
    lambda place: TeeSink(HostMemory(50), AsyncSink(ZarrData(place))),
], ids=["async", "gpu buffer", "host memory", "tee"])  # fmt: skip
def test_every_sink_goes_back_to_where_it_was(tmp_path, make):
    sink = make(tmp_path / "t.zarr")
    sink.write(systems().without_pairs())
    state, wanted = sink.state_dict(), sink.read()
    sink.write(systems().without_pairs())
    sink.close()
    del sink
    again = make(tmp_path / "t.zarr")
    again.load_state_dict(state)
    assert len(again) == 2
    assert not list(differences(wanted.state_dict(), again.read().state_dict(), ""))
    again.write(systems().without_pairs())
    assert len(again.read()) == 4
    again.close()


def test_a_sink_that_can_not_forget_says_so():
    sink = Writes()
    sink.write(systems())
    state = sink.state_dict()
    sink.load_state_dict(state)
    sink.write(systems())
    with pytest.raises(StorageError, match="can not forget what was written after the checkpoint"):
        sink.load_state_dict(state)


def test_hooks_between_steps_see_the_whole_batch_and_cost_nothing_where_there_are_none():
    seen = []

    class Looks:
        frequency, stage, on_active = 1, DynamicsStage.AFTER_STEP, True

        def __call__(self, ctx, stage):
            pass

        def is_due(self, engine):
            return engine._driver.done != 2

        def between_steps(self, engine, batch):
            seen.append((engine._driver.done, batch.step.flatten().tolist(), len(batch)))

        def after_steps(self, engine, batch):
            seen.append("over")

    engine(Looks(), Looks()).run(systems(), 3)
    assert seen[::2] == [(0, [0, 0], 2), (1, [1, 1], 2), (3, [3, 3], 2), "over"]
    assert engine()._driver._call_hooks.pausing == []

    class Odd(Looks):
        between_steps = 3

    with pytest.raises(ContractError, match="must be callable"):
        engine(Odd())
    sampler = SizeAwareSampler([argon_cluster(3, number) for number in range(4)], max_batch_size=2)
    seen.clear()
    engine(Looks(), n_steps=2, sampler=sampler, sinks=[HostMemory(9)]).run()
    assert [entry[1] for entry in seen[:-1]] == [[0, 0], [1, 1], [1, 1], [2, 2]]
