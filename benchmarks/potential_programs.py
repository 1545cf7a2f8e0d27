"""One learned potential beside its own package: ``python potential_programs.py NAME [--smoke]``.

Runs in the environment of that package, see `potentials.py`, and prints a JSON document in its last line. How a model
is built stands in `potential_builders.py`, how the package evaluates many systems in `potential_batches.py`.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import cpu, interleave, run_json
from peak import peak_bytes
from potential_builders import LATTICES, POTENTIALS

if TYPE_CHECKING:
    from ase import Atoms

REPEATS = ((1, 1, 1), (2, 1, 1), (2, 2, 1), (2, 2, 2))
ENERGY, FORCES = 1e-4, 1e-3
"""eV/atom and eV/Å by which ours and the calculator of the package may differ in single precision."""


def systems_of(kind: str, count: int, elements: frozenset[int] | None) -> list[Atoms]:
    """Return `count` rattled crystals of 8 to 64 atoms, or small molecules, of `elements`."""
    import numpy as np
    from ase.build import bulk
    from ase.collections import g2

    if kind == "molecules":
        known = [g2[name] for name in g2.names]  # without open shells, of which packages are told in their own ways
        known = [atoms for atoms in known if not atoms.get_initial_magnetic_moments().any()]
    else:
        known = []
        for symbol, structure, constant in LATTICES:
            cell = bulk(symbol, structure, a=constant, cubic=True)
            known.append(cell * ((1, 1, 1) if len(cell) == 8 else (2, 1, 1) if len(cell) == 4 else (2, 2, 1)))
    known = [atoms for atoms in known if elements is None or elements >= set(atoms.numbers.tolist())]
    chosen = []
    for number in range(count):
        atoms = known[number % len(known)].copy()
        if kind == "crystals":
            atoms *= REPEATS[number * len(REPEATS) // count]
        atoms.positions += np.random.default_rng(number).normal(0.0, 0.05, atoms.positions.shape)
        atoms.info["total_spin"] = 0.5 * atoms.get_initial_magnetic_moments().sum()  # where so3krates-torch reads it
        chosen.append(atoms)
    return chosen


def water() -> Atoms:
    """Return 64 molecules of water in a box, as dense as the liquid."""
    import ase
    from ase.build import molecule

    box = ase.Atoms(cell=[12.42] * 3, pbc=True)
    for place in range(64):
        one = molecule("H2O")
        one.rotate(77 * place, (1, 2, 3))
        one.positions += [3.105 * each for each in (place % 4, place // 4 % 4, place // 16)]
        box += one
    return box


def evaluated(model: Any, systems: list[Atoms]) -> tuple[Any, Any]:
    """Return energies and forces of all `systems` in one batch, from ASE atoms on."""
    import torch

    from athanor.data import AtomicData, Batch
    from athanor.neighbors import compute_neighbors

    batch = Batch.from_data_list([AtomicData.from_atoms(atoms, dtype=torch.float64) for atoms in systems])
    compute_neighbors(batch, config=model.model_config.neighbor_config)
    outputs = model(batch)
    return outputs["energy"].detach().view(-1).numpy(), outputs["forces"].detach().numpy()


def one_by_one(calculator: Any, systems: list[Atoms]) -> tuple[Any, Any]:
    """Return energies and forces by the calculator of the package."""
    import numpy as np

    energies, forces = [], []
    for atoms in systems:
        calculator.calculate(atoms.copy(), ["energy", "forces"], ["positions", "numbers", "cell", "pbc"])  # may write
        energies.append(float(calculator.results["energy"]))
        forces.append(np.array(calculator.results["forces"]))
    return np.array(energies), np.concatenate(forces)


def at_once(name: str, calculator: Any, systems: list[Atoms]) -> tuple[Any, Any]:
    """Return energies and forces by what the package has for many systems."""
    return POTENTIALS[name].batch(calculator, [atoms.copy() for atoms in systems])  # as it may write, too


def check(ours: tuple[Any, Any], theirs: tuple[Any, Any], systems: list[Atoms]) -> None:
    """Raise AssertionError if the two do not compute the same."""
    import numpy as np

    sizes = np.array([len(atoms) for atoms in systems])
    energy = float(np.abs((ours[0] - theirs[0]) / sizes).max())
    forces = float(np.abs(ours[1] - theirs[1]).max())
    print(f"    differ by at most {energy:.1e} eV/atom, {forces:.1e} eV/Å", flush=True)
    if not (energy <= ENERGY and forces <= FORCES and np.abs(ours[1]).max() > FORCES):
        raise AssertionError(f"the two do not compute the same: {energy:.1e} eV/atom, {forces:.1e} eV/Å apart")


@contextmanager
def time_in_network(model: Any) -> Iterator[list[float]]:
    """Collect seconds of CPU time in what evaluates the network, its modules or code of ours, and backward."""
    import torch
    from torch.nn.modules import module

    inside, seconds, depth, started = {id(each) for each in model.modules() if each is not model}, [0.0], 0, 0.0
    gradients, evaluate = torch.autograd.grad, getattr(model, "network_outputs", None)

    def enter(each: Any, *_: Any) -> None:
        nonlocal depth, started
        if id(each) in inside or each is evaluate:
            started = started if depth else time.process_time()
            depth += 1

    def leave(each: Any, *_: Any) -> None:
        nonlocal depth
        if id(each) in inside or each is evaluate:
            depth -= 1
            seconds[0] += 0.0 if depth else time.process_time() - started

    def evaluated_by_ours(*arguments: Any, **more: Any) -> Any:
        enter(evaluate)
        try:
            return evaluate(*arguments, **more)  # type: ignore[misc]
        finally:
            leave(evaluate)

    def timed(*arguments: Any, **more: Any) -> Any:
        before = time.process_time()
        found = gradients(*arguments, **more)
        seconds[0] += 0.0 if depth else time.process_time() - before
        return found

    hooks = [module.register_module_forward_pre_hook(enter), module.register_module_forward_hook(leave)]
    torch.autograd.grad = timed
    if evaluate is not None:
        model.network_outputs = evaluated_by_ours
    try:
        yield seconds
    finally:
        vars(model).pop("network_outputs", None)
        torch.autograd.grad = gradients
        for hook in hooks:
            hook.remove()


def share_outside(model: Any, systems: list[Atoms]) -> float:
    """Return the percentage of an evaluation that neither evaluates the network nor is a backward pass."""
    with time_in_network(model) as seconds:
        total = cpu(lambda: evaluated(model, systems))
    return 100.0 * (1.0 - seconds[0] / total)


def measure(name: str, smoke: bool, rounds: int) -> dict[str, Any]:
    """Return rows of one potential, and what the model says of itself."""
    import athanor

    potential = POTENTIALS[name]
    athanor.set_num_threads(1)
    model, calculator = potential.build()
    elements = model.model_card.elements
    systems = systems_of(potential.systems, 2 if smoke else potential.count, elements)
    evaluations = {
        "athanor": partial(evaluated, model, systems),
        "its own calculator": partial(one_by_one, calculator, systems),
        "its own batch": partial(at_once, name, calculator, systems),
    }
    for _ in range(1 if smoke else 2):  # the first calls compile, too
        ours, *theirs = [evaluate() for evaluate in evaluations.values()]
        for each in theirs:
            check(ours, each, systems)
    timed = {who: partial(milliseconds, evaluate) for who, evaluate in evaluations.items()}
    atoms = sum(map(len, systems))
    case = f"{name}, {len(systems)} {potential.systems}, {atoms} atoms"
    rows = [interleave(case, "ms", timed, rounds)]
    outside = {"athanor": lambda: share_outside(model, systems)}
    rows.append(interleave(f"{name}, outside the network", "%", outside, rounds))
    if not smoke:
        rows.append(interleave(f"{name}, memory an atom", "kB", {"athanor": partial(kilobytes_an_atom, name)}, 1))
    card, config = model.model_card, model.model_config
    facts = {
        "package": f"{potential.package} {metadata.version(potential.package)}",
        "python": platform.python_version(),
        "torch": metadata.version("torch"),
        "parameters": potential.parameters,
        "elements": None if elements is None else len(elements),
        "outputs": sorted(config.outputs),
        "inputs": sorted(config.optional_inputs | config.required_inputs),
        "dtype": str(card.dtype).removeprefix("torch."),
        "forces": "predicted" if card.conservative is False else "derivatives",
        "atoms": atoms,
    }
    return {"rows": rows, "facts": facts}


def milliseconds(evaluate: Callable[[], Any]) -> float:
    """Return the CPU time of one evaluation."""
    return 1e3 * cpu(evaluate)


def kilobytes_an_atom(name: str) -> float:
    """Return the slope of the peak between two sizes, each in a process of its own."""
    program, potential = str(Path(__file__).resolve()), POTENTIALS[name]
    fewest = min(potential.count, 16) if potential.systems == "crystals" else 2  # enough to need more than all imports
    found = [run_json([sys.executable, program, name, "--peak", str(count)]) for count in (fewest, 2 * fewest)]
    (low, small), (high, large) = [(each["peak_bytes"], each["atoms"]) for each in found]
    return (high - low) / (large - small) / 1e3


def peak_of(name: str, count: int) -> dict[str, int]:
    """Return the peak of one evaluation of `count` crystals, or `count` boxes of water."""
    import athanor

    potential = POTENTIALS[name]
    athanor.set_num_threads(1)
    model, _ = potential.build()
    batch = [water()] * count
    if potential.systems == "crystals":
        batch = systems_of("crystals", count, model.model_card.elements)
    evaluated(model, batch)
    return {"peak_bytes": peak_bytes(), "atoms": sum(map(len, batch))}


def main() -> None:
    """Run one potential."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("name", choices=POTENTIALS)
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--peak", type=int)
    options = parser.parse_args()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of the packages
        found: dict[str, Any]
        if options.peak:
            found = peak_of(options.name, options.peak)
        else:
            found = measure(options.name, options.smoke, options.rounds)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
