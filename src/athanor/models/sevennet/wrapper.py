"""SevenNetWrapper: the interface between a SevenNet network and a Batch.

The network is a row of modules that write into one dictionary. It is entered at the vectors between atoms and left at
the energies of atoms: sums and derivatives are made here.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from athanor._values import check_state_dtype, shown, usable_device
from athanor.errors import ContractError, InputError
from athanor.models.card import ModelCard
from athanor.models.config import ModelConfig
from athanor.models.learned import DERIVATIVES, EMBEDDINGS, LearnedModel
from athanor.models.sevennet.convolution import Convolution
from athanor.models.sevennet.weights import load_network
from athanor.neighbors.config import NeighborConfig, NeighborListFormat

if TYPE_CHECKING:
    from collections.abc import Set

    from athanor.models.network_graph import NetworkGraph

_ONE_HOT = frozenset({"onehot_idx_to_onehot", "one_hot_modality"})
"""Modules that write unit vectors of elements and tasks, always in single precision; made here instead."""
_MINIMUM_DISTANCE = 0.5
"""Å. The shortest bond of all, H-H, is 0.74 Å and stays above 0.6 Å when hot."""


class SevenNetWrapper(LearnedModel):
    """SevenNet, equivariant message passing of the NequIP family, for whole batches.

    Parameters
    ----------
    model
        A network of the sevenn package. It is switched to batches.
    task
        Which of its tasks to compute, where a network was fitted to several, such as ``"PBE"`` or ``"R2SCAN"``.
    name
        What the model is called in its card.
    weights_digest
        Digest of the parameters for the card.

    Raises
    ------
    ContractError
        If `model` is no network of sevenn.
    InputError
        If it has several tasks and `task` is none of them.

    Notes
    -----
    Computes energy and forces unless ``model_config.active_outputs`` says otherwise; stress, atomic_energies,
    node_embeddings and graph_embeddings can be added. Needs a full neighbour list of at least its cutoff, 5 Å for the
    shipped ones. Geometry and sums are in float64, the network in its own dtype. The shipped networks tell an
    arrangement from its mirror image, slightly: their energy is invariant to rotations only. Systems without a cell
    have zero stress.

    References
    ----------
    .. [1] Y. Park et al., J. Chem. Theory Comput. 20, 4857 (2024). doi:10.1021/acs.jctc.4c00190
    """

    def __init__(
        self, model: nn.Module, *, task: str | None = None, name: str = "SevenNet", weights_digest: str = ""
    ) -> None:
        modules: dict[str, Any] = dict(model.named_children())
        types = getattr(model, "type_map", None)
        if not types or "edge_embedding" not in modules or "rescale_atomic_energy" not in modules:
            raise ContractError(
                f"`model` is a {type(model).__name__}; pass a network of sevenn, or use "
                f"`SevenNetWrapper.from_checkpoint()`."
            )
        gates = [each for each in modules if each.endswith("_equivariant_gate")]
        super().__init__(model, types, embedding_width=modules[gates[-1]].gate.irreps_out.dim)
        network: Any = model
        network.set_is_batch_data(True)
        self._last_gate = gates[-1]
        self._convolutions: dict[str, Convolution] = {}
        self._num_types = modules["onehot_idx_to_onehot"].num_classes
        self._tasks: dict[str, int] = dict(getattr(model, "modal_map", None) or {})
        self.task = _chosen(task, self._tasks)
        self.model_config = ModelConfig(
            outputs=frozenset({"energy", "atomic_energies", *DERIVATIVES, *EMBEDDINGS}),
            autograd_outputs=DERIVATIVES,
            supports_pbc=True,
            neighbor_config=NeighborConfig(cutoff=float(network.cutoff), format=NeighborListFormat.COO),
            active_outputs={"energy", "forces"},
        )
        self.model_card = ModelCard(
            name=name if self.task is None else f"{name} {self.task}",
            kind="materials",
            elements=self.elements,
            minimum_distance=_MINIMUM_DISTANCE,
            dtype=self.dtype,
            conservative=True,
            equivariant=None if _has_parity(modules) else False,  # without parity a mirror image has another energy
            smooth=type(modules["edge_embedding"].cutoff_function).__name__ != "XPLORCutoff",  # bends at the cutoff
            batch_invariance="no",
            licence="MIT",
            citation="doi:10.1021/acs.jctc.4c00190",
            url="https://github.com/MDIL-SNU/SevenNet",
            weights_digest=weights_digest,
        )

    @classmethod
    def from_checkpoint(
        cls,
        checkpoint: str | Path = "7net-0",
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        *,
        task: str | None = None,
    ) -> SevenNetWrapper:
        """Load a network, in eval mode. No file has to be trusted: reading one runs no code.

        Parameters
        ----------
        checkpoint
            ``"7net-0"`` (of 11 July 2024), ``"7net-0-22may2024"``, ``"7net-l3i5"`` or ``"7net-mf-0"`` from the
            installed sevenn package, whose SHA-256 is checked; or the path of a checkpoint of its training.
        device
            Where to put it.
        dtype
            Precision of the network; float64 doubles the time and removes rounding noise.
        task
            As in the constructor: ``"PBE"`` or ``"R2SCAN"`` for ``"7net-mf-0"``.

        Raises
        ------
        InputError
            For an unknown name or task, other contents than expected, or a file that is damaged or no checkpoint.
        OptionalDependencyError
            If sevenn is not installed.
        """
        place = usable_device(device)
        network, digest = load_network(checkpoint)
        network = network.to(place, check_state_dtype(dtype))
        return cls(network, task=task, name=f"SevenNet {checkpoint}", weights_digest=digest).eval()

    def network_outputs(self, graph: NetworkGraph, wanted: Set[str]) -> dict[str, torch.Tensor | None]:
        """Return energies and features of atoms, attached; see `LearnedModel.network_outputs`."""
        element_index = self.element_index_of(graph.batch)
        kinds = nn.functional.one_hot(element_index, self._num_types).to(self.dtype)
        data: dict[str, torch.Tensor] = {
            "atomic_numbers": graph.atomic_numbers,
            "atom_type": element_index,
            "x": kinds,
            "node_attr": kinds,
            "edge_index": graph.edge_index,
            "edge_vec": graph.vectors,
            "batch": graph.batch_idx,
        }
        if self.task is not None:
            data["modal_type"] = element_index.new_full((graph.num_graphs,), self._tasks[self.task])
            data["modal_attr"] = nn.functional.one_hot(data["modal_type"], len(self._tasks)).to(self.dtype)
        features = None
        for name, module in self.model.named_children():
            if name in _ONE_HOT:
                continue
            if (fast := self._convolution(name, module)) is not None:
                data["x"] = fast(data["x"], data["edge_attr"], data["edge_embedding"], graph.edge_index)
            else:
                data = module(data)
            if name == self._last_gate:
                features = data["x"]
            if "atomic_energy" in data:
                break
        return {"atomic_energies": data["atomic_energy"].squeeze(1), "node_embeddings": features}

    def _convolution(self, name: str, module: Any) -> Convolution | None:
        """Return what computes a convolution in place of the layer, whose parameters are no constants in training."""
        if self.training or not Convolution.evaluates(module):
            return None
        made = self._convolutions.get(name)
        if made is None or not made.fits(module.denominator):
            made = self._convolutions[name] = Convolution(module)
        return made


def _chosen(task: str | None, tasks: dict[str, int]) -> str | None:
    """Return the name of a task as the network writes it; none where it has none."""
    if not tasks and task is None:
        return None
    for name in tasks:
        if task is not None and name.lower() == str(task).lower():
            return name
    raise InputError(
        f"`task` is {shown(task)}; this network {'has ' + ', '.join(tasks) if tasks else 'has one only: leave it out'}."
    )


def _has_parity(modules: dict[str, Any]) -> bool:
    """Whether the network tells even from odd features, so that a mirror image has the same energy."""
    return any(irrep.ir.p == -1 for irrep in modules["edge_embedding"].spherical.irreps_out)
