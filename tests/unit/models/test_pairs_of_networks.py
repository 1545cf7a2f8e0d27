"""Lists that wrappers of networks make of pairs: the nearest neighbours of each atom, and the angles at it."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch

from athanor._optional import OptionalDependency
from athanor.errors import OptionalDependencyError
from athanor.models import get
from athanor.models.mattersim.triples import triples
from athanor.models.orb.nearest import nearest


def random_pairs() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    centers = torch.randint(0, 9, (60,)).sort().values
    return centers[centers != 4], torch.rand(60)[centers != 4]  # atom 4 has none


@pytest.mark.parametrize("limit", [1, 3, 7])
def test_the_nearest_are_kept_in_order(limit: int) -> None:
    centers, lengths = random_pairs()
    kept = nearest(centers, lengths, limit, 9)
    assert kept is not None
    assert torch.equal(kept, kept.sort().values)
    for atom in range(9):
        mine = (centers == atom).nonzero().view(-1)
        expected = mine[lengths[mine].argsort()[:limit]]
        assert set(kept[centers[kept] == atom].tolist()) == set(expected.tolist())
    assert nearest(centers, lengths, 60, 9) is None


def test_of_equal_lengths_the_first_is_kept() -> None:
    kept = nearest(torch.zeros(4, dtype=torch.int64), torch.tensor([2.0, 1.0, 1.0, 1.0]), 2, 1)
    assert kept is not None
    assert kept.tolist() == [1, 2]


def test_angles_are_both_orders_of_two_short_pairs() -> None:
    centers, lengths = random_pairs()
    short = lengths < 0.6
    expected = {
        pair for atom in range(9) for pair in permutations(((centers == atom) & short).nonzero().view(-1).tolist(), 2)
    }
    found = triples(centers, short)
    assert len(found) == len(expected) > 50
    assert set(map(tuple, found.tolist())) == expected
    assert triples(centers, short & False).shape == (0, 2)


@pytest.mark.parametrize("name", ["orb-v3-conservative-inf-omat", "mattersim"])
def test_an_absent_package_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    extra = name.split("-")[0]
    package = OptionalDependency[extra.upper()].import_name
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(OptionalDependencyError, match=rf'pip install "athanor-md\[{extra}\]"'):
        get(name)
