"""The contract of every model: what it claims must hold on small systems. Run it on a wrapper of your own:

>>> from athanor.testing.model_contract import check_model
>>> figures = check_model(my_wrapper, standard_systems(distance=2.5, elements=(6, 1)))  # doctest: +SKIP

Each check takes the model and one system, returns the error it measured, and raises `AssertionError` with the numbers
if that is more than the tolerance. The energy must be smooth where the checks differentiate it: give a pair potential a
taper, as a pair that crosses a hard cutoff between two displacements looks like a wrong force.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch

from athanor.data.atomic_data import AtomicData
from athanor.data.batch import Batch
from athanor.models.mixin import BaseModelMixin
from athanor.models.outputs import asking_for
from athanor.neighbors.build import compute_neighbors
from athanor.testing import tolerances
from athanor.testing.systems import standard_systems, structure
from athanor.testing.tolerances import compare

Results = dict[str, torch.Tensor]


def batch_for(model: BaseModelMixin, systems: list[AtomicData]) -> Batch:
    """Return a batch of copies of `systems` with the neighbour list of `model`."""
    batch = Batch.from_data_list([system.clone() for system in systems])
    config = model.model_config.neighbor_config
    if config is not None:
        compute_neighbors(batch, config=config)
    return batch


def evaluate(model: BaseModelMixin, systems: list[AtomicData], names: Collection[str]) -> list[Results]:
    """Return the results of each of `systems`, evaluated in one batch: energy [], forces [N, 3], stress [3, 3]."""
    batch = batch_for(model, systems)
    with asking_for(model, names):
        outputs = model(batch)
    ends = batch.batch_ptr.tolist()
    results = []
    for index in range(len(systems)):
        result: Results = {}
        for name in names:
            value = outputs[name]
            assert value is not None, f"`{name}` is active and was not returned."
            if value.shape[0] == batch.num_nodes and batch.field_spec(name).level == "node":
                result[name] = value[ends[index] : ends[index + 1]].detach()
            else:
                result[name] = value[index].detach().squeeze()
        results.append(result)
    return results


def moved(system: AtomicData, positions: torch.Tensor, cell: torch.Tensor | None = None) -> AtomicData:
    """Return `system` with other positions [N, 3] and, if given, another cell [3, 3]."""
    if system.cell is None:
        return structure(positions, system.atomic_numbers)
    return structure(
        positions, system.atomic_numbers, system["cell"][0] if cell is None else cell, system["pbc"][0].tolist()
    )


def _cell_and_pbc(system: AtomicData) -> tuple[torch.Tensor, torch.Tensor]:
    """Return cell [3, 3] and pbc [3] of a periodic system."""
    assert system.cell is not None, "This check is for systems with a cell."
    assert system.pbc is not None, "This check is for periodic systems."
    return system.cell[0], system.pbc[0]


# ------------------------------------------------------------------------------------------------------- derivatives


def _slopes(energies: list[Results], count: int, step: float) -> torch.Tensor:
    """Return the slopes from energies at -2, -1, 1 and 2 steps: central differences, error of fourth order."""
    values = torch.stack([result["energy"] for result in energies]).double().view(count, 4)
    return (values[:, 0] - 8.0 * values[:, 1] + 8.0 * values[:, 2] - values[:, 3]) / (12.0 * step)


_STEPS = (-2.0, -1.0, 1.0, 2.0)


def _step_for(dtype: torch.dtype) -> float:
    return 2e-4 if dtype == torch.float64 else 2e-2


def check_forces(model: BaseModelMixin, system: AtomicData, num_coordinates: int = 20) -> float:
    """Forces are minus the slope of the energy along random coordinates."""
    forces = evaluate(model, [system], ["energy", "forces"])[0]["forces"]
    step = _step_for(forces.dtype)
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randperm(system.positions.numel(), generator=generator)[:num_coordinates]
    displaced = []
    for coordinate in chosen.tolist():
        for steps in _STEPS:
            positions = system.positions.clone()
            positions.view(-1)[coordinate] += steps * step
            displaced.append(moved(system, positions))
    slopes = _slopes(evaluate(model, displaced, ["energy"]), len(chosen), step)
    return compare(
        "forces against differences of the energy", forces.reshape(-1)[chosen], -slopes, tolerances.DERIVATIVE
    )


def check_stress(model: BaseModelMixin, system: AtomicData) -> float:
    """Stress is the slope of the energy with strain over the volume, tensile positive."""
    stress = evaluate(model, [system], ["energy", "stress"])[0]["stress"]
    cell, _ = _cell_and_pbc(system)
    step = _step_for(stress.dtype)
    strained, places = [], [(0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)]
    for row, column in places:
        for steps in _STEPS:
            strain = torch.zeros(3, 3, dtype=cell.dtype)
            strain[row, column] += 0.5 * steps * step
            strain[column, row] += 0.5 * steps * step
            deformation = torch.eye(3, dtype=cell.dtype) + strain
            strained.append(moved(system, system.positions @ deformation, cell @ deformation))
    slopes = _slopes(evaluate(model, strained, ["energy"]), 6, step) / float(torch.linalg.det(cell.double()).abs())
    got = torch.stack([stress[place] for place in places])
    compare("asymmetry of the stress", stress, stress.T, tolerances.MOTION)
    return compare("stress against differences of the energy", got, slopes, tolerances.DERIVATIVE)


# --------------------------------------------------------------------------------------------------------- invariance


def check_translation(model: BaseModelMixin, system: AtomicData) -> float:
    """A translation changes neither energy nor forces, and forces add up to zero."""
    shift = torch.tensor([0.37, -1.2, 2.9], dtype=system.positions.dtype)
    names = ["energy", "forces"]
    here, there = evaluate(model, [system, moved(system, system.positions + shift)], names)
    compare("sum of forces", here["forces"].sum(dim=0), torch.zeros(3), tolerances.MOTION)
    compare("forces after a translation", there["forces"], here["forces"], tolerances.MOTION)
    return compare("energy after a translation", there["energy"], here["energy"], tolerances.MOTION)


def check_rotation(model: BaseModelMixin, system: AtomicData) -> float:
    """Forces and stress turn along with the system, also under inversion; the energy stays."""
    generator = torch.Generator().manual_seed(1)
    rotation, _ = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64))
    names = ["energy", "forces"]
    if system.cell is not None and "stress" in model.model_config.outputs:
        names.append("stress")
    worst = 0.0
    for matrix in (rotation, -rotation):
        matrix = matrix.to(system.positions.dtype)
        cell = None if system.cell is None else system.cell[0] @ matrix
        here, there = evaluate(model, [system, moved(system, system.positions @ matrix, cell)], names)
        compare("forces after a rotation", there["forces"], here["forces"] @ matrix, tolerances.MOTION)
        if "stress" in names:
            compare("stress after a rotation", there["stress"], matrix.T @ here["stress"] @ matrix, tolerances.MOTION)
        worst = max(worst, compare("energy after a rotation", there["energy"], here["energy"], tolerances.MOTION))
    return worst


def check_permutation(model: BaseModelMixin, system: AtomicData) -> float:
    """Another order of the atoms gives the same energy and the same forces in that order."""
    order = torch.randperm(len(system.positions), generator=torch.Generator().manual_seed(2))
    permuted = structure(
        system.positions[order],
        system.atomic_numbers[order],
        None if system.cell is None else system.cell[0],
        (True, True, True) if system.pbc is None else system.pbc[0].tolist(),
    )
    here, there = evaluate(model, [system, permuted], ["energy", "forces"])
    compare("forces in another order of the atoms", there["forces"], here["forces"][order], tolerances.PERMUTATION)
    return compare("energy in another order of the atoms", there["energy"], here["energy"], tolerances.PERMUTATION)


def check_images(model: BaseModelMixin, system: AtomicData) -> float:
    """Atoms moved by whole lattice vectors of periodic axes, and another choice of cell, change nothing."""
    cell, pbc = _cell_and_pbc(system)
    generator = torch.Generator().manual_seed(3)
    images = torch.randint(-3, 4, system.positions.shape, generator=generator) * pbc
    other_cell = cell.clone()
    if bool(pbc[0]) and bool(pbc[1]):
        other_cell[0] = cell[0] + 2.0 * cell[1]
    variants = [
        system,
        moved(system, system.positions + images.to(cell.dtype) @ cell),
        moved(system, system.positions, other_cell),
    ]
    here, elsewhere, sheared = evaluate(model, variants, ["energy", "forces"])
    compare("forces after moving atoms by lattice vectors", elsewhere["forces"], here["forces"], tolerances.MOTION)
    compare("energy after moving atoms by lattice vectors", elsewhere["energy"], here["energy"], tolerances.MOTION)
    return compare("energy with another choice of cell", sheared["energy"], here["energy"], tolerances.EXTENSIVITY)


def check_supercell(model: BaseModelMixin, system: AtomicData) -> float:
    """A supercell has as many times the energy as it has cells, in three shapes, also below twice the cutoff."""
    cell, periodic = _cell_and_pbc(system)
    pbc = periodic.tolist()
    shapes = [(2, 1, 1), (1, 2, 1), (2, 2, 1)] if not pbc[2] else [(2, 1, 1), (1, 1, 3), (2, 2, 2)]
    shapes = [shape for shape in shapes if all(count == 1 or along for count, along in zip(shape, pbc, strict=True))]
    supercells = []
    for shape in shapes:
        counts = [torch.arange(count, dtype=cell.dtype) for count in shape]
        places = torch.cartesian_prod(*counts) @ cell
        positions = (system.positions + places.unsqueeze(1)).reshape(-1, 3)
        numbers = system.atomic_numbers.repeat(len(places))
        supercells.append(structure(positions, numbers, cell * torch.tensor(shape, dtype=cell.dtype).view(3, 1), pbc))
    single, *several = evaluate(model, [system, *supercells], ["energy"])
    num_atoms = len(system.positions)
    errors = [0.0]
    for shape, result in zip(shapes, several, strict=True):
        cells = shape[0] * shape[1] * shape[2]
        per_atom = result["energy"] / (cells * num_atoms)
        what = f"energy per atom of a {shape} supercell"
        errors.append(compare(what, per_atom, single["energy"] / num_atoms, tolerances.EXTENSIVITY))
    return max(errors)


# ------------------------------------------------------------------------------------------------------------- batches


def check_companions(model: BaseModelMixin, system: AtomicData, others: list[AtomicData]) -> float:
    """A system gets the same results alone, first, last and in the middle of a batch.

    Equal bits are required where the card says ``batch_invariance="verified"``.
    """
    tolerance = tolerances.EXACT if model.model_card.batch_invariance == "verified" else tolerances.COMPANIONS
    names = sorted({"energy", "forces", "stress"} & model.model_config.outputs)
    if system.cell is None:
        names = [name for name in names if name != "stress"]
    alone = evaluate(model, [system], names)[0]
    worst = 0.0
    for place in (0, len(others) // 2, len(others)):
        crowd = [*others[:place], system, *others[place:]]
        among = evaluate(model, crowd, names)[place]
        for name in names:
            what = f"{name} of a system at place {place} of {len(crowd)} against alone"
            worst = max(worst, compare(what, among[name], alone[name], tolerance))
    return worst


def check_isolation(model: BaseModelMixin, system: AtomicData) -> float:
    """Two copies of a molecule far apart have twice its energy."""
    assert system.cell is None, "Isolation is checked on molecules."
    config = model.model_config.neighbor_config
    away = torch.tensor(
        [10.0 * (config.cutoff if config is not None else 10.0), 0.0, 0.0], dtype=system.positions.dtype
    )
    both = structure(torch.cat([system.positions, system.positions + away]), system.atomic_numbers.repeat(2))
    one, two = evaluate(model, [system, both], ["energy"])
    return compare("energy of two molecules far apart", two["energy"], 2.0 * one["energy"], tolerances.PERMUTATION)


def check_inputs_unchanged(model: BaseModelMixin, system: AtomicData) -> float:
    """A call changes nothing of the batch: same fields, same tensors, same bits, and none starts to require grad."""
    batch = batch_for(model, [system, system])
    before = {name: (tensor, tensor.clone()) for name, tensor in batch}
    model(batch)
    added = sorted(batch.to_dict().keys() ^ before.keys())
    assert not added, f"The call adds or removes {', '.join(added)} of the batch. Return results instead."
    for name, (tensor, value) in before.items():
        assert batch.get(name) is tensor, f"`{name}` of the batch is another tensor after the call."
        assert torch.equal(tensor.detach(), value), f"`{name}` of the batch has other values after the call."
        flagged = tensor.requires_grad and name not in model.model_config.gradient_keys
        assert not flagged, f"`{name}` of the batch requires grad after the call."
    return 0.0


def check_active_outputs(model: BaseModelMixin, system: AtomicData) -> float:
    """Exactly the active outputs are returned, with documented shapes and the same numbers whatever else is active."""
    shapes: dict[str, Callable[[Batch], tuple[int, ...]]] = {
        "energy": lambda batch: (batch.num_graphs, 1),
        "forces": lambda batch: (batch.num_nodes, 3),
        "stress": lambda batch: (batch.num_graphs, 3, 3),
    }
    known = [name for name in shapes if name in model.model_config.outputs]
    if system.cell is None:
        known = [name for name in known if name != "stress"]
    exact = model.model_card.batch_invariance == "verified"
    full: dict[str, torch.Tensor] = {}
    for chosen in (known, *([name] for name in known)):
        batch = batch_for(model, [system, system])
        with asking_for(model, chosen):
            outputs = model(batch)
        returned = {name for name, value in outputs.items() if value is not None}
        assert returned == set(chosen), f"{sorted(chosen)} are active and {sorted(returned)} were returned."
        for name in chosen:
            expected = shapes[name](batch)
            assert outputs[name].shape == expected, f"`{name}` has shape {tuple(outputs[name].shape)}, not {expected}."
            keeps_bits = exact or (model.model_card.stress_keeps_forces and name != "stress")
            tolerance = tolerances.EXACT if keeps_bits else tolerances.COMPANIONS
            compare(f"{name} with {chosen} active", outputs[name], full.setdefault(name, outputs[name]), tolerance)
    return 0.0


def check_detached(model: BaseModelMixin, system: AtomicData) -> float:
    """In eval mode nothing returned hangs on a graph, and two calls do not share memory."""
    training = model.training  # type: ignore[attr-defined]
    model.eval()  # type: ignore[attr-defined]
    try:
        batch = batch_for(model, [system])
        first = model(batch)
        kept = {name: value.clone() for name, value in first.items()}
        second = model(batch)
    finally:
        model.train(training)  # type: ignore[attr-defined]
    for name, value in first.items():
        assert not value.requires_grad, f"`{name}` hangs on the graph of the call."
        assert value.untyped_storage().data_ptr() != second[name].untyped_storage().data_ptr(), f"`{name}` is shared."
        assert torch.equal(value, kept[name]), f"`{name}` changed after a second call."
    return 0.0


# ----------------------------------------------------------------------------------------------------------------- all

Check = Callable[[BaseModelMixin, AtomicData], float]

CHECKS: dict[str, tuple[Check, str]] = {
    "forces": (check_forces, "any"),
    "stress": (check_stress, "cell"),
    "translation": (check_translation, "any"),
    "rotation": (check_rotation, "any"),
    "permutation": (check_permutation, "any"),
    "images": (check_images, "cell"),
    "supercell": (check_supercell, "cell"),
    "isolation": (check_isolation, "molecule"),
    "inputs unchanged": (check_inputs_unchanged, "any"),
    "active outputs": (check_active_outputs, "any"),
    "detached": (check_detached, "any"),
}
"""Name -> check, and the kind of system it is for."""


def check_model(
    model: BaseModelMixin, systems: Mapping[str, AtomicData] | None = None, *, skip: Collection[str] = ()
) -> dict[tuple[str, str], float]:
    """Run every check on every system it fits.

    Parameters
    ----------
    model
        A wrapper.
    systems
        By name; `standard_systems` with an element of the card by default.
    skip
        Names of `CHECKS`, or ``"companions"``, that the model does not claim.

    Returns
    -------
    dict
        Measured error by (check, system).

    Raises
    ------
    AssertionError
        At the first check that fails; the text names check, system and numbers.
    """
    unknown = set(skip) - set(CHECKS) - {"companions"}
    assert not unknown, f"There is no check called {sorted(unknown)}."
    if systems is None:
        elements = sorted(model.model_card.elements or {18})[:2]
        systems = standard_systems(elements=elements)
    config = copy.deepcopy(model.model_config)
    figures: dict[tuple[str, str], float] = {}
    for name, system in systems.items():
        for check, (function, kind) in CHECKS.items():
            if check in skip or kind not in ("any", "molecule" if system.cell is None else "cell"):
                continue
            if check == "stress" and "stress" not in config.outputs:
                continue
            figures[check, name] = _run(check, name, function, model, system)
        if "companions" not in skip:
            others = [other for key, other in systems.items() if key != name]
            figures["companions", name] = _run("companions", name, check_companions, model, system, others)
    assert model.model_config == config, "`model_config` was changed by the calls."
    return figures


def _run(check: str, name: str, function: Callable[..., float], *arguments: Any) -> float:
    try:
        return function(*arguments)
    except AssertionError as error:
        raise AssertionError(f"check '{check}' on system '{name}': {error}") from error
