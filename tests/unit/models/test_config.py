"""ModelConfig: what is fixed, what may change, what is refused."""

from __future__ import annotations

import pytest

from athanor.errors import InputError
from athanor.models.base import ModelCard, ModelConfig, NeighborConfig

CAPABILITIES = ("outputs", "autograd_outputs", "autograd_inputs", "required_inputs", "optional_inputs")


def test_defaults() -> None:
    config = ModelConfig()
    assert config.outputs == frozenset({"energy"})
    assert config.autograd_inputs == frozenset({"positions"})
    assert config.active_outputs == {"energy"}
    assert config.gradient_keys == set()
    assert not config.needs_neighborlist
    assert ModelConfig(neighbor_config=NeighborConfig(cutoff=5.0)).needs_neighborlist


def test_active_outputs_are_all_outputs_unless_given() -> None:
    assert ModelConfig(outputs={"energy", "magnetic_moment"}).active_outputs == {"energy", "magnetic_moment"}
    assert ModelConfig(outputs={"energy", "forces"}, active_outputs=set()).active_outputs == set()
    config = ModelConfig(outputs={"energy", "forces"}, active_outputs={"energy"})
    config.active_outputs.add("forces")
    assert config.active_outputs == {"energy", "forces"}
    config.active_outputs = None
    assert config.active_outputs == {"energy", "forces"}


def test_two_configs_share_nothing() -> None:
    names = {"energy"}
    first, second = ModelConfig(active_outputs=names), ModelConfig(active_outputs=names)
    first.active_outputs.add("forces")
    first.gradient_keys.add("cell")
    assert second.active_outputs == {"energy"}
    assert second.gradient_keys == set()
    assert names == {"energy"}


@pytest.mark.parametrize("name", [*CAPABILITIES, "supports_pbc", "needs_pbc", "neighbor_config"])
def test_capabilities_are_fixed(name: str) -> None:
    config = ModelConfig(neighbor_config=NeighborConfig(cutoff=5.0))
    before = getattr(config, name)
    with pytest.raises(ValueError, match="frozen"):
        setattr(config, name, {"x"})
    assert getattr(config, name) == before
    if name in CAPABILITIES:
        with pytest.raises(AttributeError):
            before.add("x")


def test_unknown_names_are_refused() -> None:
    with pytest.raises(InputError, match="output"):
        ModelConfig(output={"energy"})
    with pytest.raises(ValueError, match="no_such_field"):
        ModelConfig().no_such_field = 1


def test_autograd_outputs_outside_outputs_warn() -> None:
    with pytest.warns(UserWarning, match=r"`autograd_outputs` names \['forces'\]"):
        ModelConfig(autograd_outputs={"forces"})


def test_json_round_trip() -> None:
    config = ModelConfig(
        outputs={"energy", "forces", "stress"},
        autograd_outputs={"forces"},
        autograd_inputs={"positions", "cell"},
        required_inputs={"charges"},
        optional_inputs={"cell", "mult"},
        supports_pbc=True,
        needs_pbc=True,
        neighbor_config=NeighborConfig(cutoff=5.0, format="matrix", half_list=True, skin=0.3),
        active_outputs={"energy"},
        gradient_keys={"cell"},
    )
    text = config.model_dump_json()
    assert ModelConfig.model_validate_json(text) == config
    assert text == ModelConfig.model_validate_json(text).model_dump_json(), "names are sorted"


def test_card_is_fixed_and_knows_nothing_by_itself() -> None:
    card = ModelCard()
    assert (card.elements, card.minimum_distance, card.batch_invariance) == (None, None, "unknown")
    with pytest.raises(AttributeError):
        card.name = "other"


def test_levels_of_outputs_are_those_of_the_table_and_belong_to_outputs() -> None:
    config = ModelConfig(
        outputs={"energy", "uncertainty", "spread"}, output_levels={"uncertainty": "atom", "spread": "system"}
    )
    assert config.output_levels == {"uncertainty": "node", "spread": "system"}
    assert ModelConfig(output_levels={"energy": "system"}).output_levels == {"energy": "system"}
    assert ModelConfig().output_levels == {}
    for levels, words in (
        ({"uncertainty": "node"}, r"names `uncertainty`, which is not in `outputs`"),
        ({"energy": "node"}, "names `energy`, which is system-level"),
        ({"energy": "molecule"}, "`energy` is given the level 'molecule'; levels are 'node'"),
        (["energy"], "`output_levels` of ModelConfig is"),
    ):
        with pytest.raises(InputError, match=words):
            ModelConfig(output_levels=levels)
