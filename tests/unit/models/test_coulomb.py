"""The models of charges: what they read, refuse and hand out."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from torch import nn

import athanor.models
from athanor import units
from athanor.data import AtomicData, Batch
from athanor.errors import InputError, NotAvailableError
from athanor.kernels import ewald_reciprocal
from athanor.models import ewald as ewald_module
from athanor.models import hessian
from athanor.models.base import BaseModelMixin, ModelConfig
from athanor.models.dsf import DSFModelWrapper
from athanor.models.ewald import EwaldModelWrapper
from athanor.models.lj import LennardJonesModelWrapper
from athanor.models.pipeline import PipelineGroup, PipelineModelWrapper
from athanor.models.pme import PMEModelWrapper
from athanor.neighbors import compute_neighbors

EVERYTHING = {"energy", "forces", "stress"}
OF_SALT = {"Na": 1.0, "Cl": -1.0}


def salt(repeat: int = 1, rattle: float = 0.2, **keywords: Any) -> AtomicData:
    atoms = bulk("NaCl", "rocksalt", a=5.64, cubic=True) * (repeat, repeat, repeat)
    atoms.rattle(rattle, seed=2)
    return charged(atoms, [OF_SALT[symbol] for symbol in atoms.symbols], **keywords)


def charged(atoms: Atoms, charges: list[float], dtype: torch.dtype = torch.float64) -> AtomicData:
    data = AtomicData.from_atoms(atoms, dtype=dtype)
    data.charges = torch.tensor(charges, dtype=dtype)
    return data


def ready(model: Any, *systems: AtomicData) -> Batch:
    batch = Batch.from_data_list([system.clone() for system in systems])
    compute_neighbors(batch, config=model.model_config.neighbor_config)
    return batch


MODELS = pytest.mark.parametrize("kind", [EwaldModelWrapper, PMEModelWrapper, DSFModelWrapper])


# --------------------------------------------------------------------------------------------------------- what is read


@MODELS
def test_the_interface(kind: type) -> None:
    model = kind(6.0)
    assert model.input_data() == {"positions", "charges", "neighbor_matrix", "num_neighbors"}
    assert kind(6.0, charges=OF_SALT).input_data() >= {"atomic_numbers"}
    assert model.model_config.active_outputs == {"energy", "forces"}
    assert model.model_config.outputs == EVERYTHING
    assert model.direct_derivative_keys() == set()
    assert kind(6.0, hybrid_forces=True).direct_derivative_keys() == {"forces", "stress"}
    assert model.coulomb_constant == units.COULOMB_CONSTANT
    assert model.embedding_shapes == {}
    with pytest.raises(NotImplementedError, match="has no embeddings"):
        model.compute_embeddings(ready(model, salt()))
    with pytest.raises(NotImplementedError, match="can not be exported"):
        model.export_model("model.pt")


@MODELS
def test_charges_come_from_the_batch_or_from_a_table(kind: type) -> None:
    model, table = kind(6.0), kind(6.0, charges=OF_SALT)
    batch = ready(model, salt())
    expected = model(batch)
    for name, value in table(batch).items():
        assert torch.equal(value, expected[name])
    column = ready(model, salt())
    column["charges"] = column.charges  # one column is as good as none
    view = column.shallow_view(())
    view.charges = column.charges[:, None]
    assert torch.equal(model(view)["energy"], expected["energy"])
    model.model_config.active_outputs = {"energy"}
    assert set(model(batch)) == {"energy"}


@MODELS
def test_what_is_missing_is_told(kind: type) -> None:
    model = kind(6.0)
    with pytest.raises(TypeError, match="requires a Batch input, not AtomicData"):
        model(salt())
    with pytest.raises(KeyError, match=f"no neighbour list, which {kind.__name__} needs"):
        model(Batch.from_data_list([salt()]))
    bare = AtomicData.from_atoms(bulk("NaCl", "rocksalt", a=5.64), dtype=torch.float64)
    with pytest.raises(KeyError, match=r"`charges` is missing from the batch.*charges=\{'Na': 1.0"):
        model(ready(model, bare))
    with pytest.raises(ValueError, match=r"`charges` is missing, or not finite, in systems \[1\] of the batch"):
        model(ready(model, salt(), bare))
    with pytest.raises(ValueError, match=r"no parameters for Cl \(17\); it has some for Na. Add them to `charges`"):
        kind(6.0, charges={"Na": 1.0})(ready(model, salt()))


@MODELS
@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"cutoff": 0.0}, "`cutoff` is 0.0; it must be a positive number"),
        ({"cutoff": float("nan")}, "`cutoff` is nan"),
        ({"cutoff": 6.0, "coulomb_constant": -1.0}, "`coulomb_constant` is -1.0"),
        ({"cutoff": 6.0, "charges": {"Na": "one"}}, "`charges` gives 'Na' 'one'; it must be a finite number"),
        ({"cutoff": 6.0, "charges": {"Na": 1.0, 11: 2.0}}, "`charges` names Na twice"),
        ({"cutoff": 6.0, "charges": "Na:1,Cl:-1"}, "`charges` is 'Na:1,Cl:-1'; give a number for each element"),
        ({"cutoff": 6.0, "charges": {}}, "give a number for each element"),
        ({"cutoff": 6.0, "hybrid_forces": "no"}, "`hybrid_forces` is 'no'; it must be True or False"),
        ({"cutoff": 6.0, "charges": {"na": 1.0}}, "Did you mean `Na`"),
    ],
)
def test_parameters_out_of_range_are_refused(kind: type, options: dict[str, Any], text: str) -> None:
    with pytest.raises(InputError, match=text):
        kind(**options)


@pytest.mark.parametrize("accuracy", [1e-13, 0.2, 0.0, float("nan"), "fine", True])
def test_an_accuracy_that_can_not_be_reached_is_refused(accuracy: Any) -> None:
    with pytest.raises(InputError, match=r"`accuracy` is .*from 1e-12 to 0.1"):
        EwaldModelWrapper(8.0, accuracy)


def test_ewald_says_which_boundaries_it_takes() -> None:
    model = EwaldModelWrapper(6.0)
    molecule = charged(Atoms("NaCl", [(0, 0, 0), (2.4, 0, 0)]), [1.0, -1.0])
    with pytest.raises(
        ValueError, match="requires periodic boundary conditions, and no system of this batch has a cell"
    ):
        model(ready(model, molecule))
    assert DSFModelWrapper(6.0)(ready(model, molecule))["energy"].shape == (1, 1)
    system = salt()
    for periodic, text in [
        ((True, False, False), "periodic in 1 of 3"),
        ((True, True, False), "`slab_correction=True`"),
    ]:
        system.pbc = torch.tensor([periodic])
        with pytest.raises(InputError, match=f"System 1 of the batch is .*{text}"):
            model(ready(model, salt(), system))
    slabs = EwaldModelWrapper(6.0, slab_correction=True)
    assert "pbc" in slabs.input_data()
    batch = ready(model, salt())
    view = batch.shallow_view(())
    del view["pbc"]
    with pytest.raises(ValueError, match=r"data\.pbc must be present for `slab_correction`"):
        slabs(view)


# --------------------------------------------------------------------------------------------------- what is handed out


@MODELS
def test_nothing_is_changed_and_nothing_is_shared(kind: type) -> None:
    model = kind(6.0)
    model.model_config.active_outputs = EVERYTHING
    batch = ready(model, salt(), salt(rattle=0.1))
    before = {name: value.clone() for name, value in batch}
    first, second = model(batch), model(batch)
    assert {name: value for name, value in batch}.keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in batch)
    for name in EVERYTHING:
        assert torch.equal(first[name], second[name])
        assert first[name].data_ptr() != second[name].data_ptr()
        assert not first[name].requires_grad
    with torch.inference_mode():
        assert torch.equal(model(batch)["forces"], first["forces"])


@MODELS
def test_single_precision_costs_its_own_digits_only(kind: type) -> None:
    model = kind(6.0)
    double, single = model(ready(model, salt())), model(ready(model, salt(dtype=torch.float32)))
    assert single["forces"].dtype == torch.float32
    torch.testing.assert_close(single["forces"].double(), double["forces"], rtol=1e-5, atol=1e-5)


def test_energy_alone_does_no_work_for_forces(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, right = [], ewald_module.ewald_reciprocal

    def watched(**arguments: Any) -> Any:
        asked.append(arguments["derivatives"])
        return right(**arguments)

    monkeypatch.setattr(ewald_module, "ewald_reciprocal", watched)
    model = EwaldModelWrapper(6.0)
    batch = ready(model, salt())
    both = model(batch)
    model.model_config.active_outputs = {"energy"}
    assert torch.equal(model(batch)["energy"], both["energy"])
    batch.charges.requires_grad_(True)
    model(batch)["energy"].sum().backward()
    assert asked == [True, False, True]
    assert float(batch.charges.grad.abs().min()) > 0.1


def test_another_cell_and_other_charges_are_seen_at_once() -> None:
    model = EwaldModelWrapper(6.0)
    batch = ready(model, salt())
    first = float(model(batch)["energy"])
    batch.charges *= 2.0
    assert float(model(batch)["energy"]) == pytest.approx(4.0 * first, rel=1e-13)
    batch.charges *= 0.5
    batch.cell *= 2.0
    batch.positions *= 2.0
    compute_neighbors(batch, config=model.model_config.neighbor_config)
    assert float(model(batch)["energy"]) == pytest.approx(0.5 * first, rel=1e-6)
    model.invalidate_cache()


def test_a_cell_that_has_exploded_spoils_nobody_else() -> None:
    model = EwaldModelWrapper(6.0)
    alone = model(ready(model, salt()))
    for broken in (1e7, float("nan")):
        batch = ready(model, salt(), salt(), salt())
        view = batch.shallow_view(())
        view.cell = batch.cell.clone()
        view.cell[1] *= broken
        together = model(view)
        assert bool(together["energy"][1].isnan())
        for place in (0, 2):
            assert torch.equal(together["energy"][place], alone["energy"][0])
            assert torch.equal(together["forces"][8 * place : 8 * place + 8], alone["forces"])


@MODELS
def test_hybrid_forces_are_at_fixed_charges_and_without_graph(kind: type) -> None:
    model, plain = kind(6.0, hybrid_forces=True), kind(6.0)
    batch = ready(model, salt())
    batch.charges.requires_grad_(True)
    for each in (model, plain):
        each.model_config.active_outputs = EVERYTHING
    hybrid, attached = model(batch), plain(batch)
    for name in EVERYTHING:
        assert torch.equal(hybrid[name], attached[name])
        assert hybrid[name].requires_grad is (name == "energy")
        assert attached[name].requires_grad
    (one,), (other,) = (torch.autograd.grad(each["energy"].sum(), batch.charges) for each in (hybrid, attached))
    assert torch.equal(one, other)
    step = torch.zeros_like(batch.charges)
    step[3] = 1e-3
    sides = []
    for sign in (1.0, -1.0):
        moved = batch.clone()
        moved.charges = batch.charges.detach() + sign * step
        sides.append(float(plain(moved)["energy"].detach()))
    assert (sides[0] - sides[1]) / 2e-3 == pytest.approx(float(one[3]), rel=1e-9)


@pytest.mark.parametrize("group", [False, True])
def test_second_derivatives_of_a_sum_with_hybrid_forces_are_right_or_refused(group: bool) -> None:
    short = LennardJonesModelWrapper(0.005, 3.0, 5.0, switch_width=1.0)
    hybrid = EwaldModelWrapper(6.0, hybrid_forces=True)
    model = PipelineModelWrapper([PipelineGroup([short, hybrid], use_autograd=True)]) if group else short + hybrid
    system = salt(rattle=0.1)
    plain = hessian(short + EwaldModelWrapper(6.0), system, step=None)[0]
    differences = hessian(model, system, step=1e-4)[0]
    torch.testing.assert_close(differences, plain, rtol=0, atol=1e-5 * float(plain.abs().max()))
    if group:
        with pytest.raises(NotAvailableError, match="`hybrid_forces=True` carry no graph"):
            hessian(model, system, step=None)
    else:
        torch.testing.assert_close(hessian(model, system, step=None)[0], plain, rtol=0, atol=1e-9)
    batch = ready(model, system)
    batch.positions.requires_grad_(True)
    with pytest.raises(NotAvailableError, match="`hybrid_forces=True` carry no graph"):
        model(batch)["forces"].square().sum().backward()


def test_a_pipeline_with_hybrid_forces_is_trained_by_energies() -> None:
    class Charges(nn.Module, BaseModelMixin):
        embedding_shapes: ClassVar[dict] = {}

        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones((), dtype=torch.float64))
            self.model_config = ModelConfig(outputs={"charges"}, supports_pbc=True)

        def compute_embeddings(self, data: Any, **kwargs: Any) -> Any:
            raise NotImplementedError

        def forward(self, data: Any, **kwargs: Any) -> Any:
            moved = data.positions.sin()[:, 0]
            return {"charges": self.scale * (moved - moved.mean())}

    charges, hybrid = Charges(), EwaldModelWrapper(6.0, hybrid_forces=True)
    model = PipelineModelWrapper([PipelineGroup([charges, hybrid], use_autograd=True)]).train()
    outputs = model(ready(model, salt()))
    outputs["energy"].sum().backward()
    assert float(charges.scale.grad.abs()) > 1e-3
    with pytest.raises(NotAvailableError, match="`hybrid_forces=True` carry no graph"):
        model(ready(model, salt()))["forces"].square().sum().backward()


def test_a_sum_may_share_a_half_list() -> None:
    short = LennardJonesModelWrapper(0.005, 3.0, 5.0, switch_width=1.0, half_list=True)
    half, full = short + EwaldModelWrapper(6.0, half_list=True), EwaldModelWrapper(6.0)
    batch = ready(half, salt())
    alone = full(ready(full, salt()))
    for name in ("energy", "forces"):
        torch.testing.assert_close(half(batch)[name] - short(batch)[name], alone[name], rtol=0, atol=1e-12)


def test_changes_in_inference_mode_are_seen() -> None:
    model = EwaldModelWrapper(6.0, charges=OF_SALT)
    with torch.inference_mode():
        batch = ready(model, salt())
        first = float(model(batch)["energy"])
        batch.atomic_numbers[:] = torch.flip(batch.atomic_numbers, (0,))
        batch.positions[:] = torch.flip(batch.positions, (0,))
        compute_neighbors(batch, config=model.model_config.neighbor_config)
        assert float(model(batch)["energy"]) == pytest.approx(first, rel=1e-12)
        batch.atomic_numbers[[0, -1]] = batch.atomic_numbers[[-1, 0]]
        assert abs(float(model(batch)["energy"]) / first - 1.0) > 1e-3
    later = ready(model, salt())
    later.positions.requires_grad_(True)
    model(later)["energy"].sum().backward()


def a_slab(height: float) -> AtomicData:
    system = salt()
    system.cell = torch.tensor([[[5.64, 0.0, 0.0], [0.0, 5.64, 0.0], [0.0, 0.0, height]]], dtype=torch.float64)
    system.pbc = torch.tensor([[True, True, False]])
    return system


def test_a_slab_that_loses_its_vacuum_is_noticed_and_stops_nobody_else() -> None:
    model = EwaldModelWrapper(6.0, slab_correction=True)
    batch = ready(model, salt(), a_slab(20.0))
    model(batch)
    batch.cell[1, 2, 2] = 9.0
    with pytest.raises(InputError, match=r"System 1 of the batch is a slab with .* Å of vacuum .*shift its atoms"):
        model(batch)
    atoms = [each.to_atoms() for each in (salt(), a_slab(9.0))]
    done = athanor.evaluate(atoms, model=EwaldModelWrapper(6.0, slab_correction=True, charges=OF_SALT), progress=False)
    assert [reason.startswith("failed") for reason in done.reasons] == [False, True]


def test_a_structure_without_charges_stops_nobody_else() -> None:
    atoms = [salt().to_atoms(), bulk("NaCl", "rocksalt", a=5.64)]
    atoms[0].set_initial_charges([OF_SALT[symbol] for symbol in atoms[0].symbols])
    done = athanor.evaluate(atoms, model=EwaldModelWrapper(6.0), progress=False)
    assert [reason.startswith("failed") for reason in done.reasons] == [False, True]
    assert "it has no `charges`, which Ewald sum needs" in str(done.reasons[1])


def test_operations_refuse_what_does_not_fit() -> None:
    positions, cell = torch.rand(4, 3).double(), torch.eye(3).double()[None] * 5.0
    pointer, everyone = torch.tensor([0, 4], dtype=torch.int32), torch.ones(1, dtype=torch.bool)
    arguments = {"screening": 0.5, "taper_start": 2.0, "radius": 3.0, "derivatives": True}
    with pytest.raises(TypeError, match=r"`charges` is torch\.int64; use a float dtype"):
        ewald_reciprocal(positions, cell, pointer, torch.ones(4, dtype=torch.int64), everyone, **arguments)
    with pytest.raises(ValueError, match=r"`included` has shape \(0,\); 1 systems need \(1,\)"):
        ewald_reciprocal(positions, cell, pointer, torch.ones(4).double(), everyone[:0], **arguments)


def test_a_sum_with_another_cutoff_is_the_sum_of_its_parts() -> None:
    short = LennardJonesModelWrapper(0.005, 3.0, 5.0, switch_width=1.0)
    ewald = EwaldModelWrapper(7.5)
    together = short + ewald
    assert together.model_config.neighbor_config.cutoff == 7.5
    batch = ready(together, salt())
    for active in ({"energy", "forces"}, {"energy"}, EVERYTHING):
        for each in (together, short, ewald):
            each.model_config.active_outputs = set(active)
        sums = together(batch)
        assert set(sums) == active
        for name in active:
            assert torch.equal(sums[name], short(batch)[name] + ewald(batch)[name])


@MODELS
def test_the_hessian_agrees_with_differences_of_forces(kind: type) -> None:
    model, system = kind(6.0), salt(rattle=0.1)
    exact, differences = hessian(model, system, step=None)[0], hessian(model, system, step=1e-4)[0]
    torch.testing.assert_close(exact, differences, rtol=0, atol=1e-5 * float(exact.abs().max()))


# ------------------------------------------------------------------------------------------------- damped shifted force


def test_energy_and_force_of_damped_pairs_go_to_zero_at_the_cutoff() -> None:
    model, far = DSFModelWrapper(8.0, coulomb_constant=1.0), []
    self_energy = float(model(ready(model, charged(Atoms("Na"), [1.0])))["energy"])
    for distance in (7.9, 7.99, 7.999):
        outputs = model(ready(model, charged(Atoms("Na2", [(0, 0, 0), (distance, 0, 0)]), [1.0, 1.0])))
        far.append((float(outputs["energy"]) - 2.0 * self_energy, float(outputs["forces"].abs().max())))
    (first, push), (second, less), (third, least) = far
    assert first / second == pytest.approx(100.0, rel=0.1)  # the energy goes with the square of what is left
    assert second / third == pytest.approx(100.0, rel=0.1)
    assert push / less == pytest.approx(10.0, rel=0.1)
    assert less / least == pytest.approx(10.0, rel=0.1)


def test_the_error_that_the_page_states_for_the_damped_shifted_force() -> None:
    rough, exact = DSFModelWrapper(12.0), EwaldModelWrapper(8.0, 1e-8)
    errors = []
    for rattle in (0.6, 0.1):
        system = salt(3, rattle)
        forces = [model(ready(model, system))["forces"] for model in (rough, exact)]
        errors.append(float(torch.linalg.vector_norm(forces[0] - forces[1]) / torch.linalg.vector_norm(forces[1])))
    assert errors == pytest.approx([0.05, 0.15], rel=0.3)


def test_plain_shifted_coulomb_without_damping() -> None:
    model = DSFModelWrapper(9.0, alpha=0.0, coulomb_constant=1.0)
    energy = float(model(ready(model, charged(Atoms("Na2", [(0, 0, 0), (3.0, 0, 0)]), [1.0, 1.0])))["energy"])
    assert energy == pytest.approx(1.0 / 3.0 - 1.0 / 9.0 + (3.0 - 9.0) / 81.0 - 1.0 / 9.0, rel=1e-13)


# ---------------------------------------------------------------------------------------------------------------- names


def test_models_by_name() -> None:
    model = athanor.models.get("ewald", cutoff=8.0, accuracy=1e-5, charges=OF_SALT)
    assert (model.accuracy, model.charges) == (1e-5, OF_SALT)
    both = athanor.models.get(
        "lj + ewald", **{"ewald.cutoff": 7.0, "lj.cutoff": 6.0, "epsilon": 0.01, "sigma": 2.5, "charges": OF_SALT}
    )
    assert both.model_config.required_inputs == frozenset()
    assert athanor.models.get("dsf", cutoff=10.0).alpha == 0.2
    assert np.isclose(athanor.models.EwaldModelWrapper(8.0).splitting.cutoff, 8.0)
