"""Further outputs of a model, asked for by name: right in frames, last structures, files and the table."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase.build import bulk
from ase.io import read, write
from torch import nn

import athanor
from athanor.cli.main import call
from athanor.data.atomic_data import AtomicData
from athanor.data.batch import Batch
from athanor.data.convert.ase import place_of
from athanor.errors import InputError
from athanor.io.structures import write_structures
from athanor.models import BaseModelMixin, ModelConfig
from athanor.models.derivatives import strained_view


class Magnet(nn.Module, BaseModelMixin):
    """Springs of different strength to the sites of a lattice, and moments that follow the positions."""

    embedding_shapes: dict[str, tuple[int, ...]] = {}
    dtype = torch.float64

    def __init__(self) -> None:
        super().__init__()
        self.model_config = ModelConfig(
            outputs={"energy", "forces", "magmoms", "uncertainty", "energies", "atomic_energies", "tilt"},
            autograd_outputs={"forces"},
            output_levels={"uncertainty": "system", "energies": "node", "tilt": "system"},
            active_outputs={"energy", "forces"},
            supports_pbc=True,
        )

    def compute_embeddings(self, data, **kwargs):
        raise NotImplementedError

    def forward(self, data, **kwargs):
        return self.outputs_by_autograd(data)

    def attached_energy(self, data, strain, wanted):
        data = strained_view(data, strain)
        squares = data.positions.square().sum(1)
        stiffness = 0.1 + 0.02 * data.system_id.to(squares.dtype)[data.batch_idx, 0]
        per_atom = stiffness * squares
        energy = per_atom.new_zeros(data.num_graphs).index_add(0, data.batch_idx, per_atom).unsqueeze(1)
        return {
            "energy": energy,
            "atomic_energies": per_atom,
            "magmoms": moments_at(data.positions),
            "energies": 2.0 * per_atom,
            "uncertainty": energy[:, 0].square(),
            "tilt": data.positions.new_ones(data.num_graphs, 3),
        }


def moments_at(positions: torch.Tensor) -> torch.Tensor:
    return 1.0 + positions[:, 0] - 2.0 * positions[:, 1]


def magnets() -> list[Any]:
    made = []
    for shift in (0.02, 0.3, 0.9):
        atoms = bulk("Fe", a=2.9, cubic=True)
        atoms.set_initial_magnetic_moments(None)
        atoms.pbc = False
        atoms.positions[:] = [(shift, 0.1, 0.0), (0.0, -0.5, shift)]
        made.append(atoms)
    return made


def check_run(out: Path) -> Any:
    """Whatever is kept of a run has the moments of its own positions."""
    result = athanor.relax(
        magnets(), model=Magnet(), properties=["magmoms"], fmax=0.02, max_steps=200, every=7, out=out
    )
    assert set(result.reasons) == {"converged"}
    assert len({steps % 7 for steps in result.steps}) > 1  # they are done between two frames
    for atoms, image, row in zip(result.structures, read(out / "final.extxyz", ":"), result.rows, strict=True):
        expected = moments_at(torch.from_numpy(atoms.positions)).numpy()
        np.testing.assert_allclose(atoms.get_magnetic_moments(), expected, atol=1e-10)
        np.testing.assert_allclose(image.get_magnetic_moments(), expected, atol=1e-7)
        assert row["magmoms_sum"] == pytest.approx(expected.sum(), abs=1e-10)
        assert abs(row["magmoms_largest"]) == pytest.approx(np.abs(expected).max(), abs=1e-10)
        assert not image.has("initial_magmoms")
    run = athanor.open(out)
    for number in range(3):
        frames = run.frames(number)
        assert len(frames) > 1
        torch.testing.assert_close(frames.magmoms, moments_at(frames.positions), rtol=0, atol=1e-10)
    return result


def test_moments_are_those_of_the_positions_they_stand_beside(tmp_path: Path) -> None:
    result = check_run(tmp_path / "out")
    plain = athanor.relax(magnets(), model=Magnet(), fmax=0.02, max_steps=200)
    assert result.steps == plain.steps
    for one, other in zip(result.structures, plain.structures, strict=True):
        assert np.array_equal(one.positions, other.positions)
        assert "magmoms" not in other.calc.results
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert [row["magmoms_sum"] for row in summary] == [row["magmoms_sum"] for row in result.rows]
    with (tmp_path / "out" / "summary.csv").open() as file:
        assert {"magmoms_sum", "magmoms_largest"} <= set(next(csv.reader(file)))


@pytest.mark.parametrize("broken", ["every step", "at the end"])
def test_broken_twins_keep_moments_of_other_positions(
    broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One has none for frames, one leaves the last structures with what was computed last."""
    name = {"every step": "store_properties", "at the end": "complete_properties"}[broken]
    monkeypatch.setattr(f"athanor.workflows.recorder.{name}", lambda *arguments: None)
    with pytest.raises((AssertionError, AttributeError, RuntimeError)):
        check_run(tmp_path / "out")


def test_outputs_beyond_the_table_stand_on_the_atoms_by_their_names(tmp_path: Path) -> None:
    names = ["uncertainty", "energies", "atomic_energies", "tilt"]
    for result in (
        athanor.evaluate(magnets(), model=Magnet(), properties=names),
        athanor.relax(magnets(), model=Magnet(), properties=names, max_steps=0),
        athanor.md(magnets(), model=Magnet(), properties=names, steps=3),
    ):
        for atoms, row in zip(result.structures, result.rows, strict=True):
            energy = atoms.get_potential_energy()
            assert atoms.info["uncertainty"] == row["uncertainty"] == pytest.approx(energy**2)
            np.testing.assert_allclose(atoms.get_potential_energies().sum(), energy)
            np.testing.assert_allclose(atoms.arrays["model_energies"], 2.0 * atoms.get_potential_energies())
            assert row["energies_sum"] == pytest.approx(2.0 * energy)
            np.testing.assert_array_equal(atoms.info["tilt"], [1.0, 1.0, 1.0])
            assert "tilt" not in row
        write_structures(tmp_path / "out.extxyz", result.structures)
        for atoms, image in zip(result.structures, read(tmp_path / "out.extxyz", ":"), strict=True):
            assert image.info["uncertainty"] == pytest.approx(atoms.info["uncertainty"])
            np.testing.assert_allclose(image.arrays["model_energies"], atoms.arrays["model_energies"], atol=1e-7)
            np.testing.assert_allclose(image.get_potential_energies(), atoms.get_potential_energies(), atol=1e-7)
            np.testing.assert_array_equal(image.info["tilt"], [1.0, 1.0, 1.0])


def test_energy_and_forces_may_be_named_and_stay_what_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are computed anyway; a second pass must not write its own."""
    evaluate = Magnet.attached_energy
    calls = []

    def counting(self, data, strain, wanted):
        calls.append(1)
        outputs = evaluate(self, data, strain, wanted)
        return {**outputs, "energy": outputs["energy"] + 1e-9 * len(calls)}

    monkeypatch.setattr(Magnet, "attached_energy", counting)
    plain = athanor.relax(magnets(), model=Magnet(), max_steps=20)
    calls.clear()
    named = athanor.relax(magnets(), model=Magnet(), properties=["energy", "forces"], max_steps=20)
    assert named.energies == plain.energies
    assert named.rows == plain.rows


def test_what_is_active_anyway_needs_no_asking() -> None:
    model = Magnet()
    model.model_config.active_outputs = {"energy", "forces", "uncertainty"}
    result = athanor.relax(magnets(), model=model, max_steps=2)
    assert all(
        row["uncertainty"] == atoms.info["uncertainty"]
        for row, atoms in zip(result.rows, result.structures, strict=True)
    )


def test_names_that_mean_something_else_to_ase_get_a_prefix() -> None:
    batch = Batch.from_data_list([AtomicData.from_atoms(atoms) for atoms in magnets()])
    batch.add_key("momentum_like", [torch.ones(2, 3)] * 3, "node")
    batch.add_key("steps", [torch.ones(1)] * 3, "system")
    atoms = batch.to_atoms()[1]
    assert atoms.arrays["momentum_like"].shape == (2, 3)
    assert atoms.info["model_steps"] == 1.0
    assert [place_of(name) for name in ("symbols", "Lattice", "mine")] == ["model_symbols", "model_Lattice", "mine"]
    batch.magmoms = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    given, computed = batch.to_atoms()[1], batch.to_atoms({"magmoms"})[1]
    assert given.get_initial_magnetic_moments().tolist() == [3.0, 4.0]
    assert computed.get_magnetic_moments().tolist() == [3.0, 4.0]
    assert not computed.has("initial_magmoms")


def test_what_a_model_does_not_compute_is_refused_before_anything_runs(tmp_path: Path) -> None:
    for run in (athanor.evaluate, athanor.relax, athanor.md):
        with pytest.raises(InputError, match=r"names 'magmom', which Magnet does not .*mean `magmoms`\? It computes "):
            run(magnets(), model=Magnet(), properties=["magmom"])


class Moody(Magnet):
    """Raises when it is asked for the moments of one system."""

    def forward(self, data, **kwargs):
        if "magmoms" in self.model_config.active_outputs and 1 in data.system_id:
            raise ValueError("no moments of this one")
        return super().forward(data, **kwargs)


def test_a_model_that_raises_for_moments_alone_harms_no_run() -> None:
    result = athanor.relax(magnets(), model=Moody(), properties=["magmoms"], fmax=0.02, max_steps=200)
    assert set(result.reasons) == {"converged"}
    assert [row["magmoms_sum"] is None for row in result.rows] == [False, True, False]
    expected = moments_at(torch.from_numpy(result.structures[2].positions)).numpy()
    np.testing.assert_allclose(result.structures[2].get_magnetic_moments(), expected, atol=1e-10)


@pytest.mark.chgnet
def test_chgnets_moments_by_job_and_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write("iron.extxyz", bulk("Fe", a=2.9, cubic=True))
    Path("job.yaml").write_text(
        "structures: [iron.extxyz]\nmodel: chgnet\nproperties: magmoms\nstages: [{md: {steps: 4}}]\nevery: 2\n"
        "output: by-job\n"
    )
    assert call(["run", "job.yaml", "--quiet"]) == 0
    options = ["--property", "magmoms", "--quiet", "-o"]
    assert call(["md", "iron.extxyz", "--steps", "4", "--every", "2", *options, "by-option"]) == 0
    by_job, by_option = read("by-job/final.extxyz"), read("by-option/final.extxyz")
    assert by_job.get_magnetic_moments() == pytest.approx([2.5, 2.5], abs=0.3)
    np.testing.assert_array_equal(by_option.get_magnetic_moments(), by_job.get_magnetic_moments())
    assert by_job.get_initial_magnetic_moments().tolist() == [2.3, 2.3]  # those of the file
    again = athanor.evaluate(by_job, model="chgnet", properties=("magmoms",))
    np.testing.assert_allclose(again.structures[0].get_magnetic_moments(), by_job.get_magnetic_moments(), atol=1e-5)
    assert call(["evaluate", "iron.extxyz", *options, "evaluated.extxyz"]) == 0
    assert read("evaluated.extxyz").get_magnetic_moments() == pytest.approx([2.5, 2.5], abs=0.3)
    assert call(["run", "by-job/run.yaml", "-o", "repeated", "--quiet"]) == 0
    np.testing.assert_array_equal(read("repeated/final.extxyz").get_magnetic_moments(), by_job.get_magnetic_moments())
    frame = athanor.open("by-job").atoms(0)[-1]
    assert frame.get_magnetic_moments() == pytest.approx([2.5, 2.5], abs=0.3)
    assert not frame.has("initial_magmoms")
    assert call(["md", "by-job", "--from-time", "2 fs", "--steps", "1", *options, "further"]) == 0
    assert read("further/final.extxyz").get_magnetic_moments() == pytest.approx([2.5, 2.5], abs=0.3)
    assert call(["evaluate", "iron.extxyz", "--property", "magmom"]) == 65
