"""SO3LRWrapper: the interface between a SO3LR network and a Batch."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from athanor._values import check_state_dtype, is_real, shown, usable_device
from athanor.errors import InputError
from athanor.models.card import ModelCard
from athanor.models.config import ModelConfig
from athanor.models.learned import DERIVATIVES, EMBEDDINGS, LearnedModel
from athanor.models.so3lr.network import SHIPPED, Energies, checked, load_network
from athanor.neighbors.config import NeighborConfig, NeighborListFormat

if TYPE_CHECKING:
    from collections.abc import Set

    from athanor.models.network_graph import NetworkGraph

_FITTED = frozenset({1, 6, 7, 8, 9, 15, 16, 17})
"""H, C, N, O, F, P, S, Cl: what the shipped parameters were fitted to. The others are as they were initialised."""
_LARGEST = 99
"""Atomic number to which the blocks have a row."""
_MINIMUM_DISTANCE = 0.5
"""Å. The shortest bond of all, H-H, is 0.74 Å and stays above 0.6 Å when hot."""


class SO3LRWrapper(LearnedModel):
    """SO3LR, a network for molecules with charges, electrostatics and dispersion, for whole batches.

    Parameters
    ----------
    model
        A `SO3LR` or `So3krates` of the so3krates-torch package.
    long_range_cutoff
        Å to which charges and dispersion act; by default that of the network, 12 where it has none.
    dispersion_switch_width
        Å below that cutoff over which dispersion goes to zero; by default that of the network, 2 where it has none.
    elements
        Atomic numbers that its parameters were fitted to; others are refused. By default all that it has a row for.
    name
        What the model is called in its card.
    weights_digest
        Digest of the parameters for the card.

    Raises
    ------
    ContractError
        If `model` is no network of the package.
    InputError
        If a number does not fit, or the network has several heads or charges on a mesh.

    Notes
    -----
    Computes energy and forces unless ``model_config.active_outputs`` says otherwise; stress, atomic_energies, charges,
    hirshfeld_ratios (volume of each atom in its surroundings over that of the free one), node_embeddings and
    graph_embeddings can be added. A system may have a ``charge`` and a ``spin``, its multiplicity: 0 and 1 where it has
    none. Needs a full neighbour list of at least the long-range cutoff. In a crystal charges end at that cutoff too,
    there is no sum over images. Geometry and sums are in float64, the network in its own dtype. Energies are relative
    to free nuclei and electrons of the fit, hundreds of eV per atom: single precision leaves 1e-4 eV of a molecule.

    References
    ----------
    .. [1] A. Kabylda et al., J. Am. Chem. Soc. (2025). doi:10.1021/jacs.5c09558
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        long_range_cutoff: float | None = None,
        dispersion_switch_width: float | None = None,
        elements: Collection[int] | None = None,
        name: str = "SO3LR",
        weights_digest: str = "",
    ) -> None:
        network = checked(model)
        known = range(1, min(network.num_elements, _LARGEST) + 1) if elements is None else elements
        super().__init__(network, known, embedding_width=network.num_features)
        own = getattr(network, "r_max_lr", None), getattr(network, "dispersion_energy_cutoff_lr_damping", None)
        self._long_range_cutoff = _length("long_range_cutoff", long_range_cutoff, own[0] or 12.0)
        self._switch_width = _length("dispersion_switch_width", dispersion_switch_width, own[1] or 2.0)
        near, charged = float(network.r_max), getattr(network, "electrostatic_energy_bool", False)
        far = self._long_range_cutoff if getattr(network, "use_lr", False) else near
        more = {"charges": charged, "hirshfeld_ratios": getattr(network, "dispersion_energy_bool", False)}
        self._atomic_outputs = frozenset(each for each, there in more.items() if there)
        self.model_config = ModelConfig(
            outputs=frozenset({"energy", "atomic_energies", *self._atomic_outputs, *DERIVATIVES, *EMBEDDINGS}),
            autograd_outputs=DERIVATIVES,
            optional_inputs=frozenset({"charge", "spin"}),
            supports_pbc=True,
            neighbor_config=NeighborConfig(cutoff=max(near, far), format=NeighborListFormat.COO),
            output_levels={"hirshfeld_ratios": "node"} if "hirshfeld_ratios" in self._atomic_outputs else {},
            active_outputs={"energy", "forces"},
        )
        self.model_card = ModelCard(
            name=name,
            kind="molecules",
            elements=self.elements,
            minimum_distance=_MINIMUM_DISTANCE,
            dtype=self.dtype,
            conservative=True,
            equivariant=True,
            smooth=not charged,  # the slope of the forces between charges jumps where they end
            batch_invariance="no",
            short_ranged=not charged,
            licence="MIT",
            citation="doi:10.1021/jacs.5c09558",
            url="https://github.com/tohenkes/So3krates-torch",
            weights_digest=weights_digest,
        )

    @classmethod
    def from_checkpoint(
        cls,
        checkpoint: str | Path = "so3lr",
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        *,
        long_range_cutoff: float | None = None,
        dispersion_switch_width: float | None = None,
        trust: bool = False,
    ) -> SO3LRWrapper:
        """Load a network, in eval mode.

        Parameters
        ----------
        checkpoint
            ``"so3lr"`` from the installed package, whose SHA-256 is checked; or the path of a file that its training
            wrote.
        device
            Where to put it.
        dtype
            Precision of the network.
        long_range_cutoff, dispersion_switch_width
            As in the constructor.
        trust
            Whether to load a whole pickle, which can run anything; ``"so3lr"`` needs it not. Files of so3krates-torch
            are whole pickles.

        Raises
        ------
        InputError
            If an argument does not fit, for an unknown name or other contents than expected, or a file that is damaged,
            holds something else, or is a pickle and not trusted.
        OptionalDependencyError
            If so3krates-torch is not installed.
        """
        place = usable_device(device)
        network, digest = load_network(checkpoint, trust=trust)
        return cls(
            network.to(place, check_state_dtype(dtype)),
            long_range_cutoff=long_range_cutoff,
            dispersion_switch_width=dispersion_switch_width,
            elements=_FITTED if str(checkpoint) in SHIPPED else None,
            name="SO3LR" if str(checkpoint) in SHIPPED else f"SO3LR {checkpoint}",
            weights_digest=digest,
        ).eval()

    def network_outputs(self, graph: NetworkGraph, wanted: Set[str]) -> dict[str, torch.Tensor | None]:
        """Return energies, charges and features of atoms, attached; see `LearnedModel.network_outputs`."""
        found = Energies(self.model, graph, self._long_range_cutoff, self._switch_width)
        return {
            "atomic_energies": found.atomic_energies,
            "node_embeddings": found.features,
            "charges": found.charges,
            "hirshfeld_ratios": found.hirshfeld_ratios,
        }


def _length(argument: str, value: float | None, default: float) -> float:
    if value is None:
        return float(default)
    if not (is_real(value) and 0 < value < float("inf")):
        raise InputError(f"`{argument}` is {shown(value)}; give a length in Å, above zero.")
    return float(value)
