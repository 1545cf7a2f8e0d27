"""MACEWrapper: the interface between a MACE network and a Batch.

The network differentiates its energy itself; in a sum of models, where others do, it is asked for the energy only.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from athanor._values import check_state_dtype, shown, unknown_keyword, usable_device
from athanor.errors import InputError, NotAvailableError
from athanor.models.card import ModelCard
from athanor.models.config import ModelConfig
from athanor.models.derivatives import carries_graph
from athanor.models.learned import DERIVATIVES, LearnedModel, as_batch
from athanor.models.mace.contractions import receivers_first, with_sums_first
from athanor.models.mace.inputs import LABELS, atoms_and_pairs, further, heads_of
from athanor.models.mace.network import (
    DEBYE,
    abilities_of,
    compiled,
    head_of,
    load_network,
    probed,
    set_atomic_energies,
    with_cuequivariance,
)
from athanor.models.network_blocks import PAIRS_AT_A_TIME
from athanor.neighbors.config import NeighborConfig, NeighborListFormat

if TYPE_CHECKING:
    from collections.abc import Set

    from athanor._typing import ModelOutputs
    from athanor.data.atomic_data import AtomicData
    from athanor.data.batch import Batch
    from athanor.models.network_graph import NetworkGraph


class MACEWrapper(LearnedModel):
    """MACE, equivariant message passing with many-body messages, for whole batches; any network of its interface.

    Parameters
    ----------
    model
        A network of the mace-torch package, or any module that has what is read of one: ``atomic_numbers``, ``r_max``
        (Å), ``products[0].linear.irreps_out.dim``, a parameter, and ``forward(inputs, compute_force=, compute_stress=,
        compute_displacement=, training=)``, which returns ``energy`` [B] and if asked ``forces`` [N, 3] and ``stress``
        [B, 3, 3], tensile positive; and ``node_energy`` [N] and ``node_feats``, if it likes.
    head
        Name of the head to use, where a network has several; by default the one called ``default``.
    weights_digest
        Digest of the parameters for the card.
    reconstruction_spec
        What `checkpoint_spec` returns.

    Raises
    ------
    ContractError
        If `model` is no such module.
    InputError
        If it has several heads and `head` is none of them.
    NotAvailableError
        If it has electrostatics of its own, as MACE-POLAR and MACELES.

    Notes
    -----
    Computes energy and forces unless ``model_config.active_outputs`` says otherwise; stress, atomic_energies,
    node_embeddings and graph_embeddings can be added, and dipole, charges and polarizability where the network has them
    (networks of dipoles alone have no energy). Networks that were trained with them read ``charge`` and ``spin`` of a
    system, 0 and 1 where absent, and other inputs from fields of their names; one of several heads can be chosen for
    each system by a field ``head`` of integers. Second derivatives: `athanor.models.hessian`. Needs a full
    neighbour list of at least its cutoff, and gives the network the pairs within it. The network computes in its own
    dtype, results have that of the positions; a system gets the same numbers alone and among others, but for rounding.
    They are detached unless parameters are trained or the positions handed in carry a graph. An element that the
    network does not know is refused. Systems without a cell have zero stress.

    On a CPU the two costly steps of each layer are evaluated by `with_sums_first`, from the parameters of the network
    and to rounding the same, and a batch some systems at a time, as many as fit the cache.

    References
    ----------
    .. [1] I. Batatia et al., Adv. Neural Inf. Process. Syst. 35, 11423 (2022). doi:10.48550/arXiv.2206.07697
    """

    _node_emb: torch.Tensor

    def __init__(
        self,
        model: nn.Module,
        *,
        head: str | None = None,
        weights_digest: str = "",
        reconstruction_spec: Mapping[str, Any] | None = None,
    ) -> None:
        numbers, width = probed(model)
        abilities = abilities_of(model)
        super().__init__(model, numbers, embedding_width=width if abilities.has_embeddings else 0)
        self.head, self._head_index = head_of(model, head)
        self._spec = None if reconstruction_spec is None else dict(reconstruction_spec)
        table = torch.zeros(max(numbers) + 1, len(numbers), dtype=self.dtype, device=next(model.parameters()).device)
        table[numbers, range(len(numbers))] = 1.0
        self.register_buffer("_node_emb", table, persistent=False)
        self._reads, self._in_debye = abilities.reads, abilities.in_debye
        self._sums_first: dict[int, nn.Module | None] = {}  # by the network it was made of; no part of the parameters
        outputs = {*abilities.outputs, *self.embedding_shapes}
        self.model_config = ModelConfig(
            outputs=frozenset(outputs),
            autograd_outputs=frozenset(DERIVATIVES & outputs),
            optional_inputs=frozenset(LABELS[name] for name in self._reads if name in LABELS),
            supports_pbc=True,
            neighbor_config=NeighborConfig(cutoff=self.cutoff, format=NeighborListFormat.COO),
            active_outputs={"energy", "forces"} if "energy" in outputs else set(abilities.outputs - {"polarizability"}),
        )
        self.model_card = ModelCard(
            name="MACE",
            elements=frozenset(numbers),
            dtype=self.dtype,
            conservative=True if "energy" in outputs else None,
            equivariant=True,
            smooth=True,
            batch_invariance="no",
            citation="doi:10.48550/arXiv.2206.07697",
            url="https://github.com/ACEsuit/mace",
            weights_digest=weights_digest,
        )

    @classmethod
    def from_checkpoint(
        cls,
        checkpoint_path: Path | str,
        device: torch.device | str = "cpu",
        enable_cueq: bool = False,
        dtype: torch.dtype | None = None,
        compile_model: bool = False,
        atomic_energies: Mapping[int | str, float] | None = None,
        atomic_energies_path: Path | str | None = None,
        *,
        head: str | None = None,
        trust: bool = False,
        **compile_kwargs: Any,
    ) -> MACEWrapper:
        """Load a network, in eval mode.

        Parameters
        ----------
        checkpoint_path
            A file that mace-torch or `export_model` wrote; or the name of a published network, such as
            ``"medium-mpa-0"``, ``"small"`` or ``"off-small"``, which mace-torch downloads once.
        device
            Where to put it.
        enable_cueq
            Use the kernels of cuEquivariance, on a CUDA device.
        dtype
            Precision of the network; that of the file by default.
        compile_model
            Compile its energy with `torch.compile`, its parameters frozen: the first calls take minutes, and there are
            no second derivatives. Not on a CPU, where it is half as fast as what is done without.
        atomic_energies
            Energies of isolated atoms in eV to put in place of those of the file, by atomic number or symbol.
        atomic_energies_path
            A JSON file of them.
        head
            As in the constructor.
        trust
            Whether to load a whole pickle, which can run anything. Files of MACE are whole pickles.
        **compile_kwargs
            Arguments of `torch.compile`.

        Raises
        ------
        InputError
            If an argument does not fit, there is no such file or name, or the file is damaged, holds something else, or
            is a pickle and not trusted.
        OptionalDependencyError
            If mace-torch, or what `enable_cueq` needs, is not installed.
        """
        if compile_kwargs and not compile_model:
            known = ("compile_model", "enable_cueq", "dtype", "device", "atomic_energies", "head", "trust")
            raise unknown_keyword(next(iter(compile_kwargs)), known, "MACEWrapper.from_checkpoint")
        if atomic_energies is not None and atomic_energies_path is not None:
            raise InputError("Pass `atomic_energies` or `atomic_energies_path`, not both.")
        place = usable_device(device)
        if enable_cueq and place.type != "cuda":
            raise InputError(f"`enable_cueq` needs a CUDA device; `device` is {shown(str(device))}. Leave one out.")
        network, digest = load_network(checkpoint_path, trust=trust)
        set_atomic_energies(network, atomic_energies, atomic_energies_path)
        network = network.to(place, dtype and check_state_dtype(dtype))
        if enable_cueq:
            network = with_cuequivariance(network, place)
        if compile_model:
            network = compiled(network, compile_kwargs, made_anew=not enable_cueq)
        spec = {
            "checkpoint_path": str(checkpoint_path),
            "device": str(place),
            "enable_cueq": enable_cueq,
            "dtype": dtype,
            "compile_model": compile_model,
            "atomic_energies": atomic_energies and dict(atomic_energies),
            "atomic_energies_path": atomic_energies_path and str(atomic_energies_path),
            "head": head,
            **compile_kwargs,
        }
        return cls(network, head=head, weights_digest=digest, reconstruction_spec=spec).eval()

    def checkpoint_spec(self) -> dict[str, Any] | None:
        """Return the arguments of `from_checkpoint` but `trust`; ``None`` for a network that came as an object."""
        return None if self._spec is None else dict(self._spec)

    @property
    def cutoff(self) -> float:
        """Largest distance of a pair that the network sees, Å."""
        return float(self.model.r_max)  # type: ignore[arg-type]

    @property
    def pairs_at_a_time(self) -> int | None:  # type: ignore[override]
        """How many pairs are evaluated at a time: some with the sums first, all by the network as it is."""
        return None if self._faster() is None else PAIRS_AT_A_TIME

    def adapt_input(self, data: AtomicData | Batch, **kwargs: Any) -> dict[str, Any]:
        """Return what the network reads; nothing of `data` is changed.

        Returns
        -------
        dict
            In the dtype of the network ``positions`` [N, 3], which require grad if forces or stress are active;
            ``node_attrs`` [N, elements], one-hot; ``cell`` [B, 3, 3] with unit vectors where there is none;
            ``unit_shifts`` [E, 3], also as ``neighbor_list_shifts``; ``shifts`` [E, 3], Å. In int64 ``edge_index``
            [2, E], ``batch`` [N], ``ptr`` [B+1], and ``head`` [B] where there are several.

        Raises
        ------
        MissingFieldError
            A `KeyError`, if there is no neighbour list.
        InputError
            If the list is half, too short or out of date, or the network does not know an element.
        """
        active = not DERIVATIVES.isdisjoint(self.output_data())
        return self._inputs(self.network_graph(as_batch(data)), differentiated=active)

    def _inputs(self, graph: NetworkGraph, *, differentiated: bool) -> dict[str, Any]:
        inputs = atoms_and_pairs(graph, self._node_emb, differentiated=differentiated)
        if self._head_index is not None:
            inputs["head"] = heads_of(graph.batch, self.model.heads, self._head_index)  # type: ignore[arg-type]
        return further(graph, self._reads, self._missing) | inputs

    def evaluated(self, batch: Batch, wanted: Set[str], *, keep_graph: bool) -> Mapping[str, torch.Tensor]:
        """Return what is wanted of systems that are evaluated together; the network differentiates."""
        if self._is_compiled:  # for the energy alone: what differentiates can not be compiled
            return super().evaluated(batch, wanted, keep_graph=keep_graph)
        keep_graph = keep_graph or carries_graph(batch)
        with torch.inference_mode(False), torch.set_grad_enabled(keep_graph or not wanted.isdisjoint(DERIVATIVES)):
            graph = self.network_graph(batch)
            outputs = self.named_outputs(self.network_outputs(graph, wanted), batch, wanted)
        return outputs if keep_graph else {key: value.detach() for key, value in outputs.items()}

    def attached_energy(
        self, data: AtomicData | Batch, strain: torch.Tensor | None, wanted: Set[str]
    ) -> dict[str, torch.Tensor]:
        """Return the energy of the network, attached; see `BaseModelMixin.attached_energy`."""
        return super().attached_energy(data, strain, wanted - DERIVATIVES)

    def network_outputs(self, graph: NetworkGraph, wanted: Set[str]) -> dict[str, torch.Tensor | None]:
        """Return what the network gives, forces and stress too if wanted; see `LearnedModel.network_outputs`."""
        network: nn.Module = self.model
        differentiated = not wanted.isdisjoint(DERIVATIVES)
        inputs = self._inputs(graph, differentiated=differentiated)
        if (fast := self._faster()) is not None:
            network, inputs = fast, receivers_first(inputs)
        found = network(
            inputs,
            compute_force="forces" in wanted,
            compute_stress="stress" in wanted,
            compute_displacement="stress" in wanted,
            training=self.training or (differentiated and carries_graph(graph.batch)),
        )
        if self._in_debye and found.get("dipole") is not None:
            found = {**found, "dipole": found["dipole"] * DEBYE}
        if self._is_compiled:
            found = {**found, "energy": _FirstDerivativeOnly.apply(found["energy"])}
        return self._by_our_names(found)

    def _by_our_names(self, found: Mapping[str, Any]) -> dict[str, Any]:
        named = {"atomic_energies" if name == "node_energy" else name: value for name, value in found.items()}
        if (features := found.get("node_feats")) is not None:
            named["node_embeddings"] = features[:, : self._embedding_width]
        return named

    def _faster(self) -> nn.Module | None:
        """Return the network with its sums first, on a CPU; made once."""
        if self._is_compiled or self._node_emb.device.type != "cpu":
            return None
        if id(self.model) not in self._sums_first:
            with torch.inference_mode(False):
                self._sums_first = {id(self.model): with_sums_first(self.model)}
        return self._sums_first[id(self.model)]

    def adapt_output(self, model_output: Any, data: AtomicData | Batch) -> ModelOutputs:
        """Map the outputs of the network to the standard keys, in the dtype of the positions."""
        if isinstance(model_output, dict):
            model_output = self.named_outputs(self._by_our_names(model_output), as_batch(data), self.output_data())
        return super().adapt_output(model_output, data)

    @property
    def _is_compiled(self) -> bool:
        return self.model._compiled_call_impl is not None or hasattr(self.model, "_orig_mod")


class _FirstDerivativeOnly(torch.autograd.Function):
    """The identity, of compiled code that is differentiated once."""

    @staticmethod
    def forward(ctx: Any, energy: torch.Tensor) -> torch.Tensor:
        return energy.view_as(energy)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled():
            raise NotAvailableError(
                "A compiled MACE network has no second derivatives, which a Hessian and the derivative of forces are. "
                "Load it without `compile_model`, or take differences: `athanor.models.hessian(model, batch)`."
            )
        return gradient
