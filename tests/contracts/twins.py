"""A Morse potential that keeps the contract of models, and broken twins: each has one fault, named by its class."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from athanor.models.base import BaseModelMixin, ModelCard, ModelConfig, NeighborConfig
from athanor.models.derivatives import autograd_forces_and_stresses, prepare_strain, strained_view

CLAIMS = {"elements": frozenset({13, 29}), "conservative": True, "equivariant": True, "smooth": True}


class Morse(nn.Module, BaseModelMixin):
    """Morse potential with a smooth end; forces and stress come from automatic differentiation."""

    embedding_shapes: dict[str, tuple[int, ...]] = {}
    outputs: tuple[str, ...] = ("energy", "forces", "stress")
    differentiated: tuple[str, ...] = ("forces", "stress")
    needs_list = True
    supports_pbc = True
    cutoff = 6.0

    def __init__(self, **card: Any) -> None:
        super().__init__()
        self.model_config = ModelConfig(
            outputs=frozenset(self.outputs),
            autograd_outputs=frozenset(self.differentiated),
            supports_pbc=self.supports_pbc,
            neighbor_config=NeighborConfig(cutoff=self.cutoff) if self.needs_list else None,
        )
        self.model_card = ModelCard(name="Morse", **{**CLAIMS, **card})

    def compute_embeddings(self, data: Any, **kwargs: Any) -> Any:
        raise NotImplementedError

    def pair_energy(self, r: torch.Tensor) -> torch.Tensor:
        well = torch.exp(1.36 * (2.87 - r))
        return 0.35 * (well**2 - 2.0 * well) * (1.0 - (r / self.cutoff).clamp(max=1.0) ** 2) ** 3

    def energies(self, data: Any, positions: torch.Tensor, cell: torch.Tensor) -> torch.Tensor:
        """Return the energy of each system, [B]."""
        i, j = data.neighbor_list.long().unbind(dim=1)
        shifts = torch.zeros(len(i), 3) if data.neighbor_list_shifts is None else data.neighbor_list_shifts
        vectors = positions[j] - positions[i] + (shifts.to(positions)[:, None] @ cell[data.batch_idx[i]])[:, 0]
        return self.sum_of(data, vectors, 0.5 * self.pair_energy(vectors.norm(dim=1)), i)

    def sum_of(self, data: Any, vectors: torch.Tensor, energies: torch.Tensor, i: torch.Tensor) -> torch.Tensor:
        return energies.new_zeros(len(data)).index_add(0, data.batch_idx[i], energies)

    def check_elements(self, data: Any) -> None:
        known = torch.tensor(sorted(self.model_card.elements or range(1, 119)))
        if not bool(torch.isin(data.atomic_numbers, known).all()):
            raise ValueError(f"an element is none of {known.tolist()}")

    def forward(self, data: Any, **kwargs: Any) -> Any:
        self.check_elements(data)
        positions, cell, strain = prepare_strain(data.positions.requires_grad_(), data.cell_or_zeros, data.batch_idx)
        energy = self.energies(data, positions, cell)
        forces, stress = autograd_forces_and_stresses(energy, positions, strain, data.cell_or_zeros, len(data))
        raw = {"energy": energy.unsqueeze(1), "forces": forces, "stress": stress}
        return self.adapt_output({name: value.detach() for name, value in self.finish(raw, data).items()}, data)

    def finish(self, raw: dict[str, torch.Tensor], data: Any) -> dict[str, torch.Tensor]:
        """What becomes of the results; the place where most twins go wrong."""
        return raw


# ---------------------------------------------------------------------------------------------------- forces and stress


class WrongSignOfForces(Morse):
    def finish(self, raw, data):
        return {**raw, "forces": -raw["forces"]}


class WrongSignOfStress(Morse):
    def finish(self, raw, data):
        return {**raw, "stress": -raw["stress"]}


class StressWithoutVolume(Morse):
    def finish(self, raw, data):
        return {**raw, "stress": raw["stress"] * data.volume.view(-1, 1, 1)}


class StressWithSignedVolume(Morse):
    def finish(self, raw, data):
        return {**raw, "stress": raw["stress"] * torch.linalg.det(data.cell_or_zeros).sign().view(-1, 1, 1)}


class DirectForces(Morse):
    """Its forces are those of pairs that attract each other by 1 % too much."""

    differentiated = ("stress",)

    def finish(self, raw, data):
        return {**raw, "forces": 1.01 * raw["forces"]}


class HardCutoff(Morse):
    cutoff = 5.0

    def pair_energy(self, r):
        well = torch.exp(1.36 * (2.87 - r))
        return torch.where(r < self.cutoff, 0.35 * (well**2 - 2.0 * well), 0.0)


class BendsAtTheCutoff(Morse):
    """Its energy ends in zero and its forces do not."""

    def pair_energy(self, r):
        return super().pair_energy(r) + 0.1 * (1.0 - r / self.cutoff).clamp(min=0.0)


class BendsInTheCrystal(Morse):
    """Its energy has a kink at the distance of neighbours in a perfect crystal: at any strain of it."""

    def pair_energy(self, r):
        return super().pair_energy(r) + 0.01 * (r - 2.9).abs() * (1.0 - (r / self.cutoff).clamp(max=1.0) ** 2) ** 3


# ----------------------------------------------------------------------------------------------------------- symmetries


class PrefersTheXAxis(Morse):
    """Its energy depends on how the system is turned, and its forces go with it."""

    def energies(self, data, positions, cell):
        stretch = torch.tensor([1.001, 1.0, 1.0])
        return super().energies(data, positions * stretch, cell * stretch)


class KnowsLeftFromRight(Morse):
    """Adds the volume, with its sign, that the vectors from an atom to three neighbours span."""

    def sum_of(self, data, vectors, energies, i):
        r = vectors.norm(dim=1)
        taper = (1.0 - (r / self.cutoff).clamp(max=1.0) ** 2) ** 3
        moments = torch.stack([torch.exp(-((r - at) ** 2)) * taper for at in (2.0, 3.0, 4.0)], dim=1)
        arms = vectors.new_zeros(data.num_nodes, 3, 3).index_add(0, i, moments.unsqueeze(2) * vectors.unsqueeze(1))
        spanned = 1e-3 * torch.linalg.det(arms)
        return super().sum_of(data, vectors, energies, i).index_add(0, data.batch_idx, spanned)


class HasAnOrigin(Morse):
    def energies(self, data, positions, cell):
        far = 1e-4 * positions.square().sum(1)
        return super().energies(data, positions, cell).index_add(0, data.batch_idx, far)


class SeesTheOrder(Morse):
    """The last atom of a system weighs more than the others."""

    def energies(self, data, positions, cell):
        i = data.neighbor_list[:, 0].long()
        self.last = torch.isin(i, data.batch_ptr[1:] - 1)
        return super().energies(data, positions, cell)

    def sum_of(self, data, vectors, energies, i):
        return super().sum_of(data, vectors, energies * torch.where(self.last, 1.001, 1.0), i)


class LikesShortVectors(Morse):
    """Its energy depends on which of many equal cells a crystal is described with."""

    def energies(self, data, positions, cell):
        return super().energies(data, positions, cell) + 1e-4 * cell[:, 0].square().sum(dim=1)


class EnergyOfTheSystem(Morse):
    """Adds an energy to each system, whatever its size."""

    def sum_of(self, data, vectors, energies, i):
        return super().sum_of(data, vectors, energies, i) + 1e-3


# -------------------------------------------------------------------------------------------------------------- batches


class ForcesOfCompanions(Morse):
    """Its forces depend on how many systems are in the batch."""

    def finish(self, raw, data):
        return {**raw, "forces": raw["forces"] * (1.0 + 1e-6 * (len(data) - 1))}


class LastBitOfCompanions(Morse):
    """Claims equal bits, and loses the last one in company."""

    def __init__(self, **card):
        super().__init__(**{"batch_invariance": "verified", **card})

    def finish(self, raw, data):
        return {**raw, "energy": raw["energy"] * (1.0 + 4e-16 * (len(data) > 1))}


class DividesByNeighbours(Morse):
    """Has no answer for an atom without neighbours."""

    def sum_of(self, data, vectors, energies, i):
        count = torch.bincount(i, minlength=data.num_nodes)
        share = torch.zeros(len(data)).double().index_add(0, data.batch_idx, (0.0 / count).double())
        return super().sum_of(data, vectors, energies, i) + share


class OtherNumbersWithStress(Morse):
    def finish(self, raw, data):
        return {**raw, "energy": raw["energy"] * (1.0 + 1e-6 * ("stress" in self.output_data()))}


class LastBitWithStress(Morse):
    """Claims that energy and forces keep their bits, and loses the last one."""

    def __init__(self, **card):
        super().__init__(**{"stress_keeps_forces": True, **card})

    def finish(self, raw, data):
        return {**raw, "energy": raw["energy"] * (1.0 + 4e-16 * ("stress" in self.output_data()))}


class ReturnsTooMuch(Morse):
    def adapt_output(self, model_output, data):
        return {**super().adapt_output(model_output, data), "forces": model_output["forces"]}


# -------------------------------------------------------------------------------------------------------------- manners


class MovesTheAtoms(Morse):
    """Changes positions in place."""

    def forward(self, data, **kwargs):
        data.positions += 1e-9
        return super().forward(data)


class WritesToTheBatch(Morse):
    def __call__(self, data):
        data.charges = torch.zeros(data.num_nodes)
        return super().__call__(data)


class FlagsTheCallersBatch(Morse):
    def __call__(self, data):
        data.positions.requires_grad_()
        return self.forward(data)


class StaysAttached(Morse):
    """Returns an energy that hangs on the graph."""

    def adapt_output(self, model_output, data):
        outputs = super().adapt_output(model_output, data)
        return {name: value * torch.ones((), requires_grad=True) for name, value in outputs.items()}


class SharesItsOutput(Morse):
    """Writes every energy into the same memory."""

    kept = torch.zeros(1000, 1, dtype=torch.float64)

    def finish(self, raw, data):
        return {**raw, "energy": self.kept[: len(data)].copy_(raw["energy"].detach())}


class HandsOutTheBatch(Morse):
    """What it returns is the memory of the batch."""

    outputs = (*Morse.outputs, "atomic_energies")

    def adapt_output(self, model_output, data):
        return super().adapt_output({**model_output, "atomic_energies": data.atomic_masses}, data)


class KeepsEveryGraph(Morse):
    def __init__(self, **card):
        super().__init__(**card)
        self.kept: list[torch.Tensor] = []

    def finish(self, raw, data):
        self.kept.append(raw["energy"])
        return raw


class OtherInSinglePrecision(Morse):
    def finish(self, raw, data):
        return {**raw, "energy": raw["energy"] + 0.01 * (raw["energy"].dtype == torch.float32)}


class TakesAnyElement(Morse):
    """Names the elements it knows, and gives numbers for others."""

    def check_elements(self, data):
        pass


class StressOfVoigt(Morse):
    """Returns six numbers for the stress."""

    def finish(self, raw, data):
        return {**raw, "stress": raw["stress"].flatten(1)[:, [0, 4, 8, 5, 2, 1]]}


class OnAnotherDevice(Morse):
    def finish(self, raw, data):
        return {**raw, "stress": raw["stress"].to("meta")}


class Attached(Morse):
    """No twin: its energy can be differentiated together with that of others."""

    def attached_energy(self, data, strain, wanted):
        self.check_elements(data)
        view = strained_view(data, strain)
        return {"energy": self.energies(view, view.positions, view.cell_or_zeros)[:, None]}


class WrongStrainInAGroup(Attached):
    def attached_energy(self, data, strain, wanted):
        return super().attached_energy(data, None if strain is None else -strain, wanted)


class LosesForcesInAGroup(Attached):
    def attached_energy(self, data, strain, wanted):
        (energy,) = super().attached_energy(data, strain, wanted).values()
        return {"energy": energy.detach() + 0.5 * (energy - energy.detach())}


class ChangesItsConfiguration(Morse):
    def forward(self, data, **kwargs):
        self.model_config.gradient_keys = {"cell"}
        return super().forward(data)


# --------------------------------------------------------------------------------------------------- wrappers of others


class EnergyOnly(Morse):
    outputs = ("energy",)
    differentiated = ()


class NoStress(Morse):
    outputs = ("energy", "forces")
    differentiated = ("forces",)
    supports_pbc = False


class WithoutList(Morse):
    """Looks for its pairs itself, as many wrappers do, and its card says nothing."""

    needs_list = False
    supports_pbc = False
    outputs = ("energy", "forces")
    differentiated = ("forces",)

    def __init__(self, **card: Any) -> None:
        super().__init__()
        self.model_card = ModelCard(**card)

    def energies(self, data, positions, cell):
        same = data.batch_idx[:, None] == data.batch_idx
        i, j = (same & ~torch.eye(len(same), dtype=torch.bool)).nonzero(as_tuple=True)
        return self.sum_of(data, positions, 0.5 * self.pair_energy((positions[j] - positions[i]).norm(dim=1)), i)


class HidesItsCutoff(WithoutList):
    """Its configuration names no cutoff, and its energy ends with a bend at one."""

    def pair_energy(self, r):
        return super().pair_energy(r) + 0.01 * (1.0 - r / 4.4).clamp(min=0.0)
