"""MACEWrapper: the interface between a MACE network and a Batch.

The network differentiates its energy itself; in a sum of models, where others do, it is asked for the energy only.
"""

from __future__ import annotations

import io
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from athanor._values import check_state_dtype, shown, unknown_keyword, usable_device
from athanor.data._stamp import ComputedFrom
from athanor.data.batch import Batch
from athanor.data.elements import SYMBOLS
from athanor.data.fields import FIELDS
from athanor.errors import InputError, NotAvailableError
from athanor.models.card import ModelCard
from athanor.models.config import ModelConfig
from athanor.models.derivatives import carries_graph, strained_view
from athanor.models.mace.blocks import blocks, joined
from athanor.models.mace.contractions import receivers_first, with_sums_first
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
from athanor.models.mixin import BaseModelMixin
from athanor.models.stored_list import require_pairs
from athanor.models.tensor_file import write_bytes, write_tensor_file
from athanor.neighbors.config import NeighborConfig, NeighborListFormat

if TYPE_CHECKING:
    from collections.abc import Set

    from athanor._typing import ModelOutputs
    from athanor.data.atomic_data import AtomicData

_DERIVATIVES = frozenset({"forces", "stress"})
_EMBEDDINGS = frozenset({"node_embeddings", "graph_embeddings"})
_NAMES = {
    "energy": "energy",
    "forces": "forces",
    "stress": "stress",
    "atomic_energies": "node_energy",
    "dipole": "dipole",
    "charges": "charges",
    "polarizability": "polarizability",
}
"""Our names of what a network returns."""


class MACEWrapper(nn.Module, BaseModelMixin):
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
        super().__init__()
        numbers, self._width = probed(model)
        self.model = model
        self.head, self._head_index = head_of(model, head)
        self._spec = None if reconstruction_spec is None else dict(reconstruction_spec)
        self._known_elements = ComputedFrom()  # the atomic numbers that were looked up last
        table = torch.zeros(max(numbers) + 1, len(numbers), dtype=self.dtype, device=next(model.parameters()).device)
        table[numbers, range(len(numbers))] = 1.0
        self.register_buffer("_node_emb", table, persistent=False)
        abilities = abilities_of(model)
        self._reads, self._in_debye = abilities.reads, abilities.in_debye
        self._sums_first: dict[int, nn.Module | None] = {}  # by the network it was made of; no part of the parameters
        outputs = {*abilities.outputs, *_EMBEDDINGS} if abilities.has_embeddings else set(abilities.outputs)
        labels = {"charge": "total_charge", "spin": "total_spin", "charges": "charges"}
        self.model_config = ModelConfig(
            outputs=frozenset(outputs),
            autograd_outputs=frozenset(_DERIVATIVES & outputs),
            optional_inputs=frozenset(ours for ours, theirs in labels.items() if theirs in self._reads),
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
    def dtype(self) -> torch.dtype:
        """dtype of the network."""
        return next(self.model.parameters()).dtype

    @property
    def cutoff(self) -> float:
        """Largest distance of a pair that the network sees, Å."""
        return float(self.model.r_max)  # type: ignore[arg-type]

    @property
    def embedding_shapes(self) -> dict[str, tuple[int, ...]]:
        """``node_embeddings`` and ``graph_embeddings``, both of the width of the first layer."""
        return dict.fromkeys(sorted(_EMBEDDINGS & self.model_config.outputs), (self._width,))

    def compute_embeddings(self, data: AtomicData | Batch, **kwargs: Any) -> AtomicData | Batch:
        """Write to `data` the features of each atom after the first layer, and their sums; nothing else changes."""
        with torch.inference_mode(False), torch.set_grad_enabled(carries_graph(data)):
            outputs = self.attached_energy(data, None, _EMBEDDINGS)
        if not isinstance(data, Batch):
            data.node_embeddings, data.graph_embeddings = outputs["node_embeddings"], outputs["graph_embeddings"]
            return data
        with data.keeping_results_fresh():
            for key in self.embedding_shapes:
                data.set_field(key, outputs[key])
        return data

    def export_model(self, path: Path, as_state_dict: bool = False) -> None:
        """Write the network, without this interface.

        Parameters
        ----------
        path
            File to write.
        as_state_dict
            Write the parameters alone, without pickled code. Else the whole module is pickled, as mace-torch does: its
            calculator reads that, and `from_checkpoint` with ``trust=True``.

        Raises
        ------
        StorageError
            If the file can not be written.
        """
        if as_state_dict:
            write_tensor_file(path, self.model.state_dict())
            return
        stream = io.BytesIO()
        torch.save(self.model, stream)
        write_bytes(path, stream.getvalue())

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
        batch = _as_batch(data)
        self._check_elements(batch)
        pairs = require_pairs(self, batch, self.cutoff)
        if pairs.half:
            raise InputError(
                f"The neighbour list is half; {type(self).__name__} needs both directions. "
                f"Build it with `compute_neighbors(batch, config=model.model_config.neighbor_config)`."
            )
        if not pairs.radius <= self.cutoff:  # that of a list which somebody assigned is unknown, NaN
            pairs = pairs.within(self.cutoff, batch)
        i, j, images = pairs.pair_index(batch)
        positions = batch.positions.to(self.dtype)
        if not positions.requires_grad:  # a copy: networks flag it, which the batch must not see
            active = not _DERIVATIVES.isdisjoint(self.output_data())
            positions = positions.detach().clone().requires_grad_(active)
        cell = batch.cell_or_zeros
        cell = torch.where(batch.has_cell.view(-1, 1, 1), cell, torch.eye(3).to(cell))
        shifts = torch.einsum("ea,eac->ec", images.to(cell.dtype), cell[batch.batch_idx[i]])
        unit_shifts = images.to(self.dtype)
        inputs = {
            "positions": positions,
            "node_attrs": self._node_emb.index_select(0, batch.atomic_numbers).to(self.dtype),
            "batch": batch.batch_idx.to(torch.int64, copy=True),  # copies: of inference mode, they could not be saved
            "ptr": batch.batch_ptr.to(torch.int64, copy=True),
            "edge_index": torch.stack((i, j)),
            "neighbor_list_shifts": unit_shifts,
            "unit_shifts": unit_shifts,
            "shifts": shifts.to(self.dtype),
            "cell": cell.to(self.dtype),
        }
        if self._head_index is not None:
            inputs["head"] = self._heads_of(batch)
        for name in self._reads:
            inputs.setdefault(name, self._input_named(name, batch))
        return inputs

    def forward(self, data: AtomicData | Batch, **kwargs: Any) -> ModelOutputs:
        """Return the active outputs; energy alone takes no backward pass. Works under ``no_grad`` too."""
        if self._is_compiled:  # for the energy alone: what differentiates can not be compiled
            return self.outputs_by_autograd(_as_batch(data))
        batch, wanted = _as_batch(data), self.output_data()
        keep = self._trains or carries_graph(batch)
        with torch.inference_mode(False), torch.set_grad_enabled(keep or not wanted.isdisjoint(_DERIVATIVES)):
            raw = self._evaluated(
                self.adapt_input(batch),
                whole=keep,
                compute_force="forces" in wanted,
                compute_stress="stress" in wanted,
                compute_displacement="stress" in wanted,
                training=self.training or keep,
            )
            outputs = self.adapt_output(raw, batch)
        if keep:
            return outputs
        return OrderedDict((key, None if value is None else value.detach()) for key, value in outputs.items())

    def _evaluated(self, inputs: dict[str, Any], *, whole: bool, **asked: bool) -> Mapping[str, Any]:
        """Return what the network gives, of the whole batch at once or of systems that fit the cache."""
        network = self.model
        if (fast := self._faster()) is not None:
            network, inputs = fast, receivers_first(inputs)
        if whole or fast is None:
            return network(inputs, **asked)
        parts = []
        for block in blocks(inputs):
            block["positions"] = block["positions"].detach()
            found = network(block, **asked)
            parts.append({key: value.detach() for key, value in found.items() if isinstance(value, torch.Tensor)})
        return joined(parts)

    def _faster(self) -> nn.Module | None:
        """Return the network with its sums first, on a CPU; made once."""
        if self._is_compiled or self._node_emb.device.type != "cpu":
            return None
        if id(self.model) not in self._sums_first:
            self._sums_first = {id(self.model): with_sums_first(self.model)}
        return self._sums_first[id(self.model)]

    def adapt_output(self, model_output: Any, data: AtomicData | Batch) -> ModelOutputs:
        """Map the outputs of the network to the standard keys, in the dtype of the positions."""
        if isinstance(model_output, dict):
            model_output = self._named(model_output, _as_batch(data))
        return super().adapt_output(model_output, data)

    def attached_energy(
        self, data: AtomicData | Batch, strain: torch.Tensor | None, wanted: Set[str]
    ) -> dict[str, torch.Tensor]:
        """Return the energy of the network, attached; see `BaseModelMixin.attached_energy`."""
        batch = strained_view(_as_batch(data), strain)
        asked = {"compute_force": False, "compute_stress": False, "compute_displacement": False}
        raw = self._evaluated(self.adapt_input(batch), whole=True, **asked, training=self.training)
        found = self._named(raw, batch)
        if self._is_compiled:
            found["energy"] = _FirstDerivativeOnly.apply(found["energy"])
        return {key: value for key, value in found.items() if key in {"energy", *wanted} - _DERIVATIVES}

    @property
    def _is_compiled(self) -> bool:
        return self.model._compiled_call_impl is not None or hasattr(self.model, "_orig_mod")

    def _named(self, raw: Mapping[str, torch.Tensor | None], batch: Batch) -> dict[str, torch.Tensor]:
        """Return what the network gave, by our names."""
        found = {ours: raw[theirs] for ours, theirs in _NAMES.items() if raw.get(theirs) is not None}
        if self._in_debye and (dipole := found.get("dipole")) is not None:
            found["dipole"] = dipole * DEBYE
        if (features := raw.get("node_feats")) is not None:
            nodes = found["node_embeddings"] = features[:, : self._width]
            found["graph_embeddings"] = nodes.new_zeros(batch.num_graphs, self._width).index_add(
                0, batch.batch_idx.clone(), nodes
            )
        outputs = {key: value.to(batch.positions.dtype) for key, value in found.items() if value is not None}
        if "energy" in outputs:
            outputs["energy"] = outputs["energy"].view(-1, 1)
        if "stress" in outputs:
            outputs["stress"] = torch.where(batch.has_cell.view(-1, 1, 1), outputs["stress"], 0.0)
        return outputs

    def _heads_of(self, batch: Batch) -> torch.Tensor:
        """Return the place of the head of each system, int64 [B]: of its field ``head``, or that of the model."""
        given = batch.get("head")
        if given is None:
            return batch.batch_ptr.new_full((batch.num_graphs,), self._head_index or 0, dtype=torch.int64)
        heads: list[str] = list(self.model.heads)  # type: ignore[arg-type]
        places = given.view(-1).to(torch.int64, copy=True)
        if len(places) != batch.num_graphs or bool(((places < 0) | (places >= len(heads))).any()):
            raise InputError(
                f"`head` of the batch is {shown(given.tolist())}; give one integer for each system, of "
                f"{', '.join(f'{place} ({name})' for place, name in enumerate(heads))}."
            )
        return places

    def _input_named(self, name: str, batch: Batch) -> torch.Tensor:
        """Return what the network reads beside atoms and pairs, in its dtype: [B], or [N] and wider for fields so."""
        if name == "head":  # the only one
            return torch.zeros(batch.num_graphs, dtype=torch.int64, device=batch.device)
        field = {"total_charge": "charge", "total_spin": "spin"}.get(name, name)
        value, assumed = batch.get(field), FIELDS[field].assumed if field in FIELDS else None
        if value is None and field == "charges":
            return torch.zeros(batch.num_nodes, dtype=self.dtype, device=batch.device)
        if value is None and assumed is None:
            raise self._missing(field, batch)
        if value is None:
            return torch.full((batch.num_graphs,), assumed or 0.0, dtype=self.dtype, device=batch.device)
        value = value.detach().to(self.dtype, copy=True)
        return value if assumed is None else value.view(-1).nan_to_num(assumed)

    def _check_elements(self, batch: Batch) -> None:
        """Refuse elements that the network does not know; looked up again only when the atoms change."""
        numbers = batch.atomic_numbers
        if self._known_elements.holds(numbers):
            return
        inside = numbers.clamp(0, len(self._node_emb) - 1)
        unknown = (inside != numbers) | (self._node_emb[inside].sum(1) == 0)
        if bool(unknown.any()):
            systems = ", ".join(map(str, batch.batch_idx[unknown].unique().tolist()[:3]))
            found = ", ".join(map(_named_element, numbers[unknown].unique().tolist()[:3]))
            known = ", ".join(map(_named_element, sorted(self.model_card.elements or ())))
            raise InputError(
                f"This MACE network knows {known}; the system of index {systems} has {found}. Leave it out of the "
                f"batch, or choose a network that knows its elements."
            )
        self._known_elements = ComputedFrom(numbers)


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


def _as_batch(data: AtomicData | Batch) -> Batch:
    return data if isinstance(data, Batch) else Batch.from_data_list([data])


def _named_element(number: int) -> str:
    return SYMBOLS[number] if 0 < number < len(SYMBOLS) else f"atomic number {number}"
