"""UMAWrapper: the interface between a network of fairchem and a Batch.

The network reads our pairs: its own search is switched off for the time of a call, and so is its differentiation, which
is left to `LearnedModel`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from athanor._optional import OptionalDependency, process_left_alone
from athanor._values import check_state_dtype, shown, usable_device
from athanor.errors import InputError
from athanor.models.card import ModelCard
from athanor.models.config import ModelConfig
from athanor.models.learned import DERIVATIVES, EMBEDDINGS
from athanor.models.network_blocks import PAIRS_AT_A_TIME
from athanor.models.predicted import PredictingModel
from athanor.models.uma.checkpoint import check_unmerged, load_predict_unit, network_of
from athanor.neighbors.config import NeighborConfig, NeighborListFormat

if TYPE_CHECKING:
    from collections.abc import Set

    from athanor.models.network_graph import NetworkGraph

UMATask = Literal["omol", "omat", "oc20", "odac", "omc"]
"""Sets of data, and with them levels of theory, that UMA has a head for: molecules, inorganic materials, adsorbates on
catalysts, gases in metal-organic frameworks, molecular crystals."""

_MATERIALS = frozenset({"omat", "oc20", "oc25", "odac", "omc"})
_RANGES = {"charge": (-100, 100), "spin": (0, 100)}
"""Integers that the network has an embedding for."""


class UMAWrapper(PredictingModel):
    """UMA and eSEN of fairchem, for whole batches: one network for molecules, materials, catalysts and more.

    Parameters
    ----------
    predict_unit
        A predict unit of fairchem, whose network is used, not copied; its experts must not be merged.
    task_name
        Which level of theory: ``"omol"``, ``"omat"``, ``"oc20"``, ``"odac"``, ``"omc"``, or what else the network was
        trained on. ``"omol"`` reads ``charge`` and ``spin`` (2S+1) of a system, which are 0 and 1 where absent. The
        others were trained without: they get 0 and 0, whatever a system says.
    train
        Whether its parameters are trained; they are frozen otherwise.
    weights_digest
        Digest of the parameters for the card.

    Raises
    ------
    ContractError
        If `predict_unit` is none.
    InputError
        If it has no head of `task_name`, or its experts were merged for one composition.

    Notes
    -----
    Computes energy and forces, and stress of all tasks but ``"omol"``, unless ``model_config.active_outputs`` says
    otherwise; stress of ``"omol"``, node_embeddings and graph_embeddings can be added. A batch is one forward and at
    most one backward pass, on the pairs of our list: all within the cutoff, while the package leaves out those beyond
    the 300 nearest. The energy does not change when a system is turned, to about 1e-6 of it, as activations are taken
    on a grid; a mirror image may have another one. Forces and stress of a network that predicts them are those, and the
    card says so. An atom alone, with no periodic axis, has the energy of the table that belongs to the network, unless
    the network was trained on atoms; without such a table it is refused. The experts of a network are held by the
    network while it computes, so that one wrapper serves one thread.

    References
    ----------
    .. [1] B. M. Wood et al., UMA: A Family of Universal Models for Atoms (2025). doi:10.48550/arXiv.2506.23971
    """

    pairs_at_a_time = PAIRS_AT_A_TIME

    def __init__(
        self, predict_unit: Any, task_name: str = "omol", train: bool = False, *, weights_digest: str = ""
    ) -> None:
        network = network_of(predict_unit)
        tasks = {task.property: task for task in _tasks_of(predict_unit, task_name)}
        settings = predict_unit.inference_settings
        with process_left_alone():
            network.backbone.prepare_for_inference(None, replace(settings, merge_mole=False))
        device = torch.device(predict_unit.device)
        network.to(device, settings.base_precision_dtype).requires_grad_(train)
        backbone = network.backbone
        super().__init__(network, range(1, backbone.max_num_elements), embedding_width=backbone.sphere_channels)
        self.task_name, self._tasks = task_name, tasks
        parts = [part for task in tasks.values() for part in (task.normalizer, task.element_references)]
        self._scales = nn.ModuleList(part for part in parts if part is not None).to(device)  # moves along
        self._data_type = OptionalDependency.UMA.load("datasets.atomic_data").AtomicData
        self._reads_labels = task_name == "omol"
        self._atoms = (getattr(predict_unit, "atom_refs", None) or {}).get(task_name)
        derivatives = DERIVATIVES
        if backbone.regress_config.direct_forces:
            derivatives = DERIVATIVES & tasks.keys()
            self.predicted = derivatives
        outputs = frozenset({"energy", *derivatives, *EMBEDDINGS})
        self.model_config = ModelConfig(
            outputs=outputs,
            autograd_outputs=derivatives - self.predicted,
            optional_inputs=frozenset({"charge", "spin"} if self._reads_labels else ()),
            supports_pbc=True,
            neighbor_config=NeighborConfig(cutoff=float(backbone.cutoff), format=NeighborListFormat.COO),
            active_outputs=set(outputs) - EMBEDDINGS - ({"stress"} if task_name not in _MATERIALS else set()),
        )
        self.model_card = ModelCard(
            name=f"{getattr(network, 'model_id', None) or 'eSEN'} ({task_name})",
            kind="materials" if task_name in _MATERIALS else "any",
            elements=self.elements,
            dtype=self.dtype,
            conservative=not self.predicted,
            smooth=True,
            batch_invariance="no",
            weights_digest=weights_digest,
        )
        self.train(train)

    @classmethod
    def from_checkpoint(
        cls,
        name_or_path: Path | str,
        task_name: str = "omol",
        device: torch.device | str = "cpu",
        inference_settings: Any = "default",
        overrides: Mapping[str, Any] | None = None,
        train: bool = False,
        *,
        dtype: torch.dtype | None = None,
        trust: bool = False,
    ) -> UMAWrapper:
        """Load a network.

        Parameters
        ----------
        name_or_path
            A checkpoint for inference; or the name of a published one, such as ``"uma-s-1p2p1"``, which fairchem
            downloads once, after you accepted its terms on huggingface.co.
        task_name, train
            As in the constructor.
        device
            Where to put it.
        inference_settings
            ``"default"``, ``"batch"`` (which computes activations of large systems twice, to hold fewer of them),
            ``"traineval"``, or an ``InferenceSettings`` of fairchem. Those that merge the experts of a network for one
            composition are refused: batches hold many.
        overrides
            Changes of the configuration of the network.
        dtype
            Precision of the network; that of the settings, float32, by default.
        trust
            Whether to load the file. It is a whole pickle, and names functions to build the network by: both can run
            anything.

        Raises
        ------
        InputError
            If an argument does not fit, there is no such file or name, it can not be downloaded, or the file is
            damaged, holds something else, needs another version of the package, or is not trusted.
        OptionalDependencyError
            If fairchem-core is not installed.
        """
        place = usable_device(device)
        unit, digest = load_predict_unit(
            name_or_path,
            device=place,
            settings=inference_settings,
            overrides=overrides,
            dtype=dtype and check_state_dtype(dtype),
            trust=trust,
        )
        return cls(unit, task_name, train, weights_digest=digest).to(place)

    def network_outputs(self, graph: NetworkGraph, wanted: Set[str]) -> Mapping[str, torch.Tensor | None]:
        """Return energy, embeddings, and forces and stress where the network predicts them."""
        network: Any = self.model
        check_unmerged(network.backbone)
        data = self._network_input(graph)
        with _energy_of_given_pairs(network.backbone):
            embedding = network.backbone(data)
            found: dict[str, Any] = {}
            for name, head in network.output_heads.items():
                given = head(data, embedding)
                found |= given if network.pass_through_head_outputs else {name: given}
        outputs = {"node_embeddings": embedding["node_embedding"][:, 0]}
        for name in ("energy", *sorted(self.predicted & wanted)):
            task = self._tasks[name]
            value = found[task.name]
            value = task.normalizer.denorm(value[name] if isinstance(value, Mapping) else value)
            if task.element_references is not None:
                value = task.element_references.undo_refs(data, value)
            outputs[name] = value.view(-1, 3, 3) if name == "stress" else value
        outputs["energy"] = self._with_lone_atoms(outputs["energy"], graph, data)
        return outputs

    def _network_input(self, graph: NetworkGraph) -> Any:
        """Return the batch as fairchem has one."""
        i, j = graph.edge_index
        zeros = torch.zeros_like(graph.atomic_numbers)
        return self._data_type(
            pos=graph.local_positions,
            atomic_numbers=graph.atomic_numbers,
            cell=graph.cell,
            pbc=graph.pbc,
            natoms=graph.ptr.diff(),
            edge_index=torch.stack((j, i)),
            cell_offsets=graph.unit_shifts,
            nedges=torch.bincount(graph.batch_idx[i], minlength=graph.num_graphs),
            charge=self._label(graph, "charge"),
            spin=self._label(graph, "spin"),
            fixed=zeros,
            tags=zeros,
            batch=graph.batch_idx,
            sid=[""] * graph.num_graphs,
            dataset=[self.task_name] * graph.num_graphs,
        )

    def _label(self, graph: NetworkGraph, name: str) -> torch.Tensor:
        """Return the charge or spin of each system, int64 [B]."""
        if not self._reads_labels:
            return graph.ptr.new_zeros(graph.num_graphs)
        values = graph.label(name)
        lowest, highest = _RANGES[name]
        wrong = (values != values.round()) | (values < lowest) | (values > highest)
        if bool(wrong.any()):
            place = int(wrong.nonzero()[0])
            raise InputError(
                f"`{name}` of the system of index {place} is {values[place].item():g}; {type(self).__name__} takes "
                f"integers from {lowest} to {highest}."
            )
        return values.to(torch.int64)

    def _with_lone_atoms(self, energy: torch.Tensor, graph: NetworkGraph, data: Any) -> torch.Tensor:
        """Return the energies with those of the table for atoms alone, which most networks were not trained on."""
        alone = (data.natoms == 1) & ~data.pbc.any(1)
        if getattr(self.model, "supports_single_atoms", False) or not bool(alone.any()):
            return energy
        places = alone.nonzero().view(-1)
        numbers = data.atomic_numbers[graph.ptr[places]].tolist()
        charges = data.charge[places].tolist()
        energies = [self._energy_of_atom(*each) for each in zip(places.tolist(), numbers, charges, strict=True)]
        return energy.index_copy(0, places, energy.new_tensor(energies))

    def _energy_of_atom(self, place: int, number: int, charge: int) -> float:
        table: Any = {} if self._atoms is None else self._atoms
        try:
            found = table[number]
            energy = found[charge] if isinstance(found, Mapping) else found
        except LookupError:
            energy = None
        if energy is None:
            raise InputError(
                f"The system of index {place} is an atom alone, which this network was not trained on, and it has no "
                f"energy for atomic number {number} of charge {charge}. Leave it out of the batch."
            )
        return float(energy)


def _tasks_of(unit: Any, name: str) -> list[Any]:
    """Return what a predict unit computes for a task."""
    known = unit.dataset_to_tasks
    if name not in known or not any(task.property == "energy" for task in known[name]):
        raise InputError(f"`task_name` is {shown(name)}; this network has {', '.join(sorted(known))}.")
    return list(known[name])


@contextlib.contextmanager
def _energy_of_given_pairs(backbone: Any) -> Iterator[None]:
    """Have a network take the pairs that it is given, and leave its energy to others to differentiate."""
    config = backbone.regress_config
    before = (backbone.otf_graph, config.forces, config.stress, config.hessian)
    backbone.otf_graph = config.hessian = False
    if not config.direct_forces:
        config.forces = config.stress = False
    try:
        yield
    finally:
        backbone.otf_graph, config.forces, config.stress, config.hessian = before
