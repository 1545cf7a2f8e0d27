"""MetatomicWrapper: the interface between an exported model of metatomic and a Batch.

A model is called once for the whole batch, with our pairs in every neighbour list that it asks for.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from athanor._values import shown, usable_device
from athanor.data.atomic_data import AtomicData
from athanor.data.batch import Batch
from athanor.errors import InputError
from athanor.models.card import ModelCard
from athanor.models.config import ModelConfig
from athanor.models.learned import DERIVATIVES, EMBEDDINGS
from athanor.models.metatomic.archive import checked, load_model
from athanor.models.metatomic.systems import SystemMaker, fields_of, metatomic
from athanor.models.network_blocks import PAIRS_AT_A_TIME
from athanor.models.predicted import PredictingModel
from athanor.neighbors import compute_neighbors
from athanor.neighbors.config import NeighborConfig, NeighborListFormat

if TYPE_CHECKING:
    from collections.abc import Set

    from athanor.models.network_graph import NetworkGraph

NonConservative = bool | Literal["forces", "stress"]

_PREDICTED = {"forces": ("non_conservative_force", "eV/A"), "stress": ("non_conservative_stress", "eV/A^3")}
_OF_ENERGY = frozenset({"energy_uncertainty", "energy_ensemble"})
_FEATURES = "feature"


class MetatomicWrapper(PredictingModel):
    """Any model that metatomic exports, such as PET, for whole batches.

    Parameters
    ----------
    model
        An ``AtomisticModel`` of metatomic, or one that `torch.jit.script` made of it.
    variant
        Which energy to use where a model has several, such as ``"pbe"`` of ``energy/pbe``; the one without a name by
        default. What else belongs to the energy is taken of the same variant, if there is one.
    non_conservative
        Whether to take ``"forces"``, ``"stress"`` or both (``True``) from outputs of the model that predict them,
        which costs no backward pass and does not conserve the energy. The mean of the forces of each system is taken
        off, as the package does.
    weights_digest
        Digest of the file for the card.

    Raises
    ------
    ContractError
        If `model` is none.
    InputError
        If it has no energy or no such variant or output, or asks for something that a batch does not have.

    Notes
    -----
    Computes energy and forces unless ``model_config.active_outputs`` says otherwise; stress can be added, and where the
    model gives them atomic_energies, energy_uncertainty (eV, [B, 1]), energy_ensemble (eV, [B, members]) and, of what
    it calls features, node_embeddings and graph_embeddings. A batch is one call and at most one backward pass. Needs a
    full neighbour list up to the largest cutoff of the lists that the model asks for; each of those is made of it,
    half ones too, and holds no pair beyond its cutoff, whether the model asked for that or not. ``charge``, ``spin``
    and ``charges`` of the batch are handed over where the model asks for them. The precision is that of the model.
    TorchScript compiles in the first two or three calls, which take seconds.

    References
    ----------
    .. [1] F. Bigi et al., Metatensor and metatomic (2025). doi:10.48550/arXiv.2508.15704
    """

    _keeps_dtype = True

    pairs_at_a_time = PAIRS_AT_A_TIME

    def __init__(
        self,
        model: Any,
        *,
        variant: str | None = None,
        non_conservative: NonConservative = False,
        weights_digest: str = "",
    ) -> None:
        capabilities = checked(model).capabilities()
        super().__init__(model, [int(number) for number in capabilities.atomic_types if number > 0])
        self._precision = getattr(torch, capabilities.dtype)
        self._outputs = _outputs_of(capabilities.outputs, variant)
        self.predicted = _predicted(self._outputs, non_conservative)
        requested = model.requested_inputs(use_new_names=True)
        lists = [(options, options.engine_cutoff("angstrom")) for options in model.requested_neighbor_lists()]
        self._systems = SystemMaker(lists, requested)
        cutoff = max((cutoff for _, cutoff in lists), default=1.0)  # a list that nobody reads
        kinds = {name: capabilities.outputs[theirs].sample_kind for name, theirs in self._outputs.items()}
        self._of_atoms = frozenset(name for name, kind in kinds.items() if kind == "atom")
        outputs = frozenset({"energy", *DERIVATIVES, *(self._outputs.keys() & _OF_ENERGY)})
        if "energy" in self._of_atoms:
            outputs |= {"atomic_energies"}
        if _FEATURES in self._of_atoms:
            outputs |= EMBEDDINGS
        self.model_config = ModelConfig(
            outputs=outputs,
            autograd_outputs=DERIVATIVES - self.predicted,
            optional_inputs=frozenset(fields_of(requested).values()) - {"atomic_masses"},
            supports_pbc=True,
            neighbor_config=NeighborConfig(cutoff=cutoff, format=NeighborListFormat.COO),
            output_levels=dict.fromkeys(outputs & _OF_ENERGY, "system"),
            active_outputs={"energy", "forces"},
        )
        about = model.metadata()
        self.model_card = ModelCard(
            name=about.name or "metatomic model",
            kind="any",
            elements=self.elements,
            dtype=self.dtype,
            conservative=not self.predicted,
            short_ranged=capabilities.interaction_range < float("inf"),
            batch_invariance="no",
            citation="; ".join(text for each in about.references.values() for text in each),
            weights_digest=weights_digest,
        )

    @classmethod
    def from_checkpoint(
        cls,
        checkpoint_path: Path | str,
        device: torch.device | str = "cpu",
        *,
        variant: str | None = None,
        non_conservative: NonConservative = False,
        extensions_directory: Path | str | None = None,
        trust: bool = False,
    ) -> MetatomicWrapper:
        """Load an exported model.

        Parameters
        ----------
        checkpoint_path
            A file that ``AtomisticModel.save`` or ``mtt export`` wrote, often ``.pt``.
        device
            Where to put it; one that the model supports.
        variant, non_conservative
            As in the constructor.
        extensions_directory
            Folder with the libraries that the model needs, if they were exported along; else those that are installed.
        trust
            Whether to load it. It is a program in TorchScript, which runs while it is loaded and can write files; and
            it names libraries to load.

        Raises
        ------
        InputError
            If an argument does not fit, there is no such file, or it is damaged, is no model of metatomic, needs
            another version or libraries that are missing, or is not trusted.
        OptionalDependencyError
            If metatomic-torch is not installed.
        """
        place = usable_device(device)
        extensions = None if extensions_directory is None else Path(extensions_directory)
        model, digest = load_model(Path(checkpoint_path), extensions, trust=trust)
        known = model.capabilities().supported_devices
        if place.type not in known:
            raise InputError(f"`device` is {shown(str(device))}; this model supports {', '.join(known)}.")
        model = model.to(place)
        return cls(model, variant=variant, non_conservative=non_conservative, weights_digest=digest).eval()

    @property
    def dtype(self) -> torch.dtype:
        """dtype of the model."""
        return self._precision

    @property
    def embedding_shapes(self) -> dict[str, tuple[int, ...]]:
        """``node_embeddings`` and ``graph_embeddings``, if the model has features."""
        return dict.fromkeys(sorted(EMBEDDINGS), (self._width,)) if self.model_config.outputs >= EMBEDDINGS else {}

    def network_outputs(self, graph: NetworkGraph, wanted: Set[str]) -> Mapping[str, torch.Tensor | None]:
        """Return energies, of atoms where the model has them, and what else is wanted of what it gives."""
        package = metatomic()
        asked = {"energy": "eV"}
        asked |= dict.fromkeys(wanted & _OF_ENERGY & self._outputs.keys(), "eV")
        asked |= {name: _PREDICTED[name][1] for name in self.predicted & wanted}
        if not EMBEDDINGS.isdisjoint(wanted):
            asked[_FEATURES] = ""
        of_atoms = {"forces", _FEATURES, *({"energy"} & self._of_atoms)}
        requests = {
            self._outputs[name]: package.ModelOutput(unit=unit, sample_kind="atom" if name in of_atoms else "system")
            for name, unit in asked.items()
        }
        options = package.ModelEvaluationOptions(length_unit="angstrom", outputs=requests)
        found = self.model(self._systems(graph), options, check_consistency=False)
        rows = {name: _in_order(found[self._outputs[name]].block(), graph, name in of_atoms) for name in asked}
        outputs = {name: rows[name] for name in asked.keys() & _OF_ENERGY}
        outputs["atomic_energies" if "energy" in of_atoms else "energy"] = rows["energy"].view(-1)
        if _FEATURES in rows:
            outputs["node_embeddings"] = rows[_FEATURES]
        if "forces" in rows:
            forces = rows["forces"]
            mean = graph.system_sums(forces) / graph.ptr.diff().view(-1, 1)
            outputs["forces"] = forces - mean[graph.batch_idx]
        if "stress" in rows:
            stress = rows["stress"].view(-1, 3, 3)
            outputs["stress"] = 0.5 * (stress + stress.mT)
        return outputs

    def export_model(self, path: Path, as_state_dict: bool = False) -> None:
        """Write the model: its parameters alone, or all of it as metatomic exports it."""
        if as_state_dict:
            super().export_model(path, as_state_dict=True)
        else:
            model: Any = self.model
            model.save(str(path))

    @cached_property
    def _width(self) -> int:
        """Width of the features, which a model does not tell before it is called."""
        pair = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 0.5 * self.cutoff]], dtype=self.dtype)
        numbers = torch.full((2,), min(self.elements))
        batch = Batch.from_data_list([AtomicData(positions=pair, atomic_numbers=numbers)])
        compute_neighbors(batch, config=self.model_config.neighbor_config)
        with torch.no_grad():
            outputs = self.network_outputs(self.network_graph(batch), EMBEDDINGS)
        features = outputs["node_embeddings"]
        return 0 if features is None else int(features.shape[1])


def _outputs_of(known: Mapping[str, Any], variant: str | None) -> dict[str, str]:
    """Return what a model gives, and what it calls that in `variant`."""
    pick = metatomic().pick_output
    try:
        found = {"energy": pick("energy", known, variant)}
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"`variant` is {shown(variant)}; this model gives "
            f"{', '.join(sorted(name for name in known if name.split('/')[0] == 'energy'))}."
        ) from error
    wanted = {name: name for name in (*_OF_ENERGY, _FEATURES)} | {
        name: theirs for name, (theirs, _) in _PREDICTED.items()
    }
    for name, theirs in wanted.items():
        same = f"{theirs}/{variant}" if variant else theirs
        if same in known or theirs in known:
            found[name] = same if same in known else theirs
    return found


def _predicted(outputs: Mapping[str, str], asked: NonConservative) -> frozenset[str]:
    if asked not in (True, False, "forces", "stress"):
        raise InputError(f'`non_conservative` is {shown(asked)}; use False, True, "forces" or "stress".')
    names = frozenset(name for name in _PREDICTED if asked is True or asked == name)
    if missing := sorted(names - outputs.keys()):
        raise InputError(f"`non_conservative` is {shown(asked)}; this model predicts no {' and no '.join(missing)}.")
    return names


def _in_order(block: Any, graph: NetworkGraph, of_atoms: bool) -> torch.Tensor:
    """Return the rows of a block, one for each atom or system, in our order."""
    samples, values = block.samples, block.values.flatten(1)
    place = samples.column("system").long()
    if of_atoms:
        place = graph.ptr[place] + samples.column("atom").long()
    count = graph.num_nodes if of_atoms else graph.num_graphs
    return values.new_zeros((count, values.shape[1])).index_copy(0, place, values)
