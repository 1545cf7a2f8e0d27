"""Embeddings come onto the batch and nothing else changes; what a network exports is read back with the same bits."""

from __future__ import annotations

import copy
import hashlib
import pickletools
import zipfile
from pathlib import Path

import pytest
import torch
from ase.build import bulk

from athanor.data.atomic_data import AtomicData
from athanor.data.batch import Batch
from athanor.errors import ContractError, InputError, NotAvailableError, StorageError
from athanor.models.chgnet import CHGNetWrapper
from athanor.models.demo import DemoModelWrapper, build_demo_model
from athanor.models.lj import LennardJonesModelWrapper
from athanor.models.tensor_file import write_tensor_file
from athanor.neighbors import compute_neighbors

KINDS = {
    "demo": pytest.param(lambda: build_demo_model(num_atom_types=20, hidden_dim=8), id="demo"),
    "chgnet": pytest.param(CHGNetWrapper.from_checkpoint, marks=pytest.mark.chgnet, id="chgnet"),
    "chgnet float64": pytest.param(
        lambda: CHGNetWrapper.from_checkpoint("0.2.0", dtype=torch.float64), marks=pytest.mark.chgnet, id="float64"
    ),
}


def salt() -> Batch:
    crystals = [bulk("NaCl", "rocksalt", a=5.7), bulk("MgO", "rocksalt", a=4.3, cubic=True)]
    batch = Batch.from_data_list([AtomicData.from_atoms(each, dtype=torch.float64) for each in crystals])
    compute_neighbors(batch, 6.0)
    return batch


class Careless(DemoModelWrapper):
    """A broken twin: its gradient flags stay on the batch."""

    def compute_embeddings(self, data, **kwargs):
        self.adapt_input(data)
        return super().compute_embeddings(data)


def check_embeddings(model) -> None:
    batch = salt()
    batch.energy = torch.full((2, 1), 3.0, dtype=torch.float64)
    batch.mark_results_fresh(model, frozenset({"energy"}))
    before = batch.to_dict()
    lists, active = list(batch.pair_lists), copy.copy(model.model_config.active_outputs)
    assert model.compute_embeddings(batch) is batch
    new = batch.to_dict().keys() - before.keys()
    assert new == {"node_embeddings", "graph_embeddings"}
    assert all(batch[name] is tensor for name, tensor in before.items())
    assert not any(tensor.requires_grad for _, tensor in batch)
    assert all(one is other for one, other in zip(batch.pair_lists, lists, strict=True))
    assert batch.results_fresh(model, frozenset({"energy"}))
    assert model.model_config.active_outputs == active
    (width,) = model.embedding_shapes["node_embeddings"]
    assert batch.node_embeddings.shape == (10, width)
    assert batch.graph_embeddings.shape == (2, width)
    assert bool(batch.node_embeddings.isfinite().all())
    with torch.inference_mode():
        again = salt()
        model.compute_embeddings(again)
    assert torch.equal(again.node_embeddings, batch.node_embeddings)
    (again.node_embeddings * torch.ones(width, dtype=again.node_embeddings.dtype, requires_grad=True)).sum().backward()


@pytest.mark.parametrize("make", KINDS.values())
def test_embeddings_are_all_that_changes(make) -> None:
    check_embeddings(make())


def test_the_broken_twin_leaves_more_behind() -> None:
    with pytest.raises(AssertionError):
        check_embeddings(Careless(build_demo_model(num_atom_types=20, hidden_dim=8).model))


@pytest.mark.chgnet
def test_embeddings_do_not_hang_on_the_neighbours_in_a_batch() -> None:
    model, batch = CHGNetWrapper.from_checkpoint(dtype=torch.float64), salt()
    model.compute_embeddings(batch)
    alone = Batch.from_data_list([AtomicData.from_atoms(bulk("NaCl", "rocksalt", a=5.7), dtype=torch.float64)])
    compute_neighbors(alone, 6.0)
    model.compute_embeddings(alone)
    torch.testing.assert_close(alone.node_embeddings, batch.node_embeddings[:2], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(alone.graph_embeddings, batch.graph_embeddings[:1], rtol=1e-10, atol=1e-10)
    with_outputs = CHGNetWrapper.from_checkpoint(dtype=torch.float64)
    with_outputs.model_config.active_outputs = {"energy", "node_embeddings"}
    assert torch.equal(with_outputs(salt())["node_embeddings"], batch.node_embeddings)


@pytest.mark.parametrize("as_state_dict", [False, True])
@pytest.mark.parametrize("make", KINDS.values())
def test_what_is_exported_comes_back_with_equal_bits(make, as_state_dict: bool, tmp_path: Path) -> None:
    model, path = make().eval(), tmp_path / "model.pt"
    model.export_model(path, as_state_dict=as_state_dict)
    with zipfile.ZipFile(path) as archive:
        pickled = archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))
    called = {str(value) for code, value, _ in pickletools.genops(pickled) if code.name == "GLOBAL"}
    known = ("collections OrderedDict", "torch FloatStorage", "torch DoubleStorage", "torch._utils _rebuild_tensor_v2")
    assert called <= set(known)
    options = {} if isinstance(model, DemoModelWrapper) else {"dtype": model.dtype}
    loaded = type(model).from_checkpoint(path, **options).eval()
    model.model_config.active_outputs = loaded.model_config.active_outputs = set(model.model_config.outputs)
    expected, found = model(salt()), loaded(salt())
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert loaded.model_card.weights_digest == f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


@pytest.mark.chgnet
def test_the_package_reads_what_chgnet_exports(tmp_path: Path) -> None:
    package = pytest.importorskip("chgnet.model.model")
    model = CHGNetWrapper.from_checkpoint("r2scan")
    model.export_model(tmp_path / "whole.pt")
    theirs = package.CHGNet.from_file(str(tmp_path / "whole.pt"))
    model.export_model(tmp_path / "state.pt", as_state_dict=True)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    theirs.load_state_dict(state)  # strict
    assert torch.equal(theirs.state_dict()["site_wise.weight"], state["site_wise.weight"])
    CHGNetWrapper(theirs).export_model(tmp_path / "again.pt")
    reloaded = CHGNetWrapper.from_checkpoint(tmp_path / "again.pt")
    assert torch.equal(reloaded(salt())["energy"], model(salt())["energy"])


@pytest.mark.chgnet
def test_parameters_without_cutoffs_are_refused(tmp_path: Path) -> None:
    """The shipped versions differ in the cutoff, which no tensor tells."""
    state, _ = CHGNetWrapper.from_checkpoint("0.2.0").model.checkpoint
    torch.save(state, tmp_path / "bare.pt")
    with pytest.raises(InputError, match=r"do not say which cutoffs.*`export_model`"):
        CHGNetWrapper.from_checkpoint(tmp_path / "bare.pt")


def test_a_file_that_can_not_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="can not be written: No such file or directory"):
        build_demo_model(hidden_dim=8).export_model(tmp_path / "absent" / "model.pt")
    with pytest.raises(ContractError, match="would run code"):
        write_tensor_file(tmp_path / "code.pt", {"model": Careless})
    assert not (tmp_path / "code.pt").exists()


def test_a_formula_is_not_exported() -> None:
    with pytest.raises(NotAvailableError, match="LennardJonesModelWrapper can not be exported"):
        LennardJonesModelWrapper(1.0, 1.0, 2.5).export_model(Path("model.pt"))
