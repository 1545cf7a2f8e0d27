"""The CHGNet network on our graphs, for inference, from the tensors of a checkpoint.

Written from the published architecture; the names in the checkpoint files are those of the chgnet package. The
features of angles after the last bond convolution are not computed, because nothing reads them.

B. Deng et al., Nat. Mach. Intell. 5, 1031 (2023). doi:10.1038/s42256-023-00716-3
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn

from athanor.models.chgnet.gate import GatedPerceptron, RowPlan, gated_rows
from athanor.models.chgnet.graph import CrystalGraph
from athanor.models.chgnet.layout import check_checkpoint

_SQRT_HALF = 0.7071067690849304
"""The constant Fourier function times √π, as the float32 number that the parameters were fitted with."""
_COSINE_SCALE = 1.0 - 1e-6
"""Keeps the arc cosine differentiable at straight angles, as in training."""


@dataclass(frozen=True, slots=True)
class NetworkResult:
    """What one forward pass gives.

    Parameters
    ----------
    atomic_energies
        float64 [N], eV, reference energies of the elements included.
    atom_features
        [N, F], before the last convolution; magnetic moments are read from them.
    final_features
        [N, F], after the last convolution and its normalisation.
    """

    atomic_energies: torch.Tensor
    atom_features: torch.Tensor
    final_features: torch.Tensor


class CHGNetNetwork(nn.Module):
    """The network; parameters are buffers, so ``.to(dtype)`` and ``.to(device)`` work and nothing requires grad.

    Parameters
    ----------
    state
        ``state_dict`` of the package's model.
    arguments
        Its ``model_args``.

    Raises
    ------
    InputError
        For a variant of the architecture that none of the shipped checkpoints uses, and for tensors that do not go with
        `arguments` or are not finite.
    """

    atom_embedding: torch.Tensor
    atom_frequencies: torch.Tensor
    bond_frequencies: torch.Tensor
    angle_frequencies: torch.Tensor
    bond_embedding: torch.Tensor
    bond_weights_ag: torch.Tensor
    bond_weights_bg: torch.Tensor
    angle_embedding: torch.Tensor
    read_scale: torch.Tensor
    read_shift: torch.Tensor
    site_map: torch.Tensor
    site_bias: torch.Tensor
    reference_energies: torch.Tensor

    def __init__(self, state: Mapping[str, torch.Tensor], arguments: Mapping[str, Any]) -> None:
        super().__init__()
        check_checkpoint(state, arguments)
        tensors = {key: value.detach() for key, value in state.items()}
        self.checkpoint = ({key: value.cpu().clone() for key, value in tensors.items()}, dict(arguments))
        """The tensors and arguments that came in, as they can be written again."""
        self.cutoff = float(arguments.get("atom_graph_cutoff", 6))
        self.bond_cutoff = float(arguments.get("bond_graph_cutoff", 3))
        self.exponent = int(arguments.get("cutoff_coeff", 8))
        self.num_convolutions = int(arguments.get("n_conv", 4))
        for name, key in (
            ("atom_embedding", "atom_embedding.embedding.weight"),
            ("atom_frequencies", "bond_basis_expansion.rbf_expansion_ag.frequencies"),
            ("bond_frequencies", "bond_basis_expansion.rbf_expansion_bg.frequencies"),
            ("angle_frequencies", "angle_basis_expansion.fourier_expansion.frequencies"),
        ):
            self.register_buffer(name, tensors[key].clone())
        for name in ("bond_embedding", "bond_weights_ag", "bond_weights_bg", "angle_embedding"):
            self.register_buffer(name, tensors[f"{name}.weight"].t().contiguous())
        self.register_buffer("site_map", tensors["site_wise.weight"].t().contiguous())
        self.register_buffer("site_bias", tensors["site_wise.bias"].clone())
        references = tensors.get("composition_model.fc.weight", torch.zeros(1, self.num_elements))
        self.register_buffer("reference_energies", references[0].clone())
        self.is_read_normalized = "readout_norm.weight" in tensors
        if self.is_read_normalized:
            self.register_buffer("read_scale", tensors["readout_norm.weight"].clone())
            self.register_buffer("read_shift", tensors["readout_norm.bias"].clone())
        self._register_layers(tensors)

    def _register_layers(self, tensors: dict[str, torch.Tensor]) -> None:
        last = self.num_convolutions - 1
        atom_parts, bond_parts = ("center", "bond", "neighbor"), ("first", "second", "dense", "center")
        self.atom_gates = nn.ModuleList(
            GatedPerceptron(tensors, f"atom_conv_layers.{k}.twoBody_atom", atom_parts) for k in range(last + 1)
        )
        self.bond_gates = nn.ModuleList(
            GatedPerceptron(tensors, f"bond_conv_layers.{k}.twoBody_bond", bond_parts) for k in range(last)
        )
        self.angle_gates = nn.ModuleList(
            GatedPerceptron(tensors, f"angle_layers.{k}.twoBody_bond", bond_parts) for k in range(last - 1)
        )
        self.atom_maps = nn.ModuleList(
            _Linear(tensors, f"atom_conv_layers.{k}.mlp_out.layers.1") for k in range(last + 1)
        )
        self.bond_maps = nn.ModuleList(_Linear(tensors, f"bond_conv_layers.{k}.mlp_out.layers.1") for k in range(last))
        depths = sorted(int(key.split(".")[2]) for key in tensors if key.startswith("mlp.layers.") and "weight" in key)
        self.read_maps = nn.ModuleList(_Linear(tensors, f"mlp.layers.{depth}") for depth in depths)

    @property
    def num_elements(self) -> int:
        """Largest atomic number with an embedding."""
        return self.atom_embedding.shape[0]

    @property
    def num_features(self) -> int:
        """Width of the features of an atom."""
        return self.atom_embedding.shape[1]

    def forward(
        self, graph: CrystalGraph, vectors: torch.Tensor, atomic_numbers: torch.Tensor, batch_idx: torch.Tensor
    ) -> NetworkResult:
        """Evaluate a batch.

        Parameters
        ----------
        graph
            Graphs of the batch.
        vectors
            float64 [U, 3], ``graph.bond_vectors`` or a leaf with their values, Å. The energy is a function of these.
        atomic_numbers, batch_idx
            int64 [N].
        """
        distance = torch.linalg.vector_norm(vectors, dim=1)
        basis = self._radial(distance, self.atom_frequencies, self.cutoff)
        bonds = basis @ self.bond_embedding
        atom_weight = basis @ self.bond_weights_ag
        atoms = self.atom_embedding.index_select(0, atomic_numbers - 1)
        pair_rows = (graph.pair_center, graph.pair_neighbor, graph.pair_bond)
        pair_plan = RowPlan(pair_rows, graph.pair_bond, graph.pair_center, atoms.shape[0])
        has_angles = graph.num_angles > 0
        if has_angles:
            angles = _Angles(self, graph, vectors, distance, batch_idx)
        for k in range(self.num_convolutions - 1):
            atoms = self._atom_convolution(k, atoms, bonds, atom_weight, pair_plan)
            if has_angles:
                bonds = angles.convolve(k, atoms, bonds)
        features = atoms
        atoms = self._atom_convolution(self.num_convolutions - 1, atoms, bonds, atom_weight, pair_plan)
        if self.is_read_normalized:
            atoms = torch.nn.functional.layer_norm(atoms, (self.num_features,), self.read_scale, self.read_shift)
        energies = self.read_maps[0](atoms)
        for layer in self.read_maps[1:]:
            energies = layer(torch.nn.functional.silu(energies))
        references = self.reference_energies.index_select(0, atomic_numbers - 1).to(torch.float64)
        return NetworkResult(energies.squeeze(1).to(torch.float64) + references, features, atoms)

    def magnetic_moments(self, atom_features: torch.Tensor) -> torch.Tensor:
        """Return the absolute magnetic moment of each atom [N], Bohr magnetons."""
        return torch.addmm(self.site_bias, atom_features, self.site_map).abs().squeeze(1)

    def _atom_convolution(
        self, k: int, atoms: torch.Tensor, bonds: torch.Tensor, weight: torch.Tensor, plan: RowPlan
    ) -> torch.Tensor:
        gate = cast(Any, self.atom_gates[k])
        tables = (torch.addmm(gate.bias, atoms, gate.map_center), atoms @ gate.map_neighbor, bonds @ gate.map_bond)
        return atoms + self.atom_maps[k](gated_rows(gate, plan, tables, weight=weight))

    def _radial(self, distance: torch.Tensor, frequencies: torch.Tensor, cutoff: float) -> torch.Tensor:
        r"""Return :math:`\sqrt{2/c}\,\sin(\omega_n r/c)/r` times the polynomial envelope [rows, n].

        The envelope is a difference of large numbers near the cutoff; it is taken in float64.
        """
        scaled = distance / cutoff
        p = self.exponent
        curve = p * (p + 2) - 0.5 * p * (p + 1) * scaled
        envelope = 1.0 + torch.pow(scaled, p) * (curve * scaled - 0.5 * (p + 1) * (p + 2))
        envelope = torch.where(scaled < 1.0, envelope, 0.0) * (math.sqrt(2.0 / cutoff) / distance)
        phase = torch.outer(scaled.to(frequencies.dtype), frequencies)
        return torch.sin(phase) * envelope.to(frequencies.dtype).unsqueeze(1)


class _Angles:
    """The bond graph of one forward pass: features of angles, and the layers that read them."""

    def __init__(
        self,
        network: CHGNetNetwork,
        graph: CrystalGraph,
        vectors: torch.Tensor,
        distance: torch.Tensor,
        batch_idx: torch.Tensor,
    ) -> None:
        self.network, self.graph = network, graph
        num_short = graph.num_short
        self.weight = network._radial(distance[:num_short], network.bond_frequencies, network.bond_cutoff)
        self.weight = self.weight @ network.bond_weights_bg
        first, second = (graph.short_bond.index_select(0, side) for side in (graph.angle_first, graph.angle_second))
        self.bond_plan = RowPlan((graph.angle_first, second), second, first, num_short)
        self.angle_plan = RowPlan((graph.angle_first, second))
        unit = vectors[:num_short] / distance[:num_short].unsqueeze(1)
        unit = unit.index_select(0, graph.short_bond) * graph.short_sign.unsqueeze(1)
        cosine = (unit.index_select(0, graph.angle_first) * unit.index_select(0, graph.angle_second)).sum(1)
        theta = torch.acos(cosine * _COSINE_SCALE).to(self.weight.dtype)
        phase = torch.outer(theta, network.angle_frequencies)
        constant = theta.new_full((theta.shape[0], 1), _SQRT_HALF)
        basis = torch.cat((constant, torch.sin(phase), torch.cos(phase)), dim=1) / math.sqrt(math.pi)
        self.features = basis @ network.angle_embedding
        bias = network.bond_maps[0].bias
        self.in_bond_graph = None if bias is None else _bonds_of_systems_with_angles(graph, batch_idx, theta.dtype)

    def convolve(self, k: int, atoms: torch.Tensor, bonds: torch.Tensor) -> torch.Tensor:
        """Return the bond features after layer `k`; update the features of angles if a later layer reads them."""
        network, num_short = self.network, self.graph.num_short
        gate, out = cast(Any, network.bond_gates[k]), cast(_Linear, network.bond_maps[k])
        short_bonds = bonds[:num_short]
        message = gated_rows(
            gate, self.bond_plan, self._tables(gate, atoms, short_bonds), dense=self.features, weight=self.weight
        )
        short_bonds = short_bonds + (message * self.weight) @ out.weight.t()
        bonds = torch.cat((short_bonds, bonds[num_short:]))
        if self.in_bond_graph is not None and out.bias is not None:
            bonds = bonds + self.in_bond_graph * out.bias
        if k < len(network.angle_gates):
            gate = cast(Any, network.angle_gates[k])
            tables = self._tables(gate, atoms, bonds[:num_short])
            self.features = self.features + gated_rows(gate, self.angle_plan, tables, dense=self.features)
        return bonds

    def _tables(self, gate: Any, atoms: torch.Tensor, short_bonds: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        center = torch.addmm(gate.bias, atoms, gate.map_center).index_select(0, self.graph.short_center)
        first = (short_bonds @ gate.map_first).index_select(0, self.graph.short_bond)
        return center + first, short_bonds @ gate.map_second


class _Linear(nn.Module):
    """A linear map whose parameters are buffers."""

    weight: torch.Tensor
    bias: torch.Tensor | None

    def __init__(self, tensors: dict[str, torch.Tensor], prefix: str) -> None:
        super().__init__()
        bias = tensors.get(f"{prefix}.bias")
        self.register_buffer("weight", tensors[f"{prefix}.weight"].clone())
        self.register_buffer("bias", None if bias is None else bias.clone())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(x, self.weight, self.bias)


def _bonds_of_systems_with_angles(graph: CrystalGraph, batch_idx: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return [U, 1]: one for bonds of systems that have an angle; alone, the others skip the bond convolution."""
    systems = batch_idx.new_zeros(int(batch_idx[-1]) + 1, dtype=dtype)
    systems[batch_idx[graph.short_center[graph.angle_first]]] = 1.0
    return systems[batch_idx[graph.bond_ends[:, 0]]].unsqueeze(1)
