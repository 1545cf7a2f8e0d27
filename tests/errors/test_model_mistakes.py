"""Every usual mistake with models and neighbour lists, one row each: what is done, and what the user reads."""

from __future__ import annotations

import math
import sys
from typing import Any

import pytest

import athanor.models
from athanor.data import Batch
from athanor.errors import (
    ArgumentError,
    ContractError,
    InputError,
    MissingFieldError,
    OptionalDependencyError,
)
from athanor.hooks import NeighborListHook
from athanor.models.base import ModelConfig, NeighborConfig
from athanor.neighbors import compute_neighbors

from .mistakes import Charged, Mistake, argon, batch, check, lennard_jones, table

MODEL = lennard_jones()


def get(**changes: Any) -> Any:
    return athanor.models.get("lj", **{"epsilon": 0.01, "sigma": 3.4, "cutoff": 5.0, **changes})


def config(**values: Any) -> NeighborConfig:
    return NeighborConfig(**{"cutoff": 5.0, **values})


def nan_positions() -> Batch:
    moved = batch()
    moved.positions[4, 0] = math.nan
    return moved


def short_list() -> Any:
    found = batch()
    compute_neighbors(found, 3.0)
    return MODEL(found)


MODELS = [
    ("unknown", lambda: athanor.models.get("chgnett"), InputError, "no model `chgnett`. Did you mean `chgnet`"),
    ("no name", lambda: athanor.models.get(None), ArgumentError, "`name` is a NoneType; pass the name of a model"),
    ("no arguments", lambda: athanor.models.get("lj"), ArgumentError, "needs `epsilon`, `sigma`, `cutoff`. It takes"),
    ("misspelt", lambda: get(cutof=3.0), ArgumentError, "`cutof`. Did you mean `cutoff`.*It takes epsilon, sigma"),
    ("cutoff 0", lambda: get(cutoff=0), InputError, "`cutoff` is 0.0 Å; it must be finite and positive"),
    ("cutoff NaN", lambda: get(cutoff=math.nan), InputError, "`cutoff` is nan Å"),
    ("taper", lambda: get(switch_width=9.0), InputError, "9.0 Å, more than `cutoff` = 5.0 Å"),
    ("symbol", lambda: get(epsilon={"ar": 1.0}), InputError, "`ar` is not the symbol of an element. .*`Ar`"),
    ("number", lambda: get(epsilon={1.5: 1.0}), InputError, "`atomic number` is 1.5; give a whole number"),
    ("text", lambda: get(sigma="3.4 A"), InputError, "`sigma` is '3.4 A'; it must be a number"),
    ("checkpoint", lambda: athanor.models.get("chgnet", name="0.4.0"), InputError, "`0.4.0` is neither.*0.3.0, 0.2.0"),
    ("no class", lambda: MODEL.set_config("active", 1), AttributeError, "no field `active`; it has outputs"),
    ("option", lambda: ModelConfig(output={"energy"}), InputError, "ModelConfig has no `output`. Did you mean `output"),
    ("frozen", lambda: setattr(MODEL.model_config, "outputs", {"energy"}), InputError, "`outputs` .* frozen; make a n"),
    ("plus a number", lambda: MODEL + 3, ContractError, r"LennardJonesModelWrapper \+ int: only models are added"),
    ("number plus", lambda: 3 + MODEL, ContractError, "only models are added to models"),
    (
        "sum of half and full",
        lambda: MODEL + get(half_list=True),
        InputError,
        "asks for `half_list=True` and .*`half_list=False`",
    ),
    ("data", lambda: MODEL(argon()), ContractError, r"requires a Batch input, not AtomicData. Use `Batch.from_data_li"),
    ("no list", lambda: MODEL(batch()), MissingFieldError, "no neighbour list.*make_neighbor_hooks.*compute_neighbors"),
    ("short list", short_list, InputError, "searched to 3 Å; .* needs `cutoff` = 5 Å"),
    ("charges", lambda: Charged()(batch()), MissingFieldError, "`charges` is missing .*`data.charges`, one row per at"),
    ("element", lambda: listed(get(epsilon={"Ne": 1.0})), InputError, r"no parameters for Ar \(18\); it has "),
]


def listed(model: Any) -> Any:
    found = batch()
    compute_neighbors(found, 5.0)
    return model(found)


NEIGHBOURS = [
    ("no cutoff", lambda: compute_neighbors(batch()), InputError, r"A cutoff is needed: `compute_neighbors\(batch, 5"),
    ("cutoff 0", lambda: compute_neighbors(batch(), 0), InputError, "`cutoff` of NeighborConfig is 0; .*greater than"),
    ("cutoff < 0", lambda: config(cutoff=-1.0), InputError, "`cutoff` of NeighborConfig is -1.0; .*greater than 0"),
    ("cutoff NaN", lambda: config(cutoff=math.nan), InputError, "is nan; it should be a finite number"),
    ("cutoff assigned", lambda: setattr(config(), "cutoff", -3), InputError, "is -3; it should be greater than 0"),
    ("skin < 0", lambda: config(skin=-0.5), InputError, "`skin` of NeighborConfig is -0.5"),
    ("skin NaN", lambda: NeighborListHook(config(), skin=math.nan), InputError, "`skin` is nan Å; .*0.5 to 2 is usual"),
    ("skin of text", lambda: NeighborListHook(config(), skin="1 A"), InputError, "`skin` is '1 A' Å"),
    ("format", lambda: compute_neighbors(batch(), 5.0, format="list"), InputError, "is 'list'; .*'coo' or 'matrix'"),
    ("misspelt", lambda: NeighborConfig(cutof=5.0), InputError, "needs `cutoff`. .*no `cutof`. Did you mean `cutoff`"),
    ("width", lambda: compute_neighbors(batch(), 5.0, max_neighbors=-1), InputError, "`max_neighbors` is -1; give a w"),
    ("structure", lambda: compute_neighbors(argon(), 5.0), ArgumentError, "`batch` is a AtomicData; pass a Batch"),
    ("a number", lambda: compute_neighbors(batch(), config=5.0), ArgumentError, r"`config` is a float; .*NeighborConf"),
    ("a model", lambda: NeighborListHook(MODEL), ArgumentError, "`config` is a Lenn.*`model.model_config.neighbor_con"),
    ("NaN", lambda: compute_neighbors(nan_positions(), 5.0), InputError, r"system 1 are not finite: atom 1 \[nan"),
]


@table([*(("model: " + row[0], *row[1:]) for row in MODELS), *(("list: " + row[0], *row[1:]) for row in NEIGHBOURS)])
def test_mistakes_with_models_and_neighbours(mistake: Mistake) -> None:
    check(mistake)


def test_a_missing_package_names_what_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "chgnet", None)  # what Python keeps for a package that can not be imported
    with pytest.raises(OptionalDependencyError, match=r'chgnet needs .*Run `pip install "athanor-md\[chgnet\]"`'):
        athanor.models.get("chgnet")
