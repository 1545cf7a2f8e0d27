"""How each package evaluates many systems at once: from ASE atoms on, by its own neighbour list and graphs.

Each takes the calculator of the package, which holds the network, and the systems, and returns their energies and their
forces. All systems are one batch, unless the package says itself how many go together. Stress is left out where the
package can leave it out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from ase import Atoms


def chgnet(calculator: Any, systems: list[Atoms]) -> tuple[Any, Any]:
    """Return what `predict_structure` says of a list, 16 at once."""
    from pymatgen.io.ase import AseAtomsAdaptor

    structures = [AseAtomsAdaptor.get_structure(atoms) for atoms in systems]
    found = calculator.model.predict_structure(structures, task="ef")
    energies = [len(atoms) * float(each["e"]) for atoms, each in zip(systems, found, strict=True)]  # it says eV/atom
    return np.array(energies), np.concatenate([each["f"] for each in found])


def sevennet(calculator: Any, systems: list[Atoms]) -> tuple[Any, Any]:
    """Return what the network says of graphs that its data loader puts together, as in `sevenn inference`."""
    from sevenn.atom_graph_data import AtomGraphData
    from sevenn.train.dataload import unlabeled_atoms_to_graph
    from torch_geometric.loader import DataLoader

    graphs = [AtomGraphData.from_numpy_dict(unlabeled_atoms_to_graph(atoms, calculator.cutoff)) for atoms in systems]
    calculator.model.set_is_batch_data(True)
    try:
        found = calculator.model(next(iter(DataLoader(graphs, len(graphs)))))
    finally:
        calculator.model.set_is_batch_data(False)  # as the calculator wants it
    return _numpy(found["inferred_total_energy"], found["inferred_force"])


def so3lr(calculator: Any, systems: list[Atoms]) -> tuple[Any, Any]:
    """Return what `evaluate_model` says, the function behind `torchkrates-eval`."""
    from so3krates_torch.tools.eval import evaluate_model

    found = evaluate_model(
        systems,
        calculator.models[0],
        batch_size=len(systems),
        device="cpu",
        model_type="so3lr",
        r_max_lr=calculator.r_max_lr,
        multi_species=True,
        dtype="float32",
        key_spec=calculator.key_specification,
    )
    return np.array(found["energies"]).reshape(-1), np.concatenate(found["forces"])


def diep(calculator: Any, systems: list[Atoms]) -> tuple[Any, Any]:
    """Return what its potential says of graphs put together as for training."""
    from diep.graph.data import collate_fn_graph

    graphs = [calculator.graph_converter.get_graph(atoms) for atoms in systems]
    labelled = [(graph, lattice, torch.tensor(state), {"energies": 0.0}) for graph, lattice, state in graphs]
    batch, lattices, states, _ = collate_fn_graph(labelled)
    return _numpy(*calculator.potential(batch, lattices, states)[:2])


def mace(calculator: Any, systems: list[Atoms]) -> tuple[Any, Any]:
    """Return what the network says of graphs that its data loader puts together, as in `mace_eval_configs`."""
    from mace.data import AtomicData, config_from_atoms
    from mace.tools.torch_geometric.dataloader import DataLoader

    network, size = calculator.models[0], {"z_table": calculator.z_table, "cutoff": calculator.r_max}
    graphs = [AtomicData.from_config(config_from_atoms(atoms), **size, heads=network.heads) for atoms in systems]
    batch = next(iter(DataLoader(graphs, len(graphs), shuffle=False, drop_last=False)))
    found = network(batch.to_dict(), compute_stress=False)
    return _numpy(found["energy"], found["forces"])


def orb(calculator: Any, systems: list[Atoms]) -> tuple[Any, Any]:
    """Return what `predict` says of one batch of its adapter."""
    network = calculator.model
    found = network.predict(calculator.adapter.from_ase_atoms_list(systems, device="cpu"))
    return _numpy(found["energy"], found[getattr(network, "grad_forces_name", "forces")])  # or it predicts them


def mattersim(calculator: Any, systems: list[Atoms]) -> tuple[Any, Any]:
    """Return what `predict_properties` says of its data loader.

    Graphs are made by its converter for batches: those of the other one give other energies together than one by one.
    """
    from mattersim.datasets.utils.build import build_dataloader

    loader = build_dataloader(systems, batch_size=len(systems), only_inference=True, batch_converter=True)
    energies, forces, _ = calculator.potential.predict_properties(loader, include_forces=True)
    return np.array(energies).reshape(-1), np.concatenate(forces)


def uma(calculator: Any, systems: list[Atoms]) -> tuple[Any, Any]:
    """Return what its predictor says of systems put together by `atomicdata_list_to_batch`."""
    from fairchem.core.datasets.atomic_data import atomicdata_list_to_batch

    found = calculator.predictor.predict(atomicdata_list_to_batch([calculator.a2g(atoms) for atoms in systems]))
    return _numpy(found["energy"], found["forces"])


def metatomic(calculator: Any, systems: list[Atoms]) -> tuple[Any, Any]:
    """Return what `compute_energy` says of a list, which computes stress, too."""
    found = calculator.compute_energy(systems, compute_forces_and_stresses=True)
    return found["energy"], np.concatenate(found["forces"])


def nequip(calculator: Any, systems: list[Atoms]) -> tuple[Any, Any]:
    """Return what the network says of systems put together by `batched_from_list`."""
    from nequip.data import AtomicDataDict

    batch = AtomicDataDict.batched_from_list([calculator.atoms_to_data(atoms) for atoms in systems])
    found = calculator.call_model(batch)
    return _numpy(found["total_energy"], found["forces"])


def aimnet2(calculator: Any, systems: list[Atoms]) -> tuple[Any, Any]:
    """Return what its own calculator, below that for ASE, says of molecules told apart by `mol_idx`."""
    data = {
        "coord": torch.tensor(np.concatenate([atoms.positions for atoms in systems]), dtype=torch.float32),
        "numbers": torch.tensor(np.concatenate([atoms.numbers for atoms in systems])),
        "charge": torch.zeros(len(systems)),
        "mol_idx": torch.repeat_interleave(torch.tensor([len(atoms) for atoms in systems])),
    }
    found = calculator.base_calc(data, forces=True)
    return _numpy(found["energy"], found["forces"])


def _numpy(energies: torch.Tensor, forces: torch.Tensor) -> tuple[Any, Any]:
    return energies.detach().view(-1).numpy(), forces.detach().numpy()
