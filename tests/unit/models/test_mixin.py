"""The interface of models: what is checked when, and what input and output go through."""

from __future__ import annotations

import warnings
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from athanor.data.atomic_data import AtomicData
from athanor.data.batch import Batch
from athanor.hooks import DynamicsStage, NeighborListHook
from athanor.models.base import BaseModelMixin, ModelCard, ModelConfig, NeighborConfig


class Potential(nn.Module):
    """A user's module: a spring to the origin."""

    def forward(self, positions, **kwargs):
        return {"energy": positions.square().sum().reshape(1)}


class Wrapper(Potential, BaseModelMixin):
    embedding_shapes: dict[str, tuple[int, ...]] = {}

    def __init__(self, **config: Any) -> None:
        super().__init__()
        self.model_config = ModelConfig(**config)

    def compute_embeddings(self, data, **kwargs):
        raise NotImplementedError

    def forward(self, data, **kwargs):
        return self.adapt_output(super().forward(**self.adapt_input(data)), data)


def molecule() -> AtomicData:
    return AtomicData(positions=torch.ones(2, 3), atomic_numbers=torch.tensor([1, 1]))


def test_a_missing_config_is_noticed_at_construction() -> None:
    class Forgetful(Wrapper):
        def __init__(self):
            nn.Module.__init__(self)

    class WrongKind(Wrapper):
        def __init__(self):
            nn.Module.__init__(self)
            self.model_config = {"outputs": {"energy"}}

    for kind in (Forgetful, WrongKind):
        with pytest.raises(TypeError, match=rf"{kind.__name__} has no `model_config`. Set `self.model_config"):
            kind()


def test_nothing_wraps_init_or_forward() -> None:
    assert "__init__" not in vars(BaseModelMixin)
    assert Wrapper.__init__.__qualname__ == "Wrapper.__init__"
    assert Wrapper.forward.__qualname__ == "Wrapper.forward"


@pytest.mark.parametrize("bases", [(nn.Module, BaseModelMixin), (BaseModelMixin, nn.Module)])
def test_a_call_hands_forward_a_view_in_any_order_of_bases(bases: tuple[type, ...]) -> None:
    def build(self) -> None:
        nn.Module.__init__(self)
        self.model_config = ModelConfig()

    members = {
        "__init__": build,
        "embedding_shapes": {},
        "compute_embeddings": lambda self, data: data,
        "forward": lambda self, data, factor=1: (data, factor),
    }
    model = type("Wrapped", bases, members)()
    batch = Batch.from_data_list([molecule()])
    for seen, factor in (model(batch, 2), model(data=batch, factor=2), model(batch, factor=2)):
        assert seen is not batch
        assert seen.atomic_numbers is batch.atomic_numbers
        assert factor == 2
    assert model("anything else") == ("anything else", 1)
    called = []
    model.register_forward_pre_hook(lambda module, args: called.append(args))
    model(batch)
    assert len(called) == 1


@pytest.mark.parametrize("missing", ["embedding_shapes", "compute_embeddings"])
def test_abstract_members(missing: str) -> None:
    members = {"embedding_shapes": {}, "compute_embeddings": lambda self, data: data}
    del members[missing]
    with pytest.raises(TypeError, match=missing):
        type("Incomplete", (nn.Module, BaseModelMixin), members)()


def test_input_data_by_configuration() -> None:
    assert Wrapper().input_data() == {"positions", "atomic_numbers"}
    coo = Wrapper(neighbor_config=NeighborConfig(cutoff=5.0), needs_pbc=True, optional_inputs={"cell"})
    assert coo.input_data() == {"positions", "atomic_numbers", "neighbor_list", "pbc"}
    matrix = Wrapper(neighbor_config=NeighborConfig(cutoff=5.0, format="matrix"), required_inputs={"charges"})
    assert matrix.input_data() == {"positions", "atomic_numbers", "neighbor_matrix", "num_neighbors", "charges"}


@pytest.mark.parametrize("single", [True, False])
def test_adapt_input_collects_and_switches_gradients_on(single: bool) -> None:
    data = molecule() if single else Batch.from_data_list([molecule()])
    model = Wrapper(outputs={"energy", "forces"}, autograd_outputs={"forces"}, optional_inputs={"velocities", "cell"})
    inputs = model.adapt_input(data)
    assert set(inputs) == {"positions", "atomic_numbers", "velocities"}
    assert inputs["positions"] is data.positions
    assert data.positions.requires_grad
    data.positions.requires_grad_(False)
    model.model_config.active_outputs = {"energy"}
    model.adapt_input(data)
    assert not data.positions.requires_grad
    model.model_config.gradient_keys = {"velocities"}
    model.adapt_input(data)
    assert data.velocities.requires_grad
    assert not data.positions.requires_grad


def test_missing_inputs_are_named() -> None:
    data = Batch.from_data_list([molecule()])
    with pytest.raises(KeyError, match=r"`charges` is missing from the Batch; Wrapper needs it. Set `data.charges`"):
        Wrapper(required_inputs={"charges"}).adapt_input(data)
    with pytest.raises(KeyError, match=r"`neighbor_list` is missing.*make_neighbor_hooks.*compute_neighbors"):
        Wrapper(neighbor_config=NeighborConfig(cutoff=5.0)).adapt_input(data)
    with pytest.raises(KeyError, match="charges"):
        Wrapper(gradient_keys={"charges"}).adapt_input(data)
    data = molecule()
    data.info = {"label": 3}
    with pytest.raises(TypeError, match="`info` is not a tensor"):
        Wrapper(gradient_keys={"info"}).adapt_input(data)


def test_adapt_output_prefills_sorts_and_shapes() -> None:
    model = Wrapper(outputs={"forces", "energy", "stress"}, active_outputs={"forces", "energy"})
    data = molecule()
    out = model.adapt_output({"energy": torch.ones(3), "stress": torch.ones(3, 3, 3)}, data)
    assert list(out) == ["energy", "forces"]
    assert out["energy"].shape == (3, 1)
    assert out["forces"] is None
    for raw in ([1, 2], torch.ones(2), None):
        assert dict(model.adapt_output(raw, data)) == {"energy": None, "forces": None}
    energy = torch.ones(2, 1, requires_grad=True)
    assert model.adapt_output({"energy": energy}, data)["energy"] is energy
    assert Wrapper()(molecule())["energy"].item() == 6.0


def test_unsupported_outputs_warn_once() -> None:
    model = Wrapper(outputs={"energy"})
    model.model_config.active_outputs = {"energy", "dipole"}
    with pytest.warns(UserWarning, match="Wrapper cannot compute dipole; it can compute energy. Remove"):
        assert model.output_data() == {"energy"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert model.output_data() == {"energy"}
    model.model_config.active_outputs = {"hessian"}
    with pytest.warns(UserWarning, match="hessian"):
        assert model.output_data() == set()


def test_set_config() -> None:
    model = Wrapper(outputs={"energy", "forces"})
    model.set_config("active_outputs", {"energy"})
    assert model.model_config.active_outputs == {"energy"}
    with pytest.raises(AttributeError, match="no field `active`"):
        model.set_config("active", {"energy"})


def test_make_neighbor_hooks() -> None:
    assert Wrapper().make_neighbor_hooks() == []
    model = Wrapper(neighbor_config=NeighborConfig(cutoff=5.0, skin=0.5))
    (hook,) = model.make_neighbor_hooks(max_neighbors=8, neighbor_list_method="cell_list")
    assert isinstance(hook, NeighborListHook)
    assert (hook.config.cutoff, hook.skin, hook.max_neighbors, hook.method) == (5.0, 0.5, 8, "cell_list")
    assert hook.stage is None
    assert hook.default_stage is DynamicsStage.BEFORE_COMPUTE


def test_repr_shows_the_configuration() -> None:
    text = repr(
        Wrapper(
            outputs={"forces", "energy"},
            active_outputs={"energy"},
            autograd_outputs={"forces"},
            required_inputs={"charges"},
            optional_inputs={"cell"},
            supports_pbc=True,
            neighbor_config=NeighborConfig(cutoff=5.5, half_list=True),
        )
    )
    for part in (
        "outputs=['energy', 'forces']",
        "active_outputs=['energy']",
        "autograd_outputs=['forces']",
        "required_inputs=['charges']",
        "optional_inputs=['cell']",
        "supports_pbc",
        "cutoff=5.5, coo, half_list",
    ):
        assert part in text
    assert "active_outputs" not in repr(Wrapper())
    unset = Wrapper()
    del unset.model_config
    assert "not set" in repr(unset)

    class Own(Wrapper):
        def extra_repr(self):
            return "mine"

    assert repr(Own()) == "Own(mine)"


def test_what_is_not_offered_says_so() -> None:
    model = Wrapper()
    with pytest.raises(NotImplementedError, match="Wrapper can not be exported"):
        model.export_model("file")
    with pytest.raises(NotImplementedError, match="output head"):
        model.add_output_head("dipole")
    with pytest.raises(TypeError):
        model + 3
    assert model.direct_derivative_keys() == set()
    assert model.distribution_spec() is None
    model.distributed_setup("context")
    assert model._dist_ctx == "context"
    model.distributed_teardown()
    assert model._dist_ctx is None
    assert model.model_card == ModelCard()


def test_asking_an_unfinished_wrapper_for_its_configuration_is_no_error() -> None:
    asked = []

    class Unfinished(nn.Module, BaseModelMixin):
        embedding_shapes: ClassVar[dict] = {}

        def __init__(self) -> None:
            super().__init__()
            asked.append((hasattr(self, "model_config"), getattr(self, "model_config", "none")))

        def compute_embeddings(self, data, **kwargs):
            return data

    with pytest.raises(TypeError, match="Unfinished has no `model_config`"):
        Unfinished()
    assert asked == [(False, "none")]
    assert not hasattr(Unfinished, "model_config")
