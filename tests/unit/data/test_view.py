"""What models are given: a view that shares tensors and pointers, and from which nothing comes back."""

from __future__ import annotations

import pickle
import warnings

import pytest
import torch

from athanor.data.atomic_data import AtomicData
from athanor.data.batch import Batch
from athanor.data.fields import FieldSpec
from athanor.errors import UnknownFieldError
from athanor.neighbors import compute_neighbors
from athanor.testing.systems import standard_systems


@pytest.fixture
def batch() -> Batch:
    systems = standard_systems()
    batch = Batch.from_data_list([systems["left-handed"], systems["tiny cell"]])
    compute_neighbors(batch, 4.0)
    batch.register_field(FieldSpec("weights", "edge"))
    batch["weights"] = torch.ones(batch.num_edges)
    return batch


def test_it_shares_tensors_pointers_and_pairs(batch: Batch) -> None:
    view = batch.shallow_view()
    assert isinstance(view, Batch)
    assert type(view).__name__ == "Batch"
    assert repr(view) == repr(batch)
    assert view.to_dict().keys() == batch.to_dict().keys()
    for name, tensor in batch:
        assert view[name].data_ptr() == tensor.data_ptr()
        assert (view[name] is tensor) is (name not in ("positions", "cell"))
    assert view.pair_list is batch.pair_list
    for name in ("batch_idx", "batch_ptr", "neighbor_list", "shifts"):
        assert torch.equal(getattr(view, name), getattr(batch, name))
    for name in ("batch_idx", "batch_ptr", "neighbor_list"):
        assert getattr(view, name) is getattr(batch, name)


def test_pointers_are_made_once_for_all_views() -> None:
    batch = Batch.from_data_list([standard_systems()["cluster"]])
    with torch.inference_mode():
        pointers = [getattr(batch.shallow_view(), name) for name in ("batch_idx", "batch_ptr")]
    for name, tensor in zip(("batch_idx", "batch_ptr"), pointers, strict=True):
        assert getattr(batch, name) is tensor
        assert not tensor.is_inference()


def test_flags_do_not_come_back(batch: Batch) -> None:
    view = batch.shallow_view(("positions", "velocities", "charges"))
    view.positions.requires_grad_(True)
    view.velocities.requires_grad_(True)
    assert not batch.positions.requires_grad
    assert not batch.velocities.requires_grad
    again = view.shallow_view()
    assert again.positions is view.positions
    assert type(again) is type(view)


def test_a_graph_stays(batch: Batch) -> None:
    leaf = batch.positions.clone().requires_grad_(True)
    batch.positions = leaf * 1.0
    view = batch.shallow_view()
    assert view.positions is batch.positions
    view.positions.sum().backward()
    assert float(leaf.grad.min()) == 1.0


def test_anything_may_be_assigned_and_nothing_comes_back(batch: Batch) -> None:
    before, version, pairs = batch.to_dict(), batch.version, batch.pair_list
    view = batch.shallow_view()
    view["positions"] = view.positions.float()
    view.cell = view.cell.half()
    view.forces = torch.zeros(batch.num_nodes, 3)
    view.charges = torch.zeros(batch.num_nodes, 1, 1)
    view.energy = torch.zeros(2)
    view.my_features = torch.zeros(batch.num_nodes, 8)
    view.my_total = torch.zeros(2, 4)
    view.my_weights = torch.zeros(batch.num_edges)
    view.my_scale = torch.tensor(2.0)
    del view["velocities"]
    levels = [view.field_spec(f"my_{name}").level for name in ("features", "total", "weights", "scale")]
    assert levels == ["node", "system", "edge", "system"]
    with pytest.warns(UserWarning, match="`weights`, `my_weights` belonged to the pairs"):
        view.neighbor_list = view.neighbor_list[:2]
    assert (view.positions.dtype, view.cell.dtype, view.dtype) == (torch.float32, torch.float16, torch.float32)
    assert view.field_names("edge") == ()
    assert view.my_features.shape == (batch.num_nodes, 8)
    assert view.energy.shape == (2, 1), "one number a system stands in a column, as in a batch"
    assert batch.to_dict().keys() == before.keys()
    assert all(batch[name] is tensor for name, tensor in before.items())
    assert batch.pair_list is pairs
    assert batch.version == version


def test_what_engines_remember_and_groups_come_along(batch: Batch) -> None:
    batch.set_state_rows("engine", {"age": ("system", torch.zeros(2))})
    batch.add_group("bonds", [torch.tensor([[0, 1]]), torch.zeros(0, 2, dtype=torch.int64)])
    view = batch.shallow_view()
    assert view.state_rows("engine")["age"] is batch.state_rows("engine")["age"]
    assert torch.equal(view.group("bonds").atoms, batch.group("bonds").atoms)
    view.set_state_rows("engine", {"age": ("system", torch.ones(2))})
    view.drop_group("bonds")
    assert torch.equal(batch.state_rows("engine")["age"], torch.zeros(2))
    assert len(batch.group("bonds").atoms) == 1


def test_stamps_of_the_list_do_not_come_back(batch: Batch) -> None:
    view = batch.shallow_view()
    view._neighbor_list_cutoff = 2.0
    view.neighbor_list_radius = 3.0
    assert (view._neighbor_list_cutoff, view.neighbor_list_radius) == (2.0, 3.0)
    assert (batch._neighbor_list_cutoff, batch.neighbor_list_radius) == (4.0, 4.0)


def test_what_is_no_tensor_is_refused_as_in_a_batch(batch: Batch) -> None:
    view = batch.shallow_view()
    with pytest.raises(UnknownFieldError, match="num_nodes"):
        view.num_nodes = torch.ones(1)
    with pytest.raises(ValueError, match="positions"):
        view.positions = 3.0


def test_of_inference_tensors_it_holds_usable_ones() -> None:
    with torch.inference_mode():
        batch = Batch.from_data_list([standard_systems()["cluster"].clone()])
        view = batch.shallow_view()
    assert batch.positions.is_inference()
    assert torch.equal(view.positions.requires_grad_(True), batch.positions)


def test_pickled_it_is_a_batch(batch: Batch) -> None:
    loaded = pickle.loads(pickle.dumps(batch.shallow_view()))
    assert type(loaded) is Batch
    assert torch.equal(loaded.positions, batch.positions)


def test_subclasses_keep_their_methods(batch: Batch) -> None:
    class Mine(Batch):
        def atoms_twice(self) -> int:
            return 2 * self.num_nodes

    mine = Mine.from_data_list(batch.to_data_list())
    assert mine.shallow_view().atoms_twice() == 2 * batch.num_nodes


def test_a_view_of_one_structure() -> None:
    data = AtomicData(atomic_numbers=torch.tensor([8, 1]), positions=torch.eye(3)[:2])
    view = data.shallow_view()
    assert isinstance(view, AtomicData)
    assert view.atomic_numbers is data.atomic_numbers
    view.positions.requires_grad_(True)
    view["positions"] = view.positions.double()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        view.anything = "text"
    view.energy = torch.zeros(1, 1)
    assert (data.positions.dtype, data.positions.requires_grad) == (torch.float32, False)
    assert "energy" not in data
    assert "anything" not in data
    with pytest.raises(ValueError, match="positions"):
        view.positions = "text"
    with pytest.raises(UnknownFieldError, match="num_nodes"):
        view.num_nodes = 3
    assert type(pickle.loads(pickle.dumps(view))) is AtomicData
