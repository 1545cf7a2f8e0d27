"""CHGNetWrapper: the interface between the network and a Batch.

The energy is a function of the bond vectors, which are attached to positions, cell and strain; forces and stress are
sums over bonds of its gradient with respect to them, taken in float64.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from athanor import _runtime
from athanor._values import check_state_dtype, usable_device
from athanor.errors import ContractError, InputError
from athanor.models.card import ModelCard
from athanor.models.chgnet.graph import CrystalGraph, build_graph
from athanor.models.chgnet.network import CHGNetNetwork
from athanor.models.chgnet.weights import load_checkpoint, save_checkpoint
from athanor.models.config import ModelConfig
from athanor.models.learned import DERIVATIVES, EMBEDDINGS, LearnedModel, as_batch
from athanor.models.pair_vectors import attached_vectors
from athanor.models.prepared import prepared
from athanor.models.stored_list import require_pairs
from athanor.neighbors.config import NeighborConfig, NeighborListFormat

if TYPE_CHECKING:
    from collections.abc import Set

    from athanor.data.atomic_data import AtomicData
    from athanor.data.batch import Batch

_UNTRAINED = frozenset(range(84, 89))
"""Po, At, Rn, Fr, Ra: embedded, but absent from the data the shipped parameters were fitted to."""
_MINIMUM_DISTANCE = 0.5
"""Å. The shortest bond of all, H-H, is 0.74 Å and stays above 0.6 Å when hot; the fit has no data below."""


class CHGNetWrapper(LearnedModel):
    r"""CHGNet, the universal potential for inorganic crystals with magnetic moments, for whole batches.

    .. math:: F_i = \sum_{u=(i,j)} g_u - \sum_{u=(j,i)} g_u, \qquad
              \sigma = \frac{1}{V} \sum_u v_u \otimes g_u, \qquad g_u = \partial E / \partial v_u

    Use it for bulk inorganic materials near what was computed with PBE or r2SCAN. It knows no charge, no dispersion
    and no molecules in solution.

    Parameters
    ----------
    model
        A `CHGNetNetwork`, or a model of the chgnet package, whose parameters are copied.
    name
        What the model is called in its card.
    weights_digest
        Digest of the parameters for the card.

    Notes
    -----
    Computes energy and forces unless ``model_config.active_outputs`` says otherwise; stress, magmoms (Bohr
    magnetons, not negative), atomic_energies, node_embeddings and graph_embeddings can be added. Needs a full
    neighbour list of at least its cutoff (6 Å; 5 Å for 0.2.0). Geometry and sums are in float64, the network in
    its own dtype, results in the dtype of the positions. They are detached unless the positions handed in carry a
    graph; then every output has its derivatives by positions and cell, of any order. A batch is one forward and at most
    one backward pass, in blocks that fit the cache. An atom without neighbours gives what the package gives when it
    allows them; the first one is warned about. Systems without a cell have zero stress.

    The energy is rough on a scale of 0.01 Å: what enters the activations is hundreds in size, so that their bends are
    kinks. Its exact Hessian is right only at the very point: for silicon 7.3 eV/Å² on the diagonal, 10.0 by differences
    over 0.01 Å. For phonons and vibrations take differences, `athanor.models.hessian`; in float32 they are right to
    3e-4 eV/Å².

    References
    ----------
    .. [1] B. Deng et al., Nat. Mach. Intell. 5, 1031 (2023). doi:10.1038/s42256-023-00716-3

    Examples
    --------
    >>> from ase.build import bulk
    >>> from athanor import AtomicData, Batch
    >>> from athanor.models.chgnet import CHGNetWrapper
    >>> from athanor.neighbors import compute_neighbors
    >>> model = CHGNetWrapper.from_checkpoint("0.3.0")
    >>> batch = Batch.from_data_list([AtomicData.from_atoms(bulk("Si", cubic=True))])
    >>> compute_neighbors(batch, config=model.model_config.neighbor_config)
    >>> round(model(batch)["energy"].item(), 1)
    -42.5
    """

    model: CHGNetNetwork

    def __init__(self, model: nn.Module, *, name: str = "CHGNet", weights_digest: str = "") -> None:
        network = model if isinstance(model, CHGNetNetwork) else _converted(model)
        super().__init__(network, range(1, network.num_elements + 1), embedding_width=network.num_features)
        self._warned_of_isolated_atoms = False
        self.model_config = ModelConfig(
            outputs=frozenset({"energy", "magmoms", "atomic_energies", *DERIVATIVES, *EMBEDDINGS}),
            autograd_outputs=DERIVATIVES,
            supports_pbc=True,
            neighbor_config=NeighborConfig(cutoff=network.cutoff, format=NeighborListFormat.COO),
            active_outputs={"energy", "forces"},
        )
        self.model_card = ModelCard(
            name=name,
            kind="materials",
            elements=self.elements,
            trained_elements=self.elements - _UNTRAINED,
            minimum_distance=_MINIMUM_DISTANCE,
            dtype=self.dtype,
            conservative=True,
            equivariant=True,
            smooth=True,
            batch_invariance="no",
            stress_keeps_forces=True,
            licence="BSD-3-Clause, modified",
            citation="doi:10.1038/s42256-023-00716-3",
            url="https://github.com/CederGroupHub/chgnet",
            weights_digest=weights_digest,
        )

    @classmethod
    def from_checkpoint(
        cls,
        name: str | Path = "0.3.0",
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        *,
        trust: bool = False,
    ) -> CHGNetWrapper:
        """Load fitted parameters.

        Parameters
        ----------
        name
            ``"0.3.0"`` (PBE, the default), ``"0.2.0"`` or ``"r2scan"`` from the installed chgnet package, whose
            SHA-256 is checked; or the path of a checkpoint.
        device
            Where to put the network.
        dtype
            Precision of the network; float64 doubles the time and removes rounding noise.
        trust
            Whether to load a file that is a whole pickle, which can run anything.

        Raises
        ------
        InputError
            For an unknown name, other contents than expected, or a file that is damaged, no checkpoint, or has tensors
            missing, too many, misshapen or not finite.
        OptionalDependencyError
            If chgnet is not installed.
        """
        checkpoint = load_checkpoint(name, trust=trust)
        network = CHGNetNetwork(checkpoint.state, checkpoint.arguments).to(
            usable_device(device), check_state_dtype(dtype)
        )
        return cls(network, name=f"CHGNet {checkpoint.name}", weights_digest=checkpoint.digest)

    @property
    def dtype(self) -> torch.dtype:
        """dtype of the network."""
        return self.model.atom_embedding.dtype

    def export_model(self, path: Path, as_state_dict: bool = False) -> None:
        """Write the parameters as they came in, float32 for the shipped ones; `from_checkpoint` reads both forms.

        Parameters
        ----------
        path
            File to write. The chgnet package reads it with ``CHGNet.from_file``.
        as_state_dict
            Write a state dict of the package's model, which ``load_state_dict`` takes. Neither is a pickle of code.

        Raises
        ------
        StorageError
            If the file can not be written.
        """
        save_checkpoint(path, *self.model.checkpoint, as_state_dict=as_state_dict)

    def adapt_input(self, data: AtomicData | Batch, **kwargs: Any) -> dict[str, Any]:
        """Build the graphs of a batch from its stored pair list; nothing of the batch is changed.

        Raises
        ------
        MissingFieldError
            A `KeyError`, if there is no neighbour list.
        InputError
            If the list is half, too short or out of date, or the network does not know an element.
        """
        batch = as_batch(data)
        self.element_index_of(batch)
        graph = self._graph(batch)
        if not self._warned_of_isolated_atoms:
            self._warn_of_isolated_atoms(batch, graph)
        return {
            "graph": graph,
            "vectors": graph.bond_vectors,
            "atomic_numbers": batch.atomic_numbers.long(),
            "batch_idx": batch.batch_idx,
        }

    def attached_energy(
        self, data: AtomicData | Batch, strain: torch.Tensor | None, wanted: Set[str]
    ) -> dict[str, torch.Tensor]:
        """Return energy and features of the network, attached; see `BaseModelMixin.attached_energy`."""
        batch = as_batch(data)
        inputs = self.adapt_input(batch)
        ends = inputs["graph"].bond_ends
        vectors = attached_vectors(inputs["vectors"], ends, batch, strain)
        result = self.model(**{**inputs, "vectors": vectors})
        outputs = {
            "energy": _system_sums(result.atomic_energies, batch).unsqueeze(1),
            "atomic_energies": result.atomic_energies,
        }
        if "magmoms" in wanted:
            outputs["magmoms"] = self.model.magnetic_moments(result.atom_features)
        if wanted & self.embedding_shapes.keys():
            outputs |= self._embeddings(result, batch)
        return {key: value.to(batch.positions.dtype) for key, value in outputs.items()}

    def _embeddings(self, result: Any, batch: Batch) -> dict[str, torch.Tensor]:
        dtype = batch.positions.dtype
        return {
            "node_embeddings": result.atom_features.to(dtype),
            "graph_embeddings": _system_sums(result.final_features, batch).to(dtype),
        }

    def _graph(self, batch: Batch) -> CrystalGraph:
        pairs = require_pairs(self, batch, self.model.cutoff)
        if pairs.half:
            raise InputError(
                f"The neighbour list is half; {type(self).__name__} needs both directions. "
                f"Build it with `compute_neighbors(batch, config=model.model_config.neighbor_config)`."
            )
        return prepared(
            build_graph,
            batch.positions,
            batch.cell_or_zeros,
            batch.batch_ptr,
            pairs.row_ptr,
            pairs.neighbors,
            pairs.images,
            pairs.wrap_offsets,
            cutoff=self.model.cutoff,
            bond_cutoff=self.model.bond_cutoff,
        )

    def _warn_of_isolated_atoms(self, batch: Batch, graph: CrystalGraph) -> None:
        degree = torch.bincount(graph.pair_center, minlength=batch.num_nodes)
        if bool((degree > 0).all()):
            return
        self._warned_of_isolated_atoms = True
        systems = batch.batch_idx[degree == 0].unique().tolist()
        warnings.warn(
            f"Atoms of the system of index {', '.join(map(str, systems[:3]))} have no neighbour within "
            f"{self.model.cutoff:g} Å; CHGNet was not fitted to isolated atoms. They are evaluated all the same; later "
            f"ones are not warned about.",
            UserWarning,
            stacklevel=_runtime.level_of_caller(),
        )


def _converted(model: nn.Module) -> CHGNetNetwork:
    """Return our network with the parameters of a model of the chgnet package."""
    arguments = getattr(model, "model_args", None)
    if not isinstance(arguments, dict):
        raise ContractError(
            f"`model` is a {type(model).__name__}; pass a model of the chgnet package, or use "
            f"`CHGNetWrapper.from_checkpoint()`."
        )
    return CHGNetNetwork(model.state_dict(), arguments)


def _system_sums(values: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Add the rows of each system in float64, in order; differentiating it costs a fifth of `segment_sum`."""
    sums = values.new_zeros((batch.num_graphs, *values.shape[1:]), dtype=torch.float64)
    return sums.index_add(0, batch.batch_idx, values.to(torch.float64))
