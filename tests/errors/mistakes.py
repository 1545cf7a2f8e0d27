"""What the tables of mistakes share: a row, its check, and small argon structures to make mistakes with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn

from athanor.data import AtomicData, Batch
from athanor.errors import AthanorError
from athanor.models.base import BaseModelMixin, ModelConfig
from athanor.models.lj import LennardJonesModelWrapper


class Mistake(NamedTuple):
    """One row: how a user makes the mistake, and what comes of it."""

    name: str
    make: Callable[[], object]
    error: type[Exception]
    words: str


Row = tuple[str, Callable[[], object], type[Exception], str]


def table(rows: Sequence[Row]) -> pytest.MarkDecorator:
    """Run a test once for each row, under the name of the mistake."""
    names = [row[0] for row in rows]
    assert len(set(names)) == len(names), "two rows have one name"
    return pytest.mark.parametrize("mistake", [Mistake(*row) for row in rows], ids=names)


def check(mistake: Mistake) -> None:
    """The mistake raises an exception of athanor's, in one paragraph, with the words of the row."""
    with pytest.raises(mistake.error, match=mistake.words) as caught:
        mistake.make()
    assert isinstance(caught.value, AthanorError), f"a raw {type(caught.value).__name__}"
    text = str(caught.value)
    assert text.endswith((".", "?")), text
    assert "\n" not in text
    assert len(text) < 600, text


def argon(count: int = 4, **fields: Any) -> AtomicData:
    """Argon atoms in a row 3.8 Å apart, in float64."""
    positions = torch.zeros(count, 3, dtype=torch.float64)
    positions[:, 0] = 3.8 * torch.arange(count, dtype=torch.float64)
    given = {"atomic_numbers": torch.full((count,), 18), "positions": positions, **fields}
    return AtomicData(**given)


def crystal(edge: float = 12.0, **fields: Any) -> AtomicData:
    """The same in a periodic cube."""
    cell = edge * torch.eye(3, dtype=torch.float64)[None]
    return argon(3, **{"cell": cell, "pbc": torch.tensor([[True, True, True]]), **fields})


def batch(count: int = 2) -> Batch:
    """Return a batch of crystals."""
    return Batch.from_data_list([crystal() for _ in range(count)])


def lennard_jones(**changes: Any) -> LennardJonesModelWrapper:
    """Return argon."""
    return LennardJonesModelWrapper(**{"epsilon": 0.0104, "sigma": 3.4, "cutoff": 5.0, **changes})


class Charged(nn.Module, BaseModelMixin):
    """A model that needs partial charges and has no stress; `output` is what it returns."""

    embedding_shapes: dict = {}

    def __init__(self, output: Any = None, needs: str = "charges") -> None:
        super().__init__()
        self.output = output
        self.model_config = ModelConfig(outputs={"energy", "forces"}, required_inputs={needs})

    def compute_embeddings(self, data: Any, **kwargs: Any) -> Any:
        return data

    def forward(self, data: Any, **kwargs: Any) -> Any:
        self.adapt_input(data)
        return self.output
