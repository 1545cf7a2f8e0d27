"""Lennard-Jones: closed forms, lattice sums, mixtures, and each of its messages."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

import athanor.models
from athanor.data.batch import Batch
from athanor.errors import InputError
from athanor.models.lj import LennardJonesModelWrapper
from athanor.neighbors import compute_neighbors
from athanor.testing.model_contract import evaluate
from athanor.testing.systems import fcc_crystal, standard_systems, structure


def pair(distance: float, numbers=(18, 18), dtype=torch.float64):
    positions = torch.zeros(2, 3, dtype=dtype)
    positions[1, 0] = distance
    return structure(positions, numbers)


def energy_of(model: LennardJonesModelWrapper, *systems) -> list[float]:
    return [float(result["energy"]) for result in evaluate(model, list(systems), ["energy"])]


@pytest.mark.parametrize(("cutoff", "distance", "per_atom"), [(2.5, 1.095735, -8.099621), (8.0, 1.090364, -8.592152)])
def test_lattice_sums_of_the_fcc_crystal(cutoff: float, distance: float, per_atom: float) -> None:
    """Energy and zero stress at the minimum, hard cutoff, in a cell below the cutoff. The twin is elsewhere."""
    model = LennardJonesModelWrapper(epsilon=1.0, sigma=1.0, cutoff=cutoff)
    minimum, twin = evaluate(model, [fcc_crystal(distance), fcc_crystal(distance * 1.001)], ["energy", "stress"])
    assert float(minimum["energy"]) / 4 == pytest.approx(per_atom, abs=1e-6)
    assert float(minimum["stress"].abs().max()) < 2e-4
    assert float(twin["stress"].abs().max()) > 5e-2
    assert float(twin["energy"]) / 4 > per_atom


def test_pair_energy_shift_and_taper() -> None:
    def bare(r: float) -> float:
        return 4 * 0.5 * ((3.0 / r) ** 12 - (3.0 / r) ** 6)

    distances = (2.9, 3.0, 3.4, 6.5, 6.9, 7.0)
    systems = [pair(r) for r in distances]
    hard = energy_of(LennardJonesModelWrapper(0.5, 3.0, 7.0), *systems)
    assert hard == pytest.approx([bare(r) for r in distances[:-1]] + [0.0], rel=1e-12, abs=1e-15)
    shifted = energy_of(LennardJonesModelWrapper(0.5, 3.0, 7.0, shift=True), *systems)
    assert shifted == pytest.approx([bare(r) - bare(7.0) for r in distances], rel=1e-12, abs=1e-15)
    tapered = energy_of(LennardJonesModelWrapper(0.5, 3.0, 7.0, switch_width=1.0), *systems)
    switch = [1 - 10 * x**3 + 15 * x**4 - 6 * x**5 for x in (max(r - 6.0, 0.0) for r in distances)]
    assert tapered == pytest.approx([bare(r) * s for r, s in zip(distances, switch, strict=True)], rel=1e-9, abs=1e-15)


def test_mixtures_by_symbol_or_number() -> None:
    at = 4.0

    def bare(epsilon: float, sigma: float) -> float:
        return 4 * epsilon * ((sigma / at) ** 12 - (sigma / at) ** 6)

    tables = {"epsilon": {"Ar": 0.01, "Kr": 0.04}, "sigma": {18: 3.0, 36: 3.5}, "cutoff": 9.0}
    systems = [pair(at, numbers) for numbers in ((18, 18), (18, 36), (36, 18), (36, 36))]
    lorentz = energy_of(LennardJonesModelWrapper(**tables), *systems)
    mixed = bare(0.02, 3.25)
    assert lorentz == pytest.approx([bare(0.01, 3.0), mixed, mixed, bare(0.04, 3.5)], rel=1e-12)
    geometric = energy_of(LennardJonesModelWrapper(**tables, mixing="geometric"), *systems)
    assert geometric[1] == pytest.approx(bare(0.02, (3.0 * 3.5) ** 0.5), rel=1e-12)
    assert geometric[0] == lorentz[0]
    one_sigma = LennardJonesModelWrapper({"Ar": 0.01, "Kr": 0.04}, 3.0, 9.0)
    assert energy_of(one_sigma, systems[3]) == pytest.approx([bare(0.04, 3.0)])
    assert one_sigma.model_card.elements == {18, 36}


def test_types_follow_the_elements() -> None:
    """The table row of each atom is kept between calls; it must follow in-place changes and other batches."""
    model = LennardJonesModelWrapper({"Ar": 0.01, "Kr": 0.04}, 3.5, 9.0)
    batch = Batch.from_data_list([pair(4.0)])
    compute_neighbors(batch, 9.0)
    argon = float(model(batch)["energy"])
    batch.atomic_numbers[:] = 36
    assert float(model(batch)["energy"]) == pytest.approx(4 * argon)
    batch.atomic_numbers = torch.tensor([18, 36])
    assert float(model(batch)["energy"]) == pytest.approx(2 * argon)
    for clone in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert float(clone(batch)["energy"]) == pytest.approx(2 * argon)


def test_outputs_are_energy_and_forces_unless_asked() -> None:
    model = LennardJonesModelWrapper(0.01, 3.4, 6.0)
    batch = Batch.from_data_list([fcc_crystal(3.8), standard_systems()["cluster"]])
    compute_neighbors(batch, config=model.model_config.neighbor_config)
    assert list(model(batch)) == ["energy", "forces"]
    model.model_config.active_outputs = {"stress"}
    stress = model(batch)["stress"]
    assert stress.shape == (2, 3, 3)
    assert float(stress[0].abs().max()) > 0.0
    assert torch.equal(stress[1], torch.zeros(3, 3, dtype=torch.float64)), "a molecule has no stress"


def test_compression_makes_the_stress_negative() -> None:
    model = LennardJonesModelWrapper(0.01, 3.4, 8.5)
    squeezed, stretched = evaluate(model, [fcc_crystal(3.4), fcc_crystal(4.0)], ["energy", "stress"])
    assert float(squeezed["stress"].trace()) < 0.0 < float(stretched["stress"].trace())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_results_have_the_dtype_of_the_positions(dtype: torch.dtype) -> None:
    model = LennardJonesModelWrapper(0.01, 3.4, 6.0)
    batch = Batch.from_data_list([fcc_crystal(3.8, dtype=dtype)])
    compute_neighbors(batch, 6.0)
    model.model_config.active_outputs = {"energy", "forces", "stress"}
    assert {value.dtype for value in model(batch).values()} == {dtype}


def test_a_longer_or_halved_list_gives_the_same() -> None:
    model = LennardJonesModelWrapper(0.01, 3.4, 6.0)
    batch = Batch.from_data_list([fcc_crystal(3.8, jitter=0.1)])
    compute_neighbors(batch, 6.0)
    energy = model(batch)["energy"]
    for radius, half_list in ((9.0, False), (6.0, True)):  # terms meet in another order
        compute_neighbors(batch, radius, half_list=half_list)
        torch.testing.assert_close(model(batch)["energy"], energy, rtol=1e-14, atol=0.0)


def test_a_list_that_the_user_assigned_works() -> None:
    model = LennardJonesModelWrapper(0.01, 3.4, 6.0)
    batch = Batch.from_data_list([pair(4.0)])
    batch.neighbor_list = torch.tensor([[0, 1], [1, 0]])
    assert float(model(batch)["energy"]) == pytest.approx(energy_of(model, pair(4.0))[0])


def test_messages_about_what_is_missing() -> None:
    model = LennardJonesModelWrapper(0.01, 3.4, 6.0)
    with pytest.raises(TypeError, match="requires a Batch input, not AtomicData"):
        model(pair(4.0))
    batch = Batch.from_data_list([pair(4.0)])
    with pytest.raises(KeyError, match=r"no neighbour list, which LennardJonesModelWrapper needs.*make_neighbor_hooks"):
        model(batch)
    compute_neighbors(batch, 5.0)
    with pytest.raises(ValueError, match="list was searched to 5 Å; LennardJonesModelWrapper needs `cutoff` = 6 Å"):
        model(batch)
    compute_neighbors(batch, 6.0)
    model.model_config.active_outputs = {"energy", "stress"}
    with pytest.raises(ValueError, match="stress output requires cell"):
        model(batch)
    with pytest.raises(RuntimeError, match="`stress` is missing from model output"):
        model.adapt_output({"energy": torch.ones(1)}, batch)
    with pytest.raises(NotImplementedError, match="has no embeddings"):
        model.compute_embeddings(batch)
    assert model.embedding_shapes == {}
    table = LennardJonesModelWrapper({"Ar": 0.01}, 3.4, 6.0)
    batch = Batch.from_data_list([pair(4.0, (6, 18))])
    compute_neighbors(batch, 6.0)
    with pytest.raises(ValueError, match=r"no parameters for C \(6\); it has some for Ar. Add them"):
        table(batch)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"cutoff": 0.0}, "`cutoff` is 0.0 Å; it must be finite and positive"),
        ({"cutoff": "far"}, "`cutoff` is 'far'; it must be a number"),
        ({"sigma": "abc"}, "`sigma` is 'abc'; it must be a number"),
        ({"epsilon": {"Ar": None}, "sigma": {"Ar": 3.4}}, "`epsilon` is None; it must be a number"),
        ({"sigma": 0.0}, "`sigma` is 0.0; it must be finite and positive"),
        ({"epsilon": -1.0}, "`epsilon` is -1.0; it must be finite and not negative"),
        ({"epsilon": float("nan")}, "`epsilon` is nan"),
        ({"switch_width": -0.1}, "`switch_width` is -0.1"),
        ({"mixing": "waldman"}, "`mixing` is 'waldman'"),
        ({"epsilon": {"Ar": 1.0}, "sigma": {"Kr": 1.0}}, "name different elements"),
        ({"epsilon": {"Argon": 1.0}}, "`Argon` is not the symbol"),
        ({"epsilon": {300: 1.0}}, "300 is not the atomic number"),
        ({"epsilon": {}}, "name no element"),
    ],
)
def test_wrong_parameters_are_refused(arguments: dict, text: str) -> None:
    with pytest.raises(InputError, match=text):
        LennardJonesModelWrapper(**{"epsilon": 0.01, "sigma": 3.4, "cutoff": 8.0, **arguments})


def test_attributes_mirror_the_arguments() -> None:
    model = athanor.models.get("lj", epsilon=0.01, sigma=3.4, cutoff=8, switch_width=1, half_list=True)
    assert (model.epsilon, model.sigma, model.cutoff, model.switch_width) == (0.01, 3.4, 8.0, 1.0)
    assert model.half_list is True
    assert model.model_config.neighbor_config.half_list is True
    assert model.model_card.batch_invariance == "verified"


def test_systems_that_joined_without_a_list_are_refused() -> None:
    """Their rows are empty: without the check they would have no energy."""
    model = LennardJonesModelWrapper(0.01, 3.4, 6.0)
    batch = Batch.from_data_list([fcc_crystal(3.8)])
    compute_neighbors(batch, 6.0)
    batch.append(Batch.from_data_list([fcc_crystal(3.9)]))
    with pytest.raises(ValueError, match="1 systems has to be searched again"):
        model(batch)
    compute_neighbors(batch, 6.0)
    assert bool((model(batch)["energy"] < 0.0).all())


def test_parameters_stand_once_the_model_is_made() -> None:
    model = LennardJonesModelWrapper(epsilon=0.0104, sigma=3.4, cutoff=8.5)
    with pytest.raises(InputError, match="`epsilon` of a LennardJonesModelWrapper can not be changed"):
        model.epsilon = 0.02
