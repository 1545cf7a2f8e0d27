"""AIMNet2Wrapper without aimnet: what is said then, and what is refused before anything is loaded."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from athanor.errors import ContractError, InputError, OptionalDependencyError
from athanor.models import AIMNet2Wrapper


class Small(nn.Module):
    """Has what is read of a network."""

    num_charge_channels = 2

    def __init__(self, **metadata: Any) -> None:
        super().__init__()
        self.aev = nn.ParameterDict({"rc_s": torch.tensor(4.5), "rc_v": torch.tensor(4.0)}).requires_grad_(False)
        self.afv = nn.Embedding(9, 2)
        self.mlps = nn.ModuleList([nn.Sequential(nn.Linear(2, 7), nn.GELU())])
        self.outputs = nn.ModuleDict()
        with torch.no_grad():
            self.afv.weight[[2, 3, 4, 5]] = float("nan")
        self.metadata = metadata


def test_what_a_network_says_about_itself() -> None:
    model = AIMNet2Wrapper(
        Small(needs_coulomb=True, needs_dispersion=True, d3_params={"a1": 0.4, "a2": 4.0, "s8": 0.9})
    )
    assert (model.cutoff, model.elements) == (4.5, {1, 6, 7, 8})
    assert model.embedding_shapes == {"graph_embeddings": (7,), "node_embeddings": (7,)}
    assert "spin_charges" in model.model_config.outputs
    assert model.model_config.optional_inputs == {"charge", "spin"}
    assert model.needs_coulomb
    assert model.d3_parameters == {"a1": 0.4, "a2": 4.0, "s8": 0.9, "s6": 1.0}
    assert not AIMNet2Wrapper(Small()).d3_parameters


def test_training_and_freezing() -> None:
    assert AIMNet2Wrapper(Small()).model.afv.weight.requires_grad
    assert not AIMNet2Wrapper(Small(), train=False).model.afv.weight.requires_grad
    trained = AIMNet2Wrapper(Small(), train=True).model
    assert trained.afv.weight.requires_grad
    assert not trained.aev["rc_s"].requires_grad
    with pytest.raises(InputError, match="can not be trained"):
        AIMNet2Wrapper(Small(), train=True, compile_model=True)


def test_what_is_no_network_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match="lacks what is read of an AIMNet2 network"):
        AIMNet2Wrapper(nn.Linear(2, 2))
    with pytest.raises(InputError, match=r"first format.*`aimnet convert"):
        AIMNet2Wrapper.from_checkpoint(tmp_path / "old.jpt", trust=True)
    with pytest.raises(TypeError, match="trusted"):
        AIMNet2Wrapper.from_checkpoint(tmp_path / "new.pt", trusted=True)


def test_the_package_is_named_where_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "aimnet", None)
    with pytest.raises(OptionalDependencyError, match=r"AIMNet2Wrapper needs .*athanor-md\[aimnet2\]"):
        AIMNet2Wrapper.from_checkpoint(tmp_path / "new.pt")
