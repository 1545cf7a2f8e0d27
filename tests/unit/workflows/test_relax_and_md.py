"""`athanor.relax` and `athanor.md`: order, companions, reasons, folders, and systems that fail."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.constraints import FixAtoms
from ase.io import read, write

import athanor
from athanor import units
from athanor.data import AtomicData, Batch
from athanor.dynamics import NVE
from athanor.errors import ContractError, InputError
from athanor.testing.dynamics_contract import argon_model, with_neighbor_hooks
from athanor.workflows.plan import Plan

pytestmark = pytest.mark.filterwarnings("ignore:.*small-cell:athanor.errors.AthanorWarning")  # four atoms do here
ARGON = {"name": "lennard-jones", "epsilon": 0.0104, "sigma": 3.4, "cutoff": 8.5}


def crystals(count: int = 4) -> list[Atoms]:
    found = []
    for number in range(count):
        atoms = bulk("Ar", "fcc", a=5.2 + 0.05 * number, cubic=True)
        atoms.rattle(0.02, seed=number)
        found.append(atoms)
    return found


def blown_up() -> Atoms:
    atoms = bulk("Ar", "fcc", a=5.3, cubic=True)
    atoms.positions[1] = atoms.positions[0]
    return atoms


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ({"sigma": "abc"}, "`sigma` is 'abc'"),
        ({"half_list": "maybe"}, "'lennard-jones': `half_list` of NeighborConfig is 'maybe'"),
        ({"depth": 3}, "has no option `depth`"),
    ],
)
def test_wrong_arguments_of_a_model_are_mistakes_of_the_input(option: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        athanor.relax(crystals(1), model=ARGON | option, progress=False)


def test_relax_finds_the_minimum_and_leaves_the_input_alone() -> None:
    given = crystals()
    before = [atoms.positions.copy() for atoms in given]
    result = athanor.relax(given, model=ARGON, fmax=0.001, smax=0.001)
    assert result.reasons == ["converged"] * 4
    edges = [atoms.cell.volume ** (1 / 3) for atoms in result.structures]
    assert np.ptp(edges) < 2e-3
    assert result.energies == pytest.approx([result.energies[0]] * 4, abs=1e-5)
    assert all((old == atoms.positions).all() for old, atoms in zip(before, given, strict=True))
    assert result.structures[2].get_potential_energy() == pytest.approx(result.energies[2])
    assert "4 converged" in repr(result)


def test_a_bare_pressure_is_GPa_as_a_bare_smax_is() -> None:
    start = bulk("Ar", "fcc", a=5.2, cubic=True)
    by_number = athanor.relax(start, model=ARGON, pressure=1.0, smax=0.01)
    by_text = athanor.relax(start, model=ARGON, pressure="1 GPa", smax=0.01)
    free = athanor.relax(start, model=ARGON, smax=0.01)
    assert by_number.structures[0].cell.volume == by_text.structures[0].cell.volume
    assert by_number.structures[0].cell.volume < 0.95 * free.structures[0].cell.volume
    pressure = -np.mean(by_text.structures[0].get_stress()[:3]) / units.GPa
    assert pressure == pytest.approx(1.0, abs=0.02)


def test_fixed_cell_and_fixed_atoms_stay() -> None:
    atoms = crystals(1)[0]
    atoms.set_constraint(FixAtoms([0]))
    result = athanor.relax(atoms, model=ARGON, fixed_cell=True)
    assert np.array_equal(result.structures[0].cell.array, atoms.cell.array)
    assert np.allclose(result.structures[0].positions[0], atoms.positions[0], atol=1e-12)
    assert not np.allclose(result.structures[0].positions[1], atoms.positions[1], atol=1e-4)


def test_step_limit_is_told() -> None:
    result = athanor.relax(crystals(2), model=ARGON, fmax=1e-6, smax=1e-6, max_steps=3)
    assert result.reasons == ["step limit"] * 2
    assert result.steps == [3, 3]


def trajectories(max_atoms: int, **settings: object) -> list[np.ndarray]:
    result = athanor.md(
        crystals(), model=ARGON, temperature=40, steps=15, timestep=2.0, max_atoms=max_atoms, **settings
    )
    assert result.reasons == ["done"] * 4
    return [atoms.positions for atoms in result.structures]


def equal(some: list[np.ndarray], others: list[np.ndarray]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(some, others, strict=True))


def test_companions_never_change_a_path() -> None:
    assert equal(trajectories(max_atoms=1000), trajectories(max_atoms=4))
    assert equal(trajectories(max_atoms=1000), trajectories(max_atoms=8))


def test_ids_given_where_systems_join_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken twin: systems are numbered within their batch."""

    def numbered_late(plan: Plan) -> Callable[[Batch], Batch]:
        def late(batch: Batch) -> Batch:
            made = right(plan)(batch)
            made.system_id[:, 0] = torch.arange(len(made)) + 7
            return made

        return late

    right = Plan.as_planned
    monkeypatch.setattr(Plan, "as_planned", numbered_late)
    with pytest.raises(InputError, match="system_id"):
        trajectories(max_atoms=8)


def test_seed_and_momenta_decide_the_start() -> None:
    assert not equal(trajectories(1000, seed=1), trajectories(1000, seed=2))
    atoms = crystals(1)[0]
    atoms.set_momenta(np.full((4, 3), [[0.1, 0.0, 0.0]]))
    moved = athanor.md(atoms, model=ARGON, ensemble="nve", temperature=0, steps=5, timestep=2.0).structures[0]
    assert moved.get_momenta().sum(axis=0) == pytest.approx([0.4, 0.0, 0.0], abs=1e-9)


def test_nve_keeps_the_energy() -> None:
    atoms, smooth = crystals(1)[0].repeat(2), ARGON | {"switch_width": 2.0}
    result = athanor.md(atoms, model=smooth, ensemble="nve", temperature=40, steps=100, timestep=2.0)
    end = result.structures[0]
    start = athanor.md(atoms, model=smooth, ensemble="nve", temperature=40, steps=1, timestep=2.0).structures[0]
    totals = [frame.get_potential_energy() + frame.get_kinetic_energy() for frame in (start, end)]
    assert totals[0] == pytest.approx(totals[1], abs=2e-4)
    assert abs(end.get_kinetic_energy() - start.get_kinetic_energy()) > 2e-3


def test_a_failing_system_is_set_aside_and_the_rest_is_untouched() -> None:
    good = athanor.md(crystals(3), model=ARGON, temperature=40, steps=10, timestep=2.0)
    mixed = crystals(3)
    mixed.insert(3, blown_up())
    result = athanor.md(mixed, model=ARGON, temperature=40, steps=10, timestep=2.0)
    assert result.failed == [3]
    assert result.reasons[3].startswith("failed: ")
    assert np.isnan(result.energies[3])
    assert result.structures[3].calc is None
    assert equal([a.positions for a in good.structures], [a.positions for a in result.structures[:3]])


def test_the_home_folder_has_one_name_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, here = tmp_path / "home", tmp_path / "here"
    here.mkdir()
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(here)
    write(home / "in.extxyz", crystals(1))
    athanor.md("~/in.extxyz", model=ARGON, temperature=30, steps=2, out="~/out")
    assert list(here.iterdir()) == []
    assert {path.name for path in (home / "out").iterdir()} >= {"run.yaml", "trajectory.zarr", "final.extxyz"}
    assert athanor.open("~/out").num_frames == 1


def test_what_is_no_folder_no_model_and_what_is_a_batch() -> None:
    with pytest.raises(InputError, match="zero byte"):
        athanor.md(crystals(1), model=ARGON, out="a\0b")
    with pytest.raises(InputError, match="can not be the name of a folder"):
        athanor.md(crystals(1), model=ARGON, out="x" * 300)
    with pytest.raises(ContractError, match="`model` is a object; pass a model that is wrapped"):
        athanor.md(crystals(1), model=object())
    batch = Batch.from_data_list([AtomicData.from_atoms(atoms) for atoms in crystals(2)])
    assert len(athanor.md([batch, *crystals(1)], model=ARGON, temperature=30, steps=1)) == 3


def test_a_model_that_gives_up_leaves_what_was_done(tmp_path: Path) -> None:
    model, calls = argon_model(), []

    def give_up(*_: object) -> None:
        calls.append(1)
        if len(calls) > 8:
            raise MemoryError("no room")

    model.register_forward_pre_hook(give_up)
    result = athanor.md(crystals(2), model=model, temperature=30, steps=20, max_atoms=8, out=tmp_path / "out")
    assert result.reasons == ["failed: the memory did not suffice for it alone: MemoryError: no room (MD)"] * 2
    assert result.steps == [7, 7]
    run = athanor.open(tmp_path / "out")
    whole = athanor.md(crystals(2), model=argon_model(), temperature=30, steps=7)
    for left, wanted in zip(run.structures, whole.structures, strict=True):
        assert np.allclose(left.positions, wanted.positions, atol=1e-7)
        assert left.get_potential_energy() == pytest.approx(wanted.get_potential_energy(), abs=1e-7)


def test_the_folder_has_everything_in_input_order(tmp_path: Path) -> None:
    write(tmp_path / "in.extxyz", crystals())
    out = tmp_path / "out"
    result = athanor.md(tmp_path / "in.extxyz", model=ARGON, temperature=40, steps=10, max_atoms=8, out=out, every=5)
    run, rows = athanor.open(out).record, athanor.open(out).summary
    assert run["state"] == "finished"
    assert run["outcome"] == {"done": 4}
    assert run["frames"] == 8
    assert run["model"]["name"] == "lennard-jones"
    assert any("Leimkuhler" in text for text in run["citations"])
    assert [row["index_in_file"] for row in rows] == [0, 1, 2, 3]
    assert rows == result.rows
    final = read(out / "final.extxyz", ":")
    assert [atoms.info["name"] for atoms in final] == ["in:0", "in:1", "in:2", "in:3"]
    assert [atoms.get_potential_energy() for atoms in final] == pytest.approx(result.energies)
    assert len((out / "log.csv").read_text(encoding="utf-8").splitlines()) == 9


def test_frames_are_read_back(tmp_path: Path) -> None:
    from athanor.dynamics import ZarrData

    result = athanor.md(crystals(), model=ARGON, steps=6, out=tmp_path / "out", every=2, max_atoms=8)
    frames = ZarrData(result.frames, mode="r").read()
    assert frames.num_graphs == 12
    assert sorted(set(frames.system_id.flatten().tolist())) == [0, 1, 2, 3]
    assert sorted(set(frames.step.flatten().tolist())) == [1, 3, 5]


def test_finished_systems_are_not_written_again(tmp_path: Path) -> None:
    result = athanor.relax([*crystals(), blown_up()], model=ARGON, fmax=1e-3, out=tmp_path / "out", every=2)
    run = athanor.open(tmp_path / "out")
    assert len(set(result.steps)) > 2
    for number, steps in enumerate(result.steps):
        found = run.frames(number)
        assert found.step.flatten().tolist() == sorted({*range(1, steps + 1, 2), steps}), (
            number
        )  # whoever was beside it
    assert run.num_frames == sum(len(run.frames(number)) for number in range(len(run)))
    assert len(run.frames(step=run.last_step)) == len(run)


def test_nothing_is_written_when_the_input_is_wrong(tmp_path: Path) -> None:
    out = tmp_path / "out"
    bad = bulk("Ar")
    bad.positions[:] = np.nan
    for structures, model, words in (
        ([bad], ARGON, "must be finite"),
        (crystals(), ARGON | {"cutof": 3}, "cutof"),
        (crystals(), "no-such-model", "no-such-model"),
    ):
        with pytest.raises(InputError, match=words):
            athanor.relax(structures, model=model, out=out)
        assert not out.exists()


def test_the_default_model_is_for_crystals() -> None:
    with pytest.raises(InputError, match="not periodic"):
        athanor.relax(Atoms("H2", positions=[[0, 0, 0], [0, 0, 0.74]]))


def test_a_molecule_beside_a_crystal() -> None:
    pair = Atoms("Ar2", positions=[[0, 0, 0], [0, 0, 3.6]])
    result = athanor.relax([bulk("Ar", "fcc", a=5.3, cubic=True), pair], model=ARGON, fmax=0.0005)
    assert result.reasons == ["converged", "converged"]
    assert result.structures[1].get_distance(0, 1) == pytest.approx(
        2 ** (1 / 6) * 3.4, abs=0.012
    )  # force 5e-4 eV/Å, stiffness 0.05 eV/Å²


def test_a_wrapped_model_is_as_good_as_a_name() -> None:
    import athanor.models

    model = athanor.models.get("lennard-jones", **{key: ARGON[key] for key in ("epsilon", "sigma", "cutoff")})
    assert athanor.relax(crystals(1), model=model).energies == athanor.relax(crystals(1), model=ARGON).energies


def test_the_dtype_of_torch_and_the_result_of_a_run_are_taken() -> None:
    by_name = athanor.relax(crystals(2), model=ARGON, max_steps=3, dtype="float32")
    by_torch = athanor.relax(crystals(2), model=ARGON, max_steps=3, dtype=torch.float32)
    assert by_torch.energies == by_name.energies
    again = athanor.relax(by_name, model=ARGON, max_steps=3)
    assert again.energies == athanor.relax(by_name.structures, model=ARGON, max_steps=3).energies


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"steps": 3, "time": 4}, "not both"),
        ({"steps": 0}, "steps"),
        ({"temperature": "3 fs"}, "unit"),
        ({"seed": -1}, "seed"),
    ],
)
def test_wrong_arguments(arguments: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        athanor.md(crystals(1), model=ARGON, **arguments)


@pytest.mark.parametrize("pressure", [None, [1.0, 2.0], 1 + 0j, True])
def test_what_is_no_pressure(pressure: object) -> None:
    with pytest.raises(InputError, match=r"`pressure`: .* is not a pressure"):
        athanor.relax(crystals(1), model=ARGON, pressure=pressure)


def test_a_result_goes_on_in_engines_of_the_users(tmp_path: Path) -> None:
    result = athanor.md(crystals(2), model=ARGON, temperature=30, time=3, out=tmp_path / "out", progress=False)
    assert result.structures[0].info["reason"] == "done"
    for structures in (result.structures, read(tmp_path / "out" / "final.extxyz", ":")):
        batch = Batch.from_data_list([AtomicData.from_atoms(atoms, dtype=torch.float64) for atoms in structures])
        before = batch.positions.clone()
        with_neighbor_hooks(NVE(argon_model(), dt=2.0)).run(batch, 2)
        assert batch.step.flatten().tolist() == [5, 5]
        assert bool((batch.positions != before).all())


def test_a_run_goes_on_where_the_last_one_stopped() -> None:
    crystal = bulk("Ar", "fcc", a=5.3, cubic=True)
    settings = {"model": ARGON, "temperature": 40.0, "timestep": 2.0}
    whole = athanor.md([crystal], steps=12, **settings)
    first = athanor.md([crystal], steps=6, **settings)
    second = athanor.md(first.structures, steps=6, **settings)
    assert second.steps == [6]
    assert second.structures[0].info["step"] == 12
    assert second.structures[0].info["time"] == pytest.approx(24.0)
    np.testing.assert_allclose(second.structures[0].positions, whole.structures[0].positions, atol=1e-9)


def test_noise_would_repeat_if_the_step_were_forgotten() -> None:
    first = athanor.md([bulk("Ar", "fcc", a=5.3, cubic=True)], model=ARGON, temperature=40.0, timestep=2.0, steps=6)
    forgetful = first.structures[0].copy()
    del forgetful.info["step"]
    again = [athanor.md([atoms], model=ARGON, temperature=40.0, timestep=2.0, steps=6).structures[0].positions
             for atoms in (first.structures[0], forgetful)]  # fmt: skip
    assert np.abs(again[0] - again[1]).max() > 1e-4


def test_a_cluster_and_a_crystal_in_chunks_of_their_own(tmp_path: Path) -> None:
    """Frames and log hold the same fields for every chunk, whatever is in it."""
    cluster = Atoms("Ar8", [[4.0 * (i % 2), 4.0 * (i // 2 % 2), 4.0 * (i // 4)] for i in range(8)])
    crystal = bulk("Ar", "fcc", a=5.4, cubic=True) * (2, 2, 2)
    crystal.set_constraint(FixAtoms([0]))
    options = {"model": ARGON, "fmax": 0.001, "smax": 0.02, "every": 5}
    together = athanor.relax([cluster, crystal], out=tmp_path / "one", **options)
    apart = athanor.relax([cluster, crystal], out=tmp_path / "two", max_atoms=32, **options)
    assert together.reasons == apart.reasons == ["converged", "converged"]
    assert equal([a.positions for a in together.structures], [a.positions for a in apart.structures])
    run = athanor.open(tmp_path / "two")
    assert np.isnan(run.series(0).volume).all()
    assert np.isfinite(run.series(1).volume).all()
    assert len(run.structures[1].constraints) == 1


def test_what_was_written_on_a_structure_stays_on_it(tmp_path: Path) -> None:
    crystal = crystals(1)[0]
    crystal.info |= {"material_id": "mp-1", "step": 7, "energy": -1.0}
    crystal.arrays["site"] = np.arange(len(crystal))
    crystal.arrays["forces"] = np.ones((len(crystal), 3))
    kept = crystal.copy()
    result = athanor.md([crystal], model=ARGON, temperature=30, steps=2, supercell="2 1 1", out=tmp_path / "out")
    for found in (result.structures[0], athanor.open(tmp_path / "out").structures[0]):
        assert found.info["material_id"] == "mp-1"
        assert found.info["step"] == 2  # that of the run
        assert found.arrays["site"].tolist() == 2 * list(range(len(kept)))
        assert found.get_potential_energy() == pytest.approx(result.energies[0])
        assert "energy" not in found.info
        assert np.abs(found.get_forces()).max() < 0.5
    assert crystal.info == kept.info


def test_the_number_of_threads_is_that_of_before_after_a_call() -> None:
    before, seen = torch.get_num_threads(), []
    other = 1 if before > 1 else 2
    model = argon_model()
    model.register_forward_hook(lambda *given: seen.append(torch.get_num_threads()))
    athanor.evaluate(crystals(1), model=model, threads=other)
    athanor.relax(crystals(1), model=model, threads=other, max_steps=1)
    athanor.md(crystals(1), model=model, threads=other, steps=1)
    assert set(seen) == {other}
    assert torch.get_num_threads() == before
    with pytest.raises(InputError):
        athanor.relax(crystals(1), model=ARGON | {"depth": 3}, threads=other)
    assert torch.get_num_threads() == before


THREADS_OF_OPENMP = """
import re, torch, athanor
from ase.build import bulk
from athanor.testing.dynamics_contract import argon_model

def threads():
    return re.search(r"omp_get_max_threads\\(\\) : (\\d+)", torch.__config__.parallel_info())[1]

model, seen = argon_model(), [threads()]
model.register_forward_hook(lambda *given: seen.append(threads()))
for threads_of_call in (None, None, 2, None):
    athanor.evaluate(bulk("Ar", a=5.3), model=model, threads=threads_of_call, silence=["small-cell"])
print(*seen)
"""


def test_a_call_without_threads_leaves_those_of_openmp_alone() -> None:
    """Numba, when it is asked how many threads it uses, sets those of OpenMP to all cores."""
    without = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    environment = {**without, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "2"}
    run = subprocess.run(
        [sys.executable, "-c", THREADS_OF_OPENMP], env=environment, capture_output=True, text=True, check=True
    )
    assert run.stdout.split() == ["1", "1", "1", "2", "1"]
