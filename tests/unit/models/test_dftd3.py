"""The models of dispersion: parameters, tables, what they refuse and hand out, and sums with other models."""

from __future__ import annotations

import copy
import math
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from ase.build import bulk, molecule

import athanor.models
from athanor import units
from athanor.data import AtomicData, Batch
from athanor.errors import InputError
from athanor.models.dftd3 import (
    DFTD3ModelWrapper,
    extract_dftd3_parameters,
    load_dftd3_params,
    save_dftd3_parameters,
    tables,
)
from athanor.models.lj import LennardJonesModelWrapper
from athanor.models.pipeline import PipelineGroup, PipelineModelWrapper
from athanor.neighbors import compute_neighbors
from athanor.testing.model_contract import evaluate
from athanor.testing.systems import structure

PBE = {"a1": 0.4289, "a2": 4.4407, "s8": 0.7875}


def system(atoms: Any, dtype: torch.dtype = torch.float64) -> AtomicData:
    return AtomicData.from_atoms(atoms, dtype=dtype)


def crystal() -> AtomicData:
    atoms = bulk("NaCl", "rocksalt", a=5.64)
    atoms.rattle(0.1, seed=1)
    return system(atoms)


# -------------------------------------------------------------------------------------------------------- the interface


def test_attributes_buffers_and_card_are_what_was_given() -> None:
    model = DFTD3ModelWrapper(0.4289, 4.4407, 0.7875)
    assert (model.a1, model.a2, model.s8, model.s6) == (0.4289, 4.4407, 0.7875, 1.0)
    assert (model.cutoff, model.k1, model.k3, model.smoothing_fraction) == (15.0, 16.0, -4.0, 0.2)
    assert (model.cn_cutoff, model.three_body_cutoff) == (15.0, 15.0)
    assert DFTD3ModelWrapper(**PBE, cutoff=30.0).cn_cutoff == pytest.approx(40 * units.BOHR)
    shapes = {name: tuple(each.shape) for name, each in model.named_buffers() if not name.startswith("_")}
    assert shapes == tables.SHAPES
    assert {each.dtype for each in model.buffers()} == {torch.float64}
    assert model.model_config.active_outputs == {"energy", "forces"}
    assert model.model_config.outputs == {"energy", "forces", "stress"}
    assert model.model_config.neighbor_config is None
    assert model.make_neighbor_hooks() == []
    assert model.model_card.elements == frozenset(range(1, 95))
    assert (model.model_card.smooth, model.model_card.conservative) == (True, True)
    assert DFTD3ModelWrapper(**PBE, smoothing_fraction=0.0).model_card.smooth is False
    assert model.embedding_shapes == {}
    with pytest.raises(NotImplementedError, match="has no embeddings"):
        model.compute_embeddings(crystal())
    with pytest.raises(InputError, match="`a1` of a DFTD3ModelWrapper can not be changed"):
        model.a1 = 0.5


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"cutoff": 0.0}, "`cutoff` is 0.0; it must be finite and positive"),
        ({"a1": -0.1}, "`a1` is -0.1"),
        ({"a2": math.nan}, "`a2` is nan"),
        ({"s8": -1.0}, "`s8` is -1.0"),
        ({"smoothing_fraction": 1.0}, "`smoothing_fraction` is 1.0; it must be at least 0 and below 1"),
        ({"smoothing_fraction": -0.1}, "`smoothing_fraction` is -0.1"),
        ({"k1": 50.0}, "`k1` is 50.0"),
        ({"k3": 4.0}, "`k3` is 4.0"),
        ({"alpha": 13}, "`alpha` is 13; it must be an even whole number"),
        ({"rs6": 0.0}, "`rs6` is 0.0"),
        ({"cn_cutoff": -1.0}, "`cn_cutoff` is -1.0"),
        ({"three_body_cutoff": math.inf}, "`three_body_cutoff` is inf"),
        ({"damping": "none"}, "`damping` is 'none'; it must be 'bj' or 'zero'"),
        ({"s6": "one"}, "`s6` is 'one'; it must be a number"),
    ],
)
def test_parameters_out_of_range_are_refused(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        DFTD3ModelWrapper(**{**PBE, **changes})


def test_what_is_missing_is_told() -> None:
    model = DFTD3ModelWrapper(**PBE)
    with pytest.raises(TypeError, match="requires a Batch input"):
        model(crystal())
    with pytest.raises(ValueError, match=r"no references for atomic number 95, 118; it has them up to 94"):
        model(Batch.from_data_list([structure(torch.eye(3).double() * 3.0, [118, 6, 95])]))
    model.model_config.active_outputs = {"energy", "stress"}
    molecules = Batch.from_data_list([system(molecule("H2O"))])
    with pytest.raises(ValueError, match="stress output requires cell"):
        model(molecules)
    with pytest.raises(RuntimeError, match="missing from model output"):
        model.adapt_output({"energy": torch.zeros(1)}, Batch.from_data_list([crystal()]))


def test_results_have_the_dtype_of_the_positions_and_tables_stay_double() -> None:
    model = DFTD3ModelWrapper(**PBE, cutoff=9.0)
    expected = evaluate(model, [crystal()], ["energy", "forces"])[0]
    moved = copy.deepcopy(model).to(torch.float32)
    assert torch.equal(moved.c6ab, model.c6ab)
    assert moved.c6ab.dtype == torch.float64
    found = moved(Batch.from_data_list([system(crystal().to_atoms(), torch.float32)]))
    assert found["energy"].dtype == found["forces"].dtype == torch.float32
    torch.testing.assert_close(found["energy"][0, 0], expected["energy"].flatten()[0].float(), rtol=1e-5, atol=0)
    again = pickle.loads(pickle.dumps(model))
    assert torch.equal(evaluate(again, [crystal()], ["energy"])[0]["energy"], expected["energy"])
    assert model.to("meta").c6ab.is_meta


def test_elements_are_looked_at_again_when_they_change() -> None:
    model, batch = DFTD3ModelWrapper(**PBE), Batch.from_data_list([crystal()])
    before = model(batch)["energy"]
    batch.atomic_numbers = torch.tensor([3, 9])
    assert not torch.equal(model(batch)["energy"], before)
    batch.atomic_numbers[0] = 100
    with pytest.raises(ValueError, match="no references for atomic number 100"):
        model(batch)


# ---------------------------------------------------------------------------------------------------------- functionals


def test_functionals_by_name() -> None:
    model = DFTD3ModelWrapper.from_functional("PBE")
    assert (model.a1, model.a2, model.s8, model.damping) == (0.4289, 4.4407, 0.7875, "bj")
    zero = DFTD3ModelWrapper.from_functional("B3-LYP", "zero", cutoff=12.0, three_body=True)
    assert (zero.rs6, zero.rs8, zero.s8, zero.cutoff, zero.three_body) == (1.261, 1.0, 1.703, 12.0, True)
    assert zero.model_card.name == "D3(0) for B3-LYP"
    with pytest.raises(InputError, match=r"functional `pbs`\. Did you mean `pbe"):
        DFTD3ModelWrapper.from_functional("pbs")
    with pytest.raises(InputError, match="no parameters of r2scan for damping 'zero'; there are for 'bj'"):
        DFTD3ModelWrapper.from_functional("r2scan", "zero")
    with pytest.raises(InputError, match="`damping` is 'd2'"):
        DFTD3ModelWrapper.from_functional("pbe", "d2")
    with pytest.raises(InputError, match="`functional` is 3"):
        DFTD3ModelWrapper.from_functional(3)


def test_names_of_the_registry() -> None:
    model = athanor.models.get("d3")
    assert (model.a1, model.model_card.name) == (0.4289, "D3(BJ) for pbe")
    assert athanor.models.get("dftd3", functional="pbesol", damping="zero").rs6 == 1.345
    both = athanor.models.get("lj + d3", epsilon=0.01, sigma=3.4, **{"lj.cutoff": 6.0}, functional="blyp")
    assert both.model_config.neighbor_config.cutoff == 6.0


# --------------------------------------------------------------------------------------------------------------- tables


def test_tables_hold_what_was_published() -> None:
    loaded = load_dftd3_params(auto_download=False)
    assert {name: tuple(each.shape) for name, each in loaded.items()} == tables.SHAPES
    assert float(loaded["c6ab"][6, 6, 0, 0]) == 49.1130
    assert float(loaded["c6ab"][6, 1, 4, 0]) == float(loaded["c6ab"][1, 6, 0, 4])
    assert float(loaded["cn_ref"][6, 8, 3, 1]) == 2.9987
    assert float(loaded["rcov"][6]) == pytest.approx(0.75 * 4 / 3 / 0.529177210903, rel=1e-15)
    assert float(loaded["r4r2"][1]) == pytest.approx(2.00734898, abs=3e-8)
    assert float(loaded["r0ab"][1, 1]) * 0.529177210903 == pytest.approx(2.1823, rel=1e-15)
    assert int((loaded["c6ab"] > 0).sum()) == 254**2
    for name in ("rcov", "r4r2", "c6ab", "cn_ref"):
        assert not bool((loaded[name][0] > 0.0).any())
    loaded["c6ab"].zero_()  # of the caller's own copy
    assert float(load_dftd3_params()["c6ab"].max()) == 9330.7294


def test_tables_are_written_and_read(tmp_path: Path) -> None:
    loaded = load_dftd3_params()
    file = save_dftd3_parameters(loaded, tmp_path / "d3.pt")
    again = load_dftd3_params(file)
    assert all(torch.equal(again[name], loaded[name]) for name in tables.SHAPES)
    single = {name: each.float() for name, each in loaded.items() if name != "r0ab"}
    torch.save(single, tmp_path / "old.pt")
    model = DFTD3ModelWrapper(**PBE, param_file=tmp_path / "old.pt")
    assert model.c6ab.dtype == torch.float64
    assert torch.equal(model.r0ab, loaded["r0ab"])
    with pytest.raises(FileNotFoundError, match=r"no file `.*absent\.pt`"):
        load_dftd3_params(tmp_path / "absent.pt", auto_download=False)
    with pytest.raises(InputError, match=r"`rcov` is absent in .*parameters"):
        save_dftd3_parameters({}, tmp_path / "none.pt")
    torch.save({**single, "rcov": torch.zeros(3)}, tmp_path / "short.pt")
    with pytest.raises(InputError, match=r"`rcov` has shape \(3,\)"):
        load_dftd3_params(tmp_path / "short.pt")
    torch.save({**single, "cn_ref": torch.rand(95, 95, 5, 5)}, tmp_path / "mixed.pt")
    with pytest.raises(InputError, match="are no table of references"):
        DFTD3ModelWrapper(**PBE, param_file=tmp_path / "mixed.pt")


def as_program(folder: Path) -> dict[str, torch.Tensor]:
    """Write the tables in the form of the original sources, and return them."""
    loaded = load_dftd3_params()
    code, program = lambda z, p: f"{100 * p + z:.9E}", []
    for name, table in (("rcov", "rcov"), ("r2r4", "r4r2")):
        values = [f"{float(v):.8f}" for v in loaded[table][1:]]
        rows = ",\n     . ".join(", ".join(values[k : k + 5]) for k in range(0, 94, 5))
        program.append(f"      data {name} /\n     . {rows} /\n")
    radii = [f"{float(loaded['r0ab'][i, j]) * 0.529177210903:.4f}" for i in range(1, 95) for j in range(1, i + 1)]
    program += [
        f"      r0ab({k + 1:4d}:{k + 70:4d})=(/\n     . " + "\n     .,".join(radii[k : k + 70]) + "\n     ./)\n"
        for k in range(0, len(radii), 70)
    ]
    lines = []
    for i, j, p, q in (loaded["c6ab"] > 0.0).nonzero().tolist():
        if (i, p) >= (j, q):
            c6, one, other = loaded["c6ab"][i, j, p, q], loaded["cn_ref"][i, j, p, q], loaded["cn_ref"][j, i, q, p]
            lines.append(f" {float(c6):.8E},{code(i, p)},{code(j, q)},{float(one):.9E},{float(other):.9E}")
    (folder / "dftd3.f").write_text("".join(program))
    (folder / "pars.f").write_text("      pars( 1: 9)=(/\n     ." + "\n     .,".join(lines) + "\n     ./)\n")
    return loaded


def test_sources_of_the_original_program_are_read(tmp_path: Path) -> None:
    """The code of a reference is 100 k + Z; a reader that takes k + 1 for k would leave the first place empty."""
    with pytest.raises(FileNotFoundError, match="nowhere"):
        extract_dftd3_parameters(tmp_path / "nowhere")
    expected = as_program(tmp_path)
    found = extract_dftd3_parameters(tmp_path)
    for name in ("c6ab", "cn_ref"):
        assert torch.equal(found[name], expected[name])
    for name in ("rcov", "r4r2", "r0ab"):
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=5.1e-9 if name != "r0ab" else 1e-12)
    (tmp_path / "pars.f").unlink()
    with pytest.raises(FileNotFoundError, match=r"pars\.f"):
        extract_dftd3_parameters(tmp_path)
    (tmp_path / "pars.f").write_text("nothing")
    with pytest.raises(InputError, match=r"pars\.f` has no table `pars`"):
        extract_dftd3_parameters(tmp_path)
    assert torch.equal(extract_dftd3_parameters()["c6ab"], expected["c6ab"])


# ----------------------------------------------------------------------------------------------------------------- sums


@pytest.mark.parametrize("use_autograd", [False, True])
def test_a_sum_is_the_sum_of_its_parts(use_autograd: bool) -> None:
    pairs, d3 = LennardJonesModelWrapper(0.01, 2.6, 6.0, switch_width=1.0), DFTD3ModelWrapper(**PBE, cutoff=9.0)
    total = PipelineModelWrapper([PipelineGroup([pairs, d3], use_autograd=use_autograd)])
    names = ["energy", "forces", "stress"]
    (found,), (one,), (other,) = (evaluate(model, [crystal()], names) for model in (total, pairs, d3))
    for name in names:
        torch.testing.assert_close(found[name], one[name] + other[name], rtol=1e-12, atol=1e-14)
    assert (pairs + d3).model_config.neighbor_config.cutoff == 6.0


@pytest.mark.chgnet
def test_chgnet_and_d3() -> None:
    total = athanor.models.get("chgnet + d3", functional="pbe", dtype=torch.float64)
    chgnet, d3 = athanor.models.get("chgnet", dtype=torch.float64), athanor.models.get("d3")
    names = ["energy", "forces", "stress"]
    (found,), (one,), (other,) = (evaluate(model, [crystal()], names) for model in (total, chgnet, d3))
    for name in names:
        torch.testing.assert_close(found[name], one[name] + other[name], rtol=1e-9, atol=1e-9)
    assert float(other["energy"]) < -0.2


def test_it_takes_no_list_from_others() -> None:
    """A list that a partner asked for changes nothing."""
    d3, batch = DFTD3ModelWrapper(**PBE), Batch.from_data_list([crystal()])
    before = d3(batch)
    compute_neighbors(batch, 4.0)
    assert torch.equal(d3(batch)["forces"], before["forces"])
