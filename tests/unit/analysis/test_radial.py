"""Radial distributions: exact shells of crystals in cells of any size and shape, and MDAnalysis on a liquid."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk

from athanor.analysis import radial, radial_distribution
from athanor.data import AtomicData, Batch
from athanor.errors import InputError

DATA = Path(__file__).parents[2] / "data"


def frames_of(*images: object) -> Batch:
    return Batch.from_data_list([AtomicData.from_atoms(image, dtype=torch.float64) for image in images])


def liquid(stretched: bool = False) -> Batch:
    """The trajectory on file, as it is or with cells that are stretched by other factors in each frame."""
    stored = np.load(DATA / "analysis_trajectory.npz")
    factors = stored["stretches"] if stretched else np.ones_like(stored["stretches"])
    return frames_of(*(
        Atoms(stored["numbers"], positions=frame.astype(float) * factor, cell=stored["cell"] * factor, pbc=True)
        for frame, factor in zip(stored["positions"], factors, strict=True)
    ))  # fmt: skip


SHELLS = [(1.0 / np.sqrt(2.0), 12), (1.0, 6), (np.sqrt(1.5), 24), (np.sqrt(2.0), 12), (np.sqrt(2.5), 24)]
"""Distances in lattice constants, and neighbours, of the fcc crystal."""


def skewed(atoms):
    """The same crystal in a cell that leans over: another choice of lattice vectors."""
    atoms.set_cell(np.array([[1, 0, 0], [1, 1, 0], [2, 1, 1]]) @ atoms.cell.array)
    return atoms


CRYSTALS = {
    "one atom": bulk("Cu", "fcc", a=3.6),
    "a cube": bulk("Cu", "fcc", a=3.6, cubic=True),
    "skewed": skewed(bulk("Cu", "fcc", a=3.6)),
    "large": bulk("Cu", "fcc", a=3.6, cubic=True) * (3, 3, 3),
}


@pytest.mark.parametrize("name", CRYSTALS)
def test_shells_of_a_crystal_in_any_cell(name: str) -> None:
    """All but the large cell are smaller than the distances: a twin that knows nearest images only finds no shell."""
    found = radial_distribution(frames_of(CRYSTALS[name]), cutoff=6.0, bins=600)
    reached = 0
    for distance, neighbors in SHELLS:
        reached += neighbors
        assert found.coordination("Cu-Cu", 3.6 * distance + 0.02) == pytest.approx(reached)
        assert found.coordination("Cu-Cu", 3.6 * distance - 0.02) == pytest.approx(reached - neighbors)
    # and g itself: neighbours are the integral of the density times g
    edges = np.linspace(0.0, 6.0, 601)
    counted = np.cumsum(found.g[0] * 4.0 / 3.0 * np.pi * np.diff(edges**3)) * 4.0 / 3.6**3
    np.testing.assert_allclose(counted, found.neighbors[0], rtol=1e-9)


def test_nearest_images_only_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    real = radial._distances

    def nearest(frames: Batch, cutoff: float):
        distance, i, j = real(frames, cutoff)
        key = i * len(frames.positions) + j
        order = np.lexsort((distance, key))
        first = order[np.unique(key[order], return_index=True)[1]]
        first = first[i[first] != j[first]]
        return distance[first], i[first], j[first]

    monkeypatch.setattr(radial, "_distances", nearest)
    with pytest.raises(AssertionError):
        test_shells_of_a_crystal_in_any_cell("a cube")


def test_unlike_pairs_and_both_directions() -> None:
    salt = bulk("NaCl", "rocksalt", a=5.6)
    fluorite = bulk("CaF2", "fluorite", a=5.46)
    found = radial_distribution(frames_of(salt, salt), cutoff=5.0)
    assert found.pairs == ("Na-Na", "Na-Cl", "Cl-Cl")
    assert found.coordination("Na-Cl", 3.0) == found.coordination("Cl-Na", 3.0) == pytest.approx(6.0)
    found = radial_distribution(frames_of(fluorite), cutoff=5.0)
    assert found.coordination("Ca-F", 2.6) == pytest.approx(8.0)
    assert found.coordination("F-Ca", 2.6) == pytest.approx(4.0)
    assert found["F-Ca"] is not None
    assert (found["F-Ca"] == found["Ca-F"]).all()
    with pytest.raises(InputError, match="`Ca-O` is no pair"):
        found["Ca-O"]


@pytest.mark.parametrize("stretched", [False, True])
def test_a_liquid_in_a_skewed_cell_against_mdanalysis(stretched: bool) -> None:
    reference = json.loads((DATA / "analysis_reference.json").read_text(encoding="utf-8"))
    found = radial_distribution(liquid(stretched), cutoff=reference["cutoff"], bins=reference["bins"])
    wanted = reference["rdf_of_stretched" if stretched else "rdf"]
    assert found.half_width > reference["cutoff"]
    for pair, values in wanted.items():
        # MDAnalysis computes distances in single precision, so a pair may change bins
        np.testing.assert_allclose(found[pair], values, rtol=2e-3, atol=1e-3)
    whole = radial_distribution(liquid(stretched), cutoff=12.0, bins=2 * reference["bins"])
    np.testing.assert_allclose(whole["Ar-Kr"][: reference["bins"]], found["Ar-Kr"], rtol=1e-12, atol=1e-12)
    assert np.abs(whole.g[:, -8:].mean(axis=1) - 1.0).max() < 0.05


def test_a_mean_volume_for_all_frames_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        Batch, "volume", property(lambda self: torch.linalg.det(self.cell).abs().mean().expand(len(self)))
    )
    with pytest.raises(AssertionError):
        test_a_liquid_in_a_skewed_cell_against_mdanalysis(True)


def test_errors_are_those_of_blocks_of_frames() -> None:
    found = radial_distribution(liquid(), cutoff=6.0, bins=30)
    peak = found["Ar-Kr"].argmax()
    assert 0.0 < found.error[1, peak] < 0.2
    assert np.isnan(radial_distribution(frames_of(CRYSTALS["one atom"])).error).all()


def test_what_is_not_periodic_has_none() -> None:
    slab = bulk("Cu", "fcc", a=3.6, cubic=True)
    slab.pbc = (True, True, False)
    with pytest.raises(InputError, match="periodic along all three"):
        radial_distribution(frames_of(slab))
    with pytest.raises(InputError, match="cutoff"):
        radial_distribution(frames_of(CRYSTALS["one atom"]), cutoff=-1.0)
    with pytest.raises(InputError, match="bins"):
        radial_distribution(frames_of(CRYSTALS["one atom"]), bins=0)


def test_many_frames_are_taken_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = radial_distribution(liquid(), cutoff=6.0)
    monkeypatch.setattr(radial, "_PAIRS_AT_ONCE", 10_000)
    np.testing.assert_allclose(radial_distribution(liquid(), cutoff=6.0).g, whole.g, rtol=1e-12)
