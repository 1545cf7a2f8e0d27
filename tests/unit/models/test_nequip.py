"""NequIPWrapper without nequip: networks that differentiate themselves, and what is refused before files are loaded."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from athanor.data import Batch
from athanor.errors import ContractError, InputError, NotAvailableError, OptionalDependencyError
from athanor.models import NequIPWrapper, hessian
from athanor.models.nequip.network import CompiledNetwork
from athanor.neighbors import compute_neighbors
from athanor.testing import check_model
from athanor.testing.systems import fcc_crystal

CUTOFF = 4.0
METADATA = {"r_max": "4.0", "type_names": "Ar Ne", "model_dtype": "float64"}


class Springs(nn.Module):
    """Pair energies (1 - r/rc)⁴ of atoms, with forces and stress of its own, as a compiled network gives them."""

    reach = CUTOFF

    def forward(self, data: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        (i, j), system = data["edge_index"], data["batch"]
        positions, cell = data["pos"].clone().requires_grad_(True), data["cell"]
        strain = torch.zeros_like(cell).requires_grad_(True)
        vectors = positions[j] - positions[i] + torch.einsum("ea,eac->ec", data["edge_cell_shift"], cell[system[i]])
        vectors = vectors + torch.einsum("ea,eac->ec", vectors, strain[system[i]])
        pairs = 0.5 * (1.0 - vectors.norm(dim=1) / self.reach).clamp(min=0.0) ** 4
        atoms = pairs.new_zeros(len(positions)).index_add(0, i, pairs)
        by_positions, by_strain = torch.autograd.grad(atoms.sum(), (positions, strain))
        energies = pairs.new_zeros(len(cell)).index_add(0, system, atoms)
        stress = by_strain / torch.linalg.det(cell).abs().view(-1, 1, 1)
        return {
            "atomic_energy": atoms[:, None], "total_energy": energies[:, None], "forces": -by_positions,
            "stress": stress,
        }  # fmt: skip


def compiled(inputs: list[str] | None = None, **metadata: str) -> NequIPWrapper:
    return NequIPWrapper(CompiledNetwork(Springs(), METADATA | metadata, inputs)).eval()


def batch_of(count: int) -> Batch:
    crystals = [fcc_crystal(3.8 + 0.1 * place, jitter=0.1, seed=place) for place in range(count)]
    batch = Batch.from_data_list(crystals)
    compute_neighbors(batch, CUTOFF)
    return batch


def test_a_network_that_differentiates_itself_keeps_the_contract() -> None:
    check_model(compiled(), elements=[18, 10]).raise_if_failed()


class WithForcesOfBoth(Springs):
    """A broken twin: forces twice as large as the slope of the energy."""

    def forward(self, data: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        found = super().forward(data)
        return found | {"forces": 2.0 * found["forces"]}


def test_forces_that_are_not_the_slope_are_noticed() -> None:
    twin = NequIPWrapper(CompiledNetwork(WithForcesOfBoth(), METADATA)).eval()
    assert not check_model(twin, elements=[18, 10], checks=["forces"]).ok


def test_derivatives_that_it_does_not_have_are_refused() -> None:
    with pytest.raises(NotAvailableError, match="no second derivatives"):
        hessian(compiled(), batch_of(1), step=None)


def test_the_derivative_by_the_cell_follows_from_the_others() -> None:
    model, batch = compiled(), batch_of(2)
    cell = batch.cell.clone()
    batch.cell.requires_grad_(True)
    (found,) = torch.autograd.grad(model(batch)["energy"].sum(), batch.cell)
    batch.cell = cell
    for place in ((0, 0, 0), (0, 1, 2), (1, 2, 0)):
        energies = []
        for step in (-1e-5, 1e-5):
            batch.cell = cell.clone()
            batch.cell[place] += step
            energies.append(float(model(batch)["energy"].sum()))
        assert float(found[place]) == pytest.approx((energies[1] - energies[0]) / 2e-5, rel=1e-6, abs=1e-9)


def test_networks_that_were_compiled_for_one_system_or_for_several() -> None:
    one, several = ["pos", "edge_index"], ["pos", "edge_index", "batch", "num_atoms"]
    batch = batch_of(1)

    class Counting(Springs):
        def forward(self, data: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            assert len(data["num_atoms"]) == len(data["cell"]) == 2
            return super().forward(data)

    padded = NequIPWrapper(CompiledNetwork(Counting(), METADATA, several)).eval()
    assert torch.equal(padded(batch)["forces"], compiled()(batch)["forces"])
    assert padded(batch)["energy"].shape == (1, 1)
    with pytest.raises(InputError, match="one system at a time, and the batch has 2"):
        compiled(one)(batch_of(2))


def test_cutoffs_of_pairs() -> None:
    short = compiled(per_edge_type_cutoff="3.0 4.0 4.0 4.0")
    batch = batch_of(2)
    assert float(short(batch)["energy"].sum()) < float(compiled()(batch)["energy"].sum())
    assert torch.equal(compiled(per_edge_type_cutoff="4.0 4.0 4.0 4.0")(batch)["energy"], compiled()(batch)["energy"])


@pytest.mark.parametrize(
    ("types", "message"),
    [({"Xx": "Ar"}, "Xx is no symbol of an element"), ({"Ar": "Kr"}, "`types` names Kr; this network knows Ar, Ne")],
)
def test_types_that_do_not_fit(types: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        NequIPWrapper(CompiledNetwork(Springs(), METADATA), types=types)
    with pytest.raises(ContractError, match="lacks what is read of a network of the NequIP framework"):
        NequIPWrapper(nn.Linear(1, 1))


def test_files_are_looked_at_before_they_are_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(name: str, message: str, error: type[Exception] = InputError, **options: Any) -> None:
        with pytest.raises(error, match=message):
            NequIPWrapper.from_checkpoint(tmp_path / name, **options)

    with zipfile.ZipFile(tmp_path / "small.nequip.zip", "w") as archive:
        archive.writestr("model", b"weights" * 100)
    content = bytearray((tmp_path / "small.nequip.zip").read_bytes())
    content[100] ^= 1
    (tmp_path / "damaged.nequip.zip").write_bytes(content)
    (tmp_path / "text.ckpt").write_text("no archive", encoding="utf-8")
    (tmp_path / "model.pt").write_text("", encoding="utf-8")
    refuses("small.nequip.zip", "pass `trust=True`")
    refuses("damaged.nequip.zip", "`model` in it has another checksum", trust=True)
    refuses("text.ckpt", "damaged or no file of a network", trust=True)
    refuses("model.pt", "ends in none of", trust=True)
    refuses("absent.ckpt", "is no file", trust=True)
    with pytest.raises(InputError, match="pass `trust=True`"):
        NequIPWrapper.from_checkpoint("nequip.net:group/model:1")
    monkeypatch.setitem(sys.modules, "nequip", None)
    refuses("small.nequip.zip", r"athanor-md\[nequip\]", OptionalDependencyError, trust=True)
