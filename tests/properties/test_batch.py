"""Random sequences of operations on a Batch against a list of dictionaries, one per system; and twins that fail it."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from athanor.data import AtomicData, Batch
from athanor.data.fields import FIELDS

System = dict[str, Any]
"""Name -> tensor of one system; ``pairs`` is its sorted list of (i, j, shift) or absent."""
ALWAYS = ("atomic_numbers", "positions", "atomic_masses", "velocities", "atom_categories")


class Model:
    """A Batch, and what it should hold."""

    def __init__(self, cls: type[Batch], seed: int) -> None:
        self.cls = cls
        self.generator = torch.Generator().manual_seed(seed)
        items = [self.new_item() for _ in range(3)]
        self.batch = cls.from_data_list(items)
        self.systems = [dict(item) for item in items]

    def random(self, *shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=self.generator)

    def integer(self, low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=self.generator))

    def new_item(self, **fields: torch.Tensor) -> AtomicData:
        atoms = self.integer(1, 5)
        numbers = torch.randint(1, 90, (atoms,), generator=self.generator)
        if self.integer(0, 2):
            fields["energy"] = self.random(1, 1)
        return AtomicData(
            atomic_numbers=numbers,
            positions=self.random(atoms, 3),
            cell=torch.eye(3)[None] * (5 + self.integer(0, 5)),
            pbc=torch.ones(1, 3, dtype=torch.bool),
            system_id=torch.tensor([[self.integer(0, 1000)]]),
            **fields,
        )

    # operations
    def select(self) -> None:
        chosen = [self.integer(-len(self.systems), len(self.systems)) for _ in range(self.integer(1, 5))]
        forms: list[Any] = [chosen, torch.tensor(chosen), slice(None, None, -1) if len(chosen) > 3 else chosen]
        form = forms[self.integer(0, 3)]
        if isinstance(form, slice):
            self.batch = self.batch.index_select(slice(0, None, 2))
            self.systems = self.systems[::2]
            return
        self.batch = self.batch.index_select(form)
        self.systems = [dict(self.systems[i]) for i in chosen]

    def mask(self) -> None:
        keep = torch.rand(len(self.systems), generator=self.generator) > 0.4
        keep[self.integer(0, len(self.systems))] = True
        self.batch = self.batch[keep]
        self.systems = [system for system, kept in zip(self.systems, keep.tolist(), strict=True) if kept]

    def append(self) -> None:
        items = [self.new_item() for _ in range(self.integer(1, 3))]
        if self.integer(0, 2):
            for item in items:
                item.add_node_property("colour", self.random(item.num_nodes, 2))
        other = self.cls.from_data_list(items)
        before = other.clone()
        self.batch.append(other)
        assert all(torch.equal(before[name], other[name]) or name == "energy" for name, _ in other)
        self.systems += [dict(item) for item in items]

    def assign(self) -> None:
        counts = self.batch.num_nodes_list
        forces = self.random(sum(counts), 3)
        self.batch.forces = forces
        for system, part in zip(self.systems, forces.split(counts), strict=True):
            system["forces"] = part

    def add_key(self) -> None:
        values = [self.random(1, 2) for _ in self.systems]
        self.batch.add_key("mark", values, level="system", overwrite=True)
        for system, value in zip(self.systems, values, strict=True):
            system["mark"] = value

    def assign_pairs(self) -> None:
        pairs, shifts = [], []
        for start, system in zip(self.batch.batch_ptr.tolist(), self.systems, strict=False):
            atoms = len(system["positions"])
            found = sorted(
                {
                    (self.integer(0, atoms), self.integer(0, atoms), tuple(self.integer(-2, 3) for _ in range(3)))
                    for _ in range(self.integer(0, 6))
                }
            )
            system["pairs"] = found
            pairs += [(start + i, start + j) for i, j, _ in found]
            shifts += [shift for _, _, shift in found]
        order = torch.randperm(len(pairs), generator=self.generator)
        self.batch.neighbor_list = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2)[order]
        self.batch.neighbor_list_shifts = torch.tensor(shifts, dtype=torch.int64).reshape(-1, 3)[order]

    def clone(self) -> None:
        old, self.batch = self.batch, self.batch.clone()
        old.positions.zero_()

    def round_trip(self) -> None:
        self.batch = self.cls.from_data_list(self.batch.to_data_list())

    def pickle(self) -> None:
        self.batch = pickle.loads(pickle.dumps(self.batch))

    def check(self) -> None:
        batch = self.batch
        assert len(batch) == len(self.systems)
        assert batch.num_nodes_list == [len(system["positions"]) for system in self.systems]
        assert batch.batch_idx.tolist() == [b for b, n in enumerate(batch.num_nodes_list) for _ in range(n)]
        assert batch.batch_idx.dtype == torch.int64
        assert batch.batch_ptr.dtype == torch.int32
        batch.debug()
        for number, system in enumerate(self.systems):
            data = batch[number]
            found = dict(data)
            pairs = found.pop("neighbor_list", None)
            shifts = found.pop("neighbor_list_shifts", None)
            expected = {name: value for name, value in system.items() if name != "pairs"}
            assert found.keys() == expected.keys(), f"fields: {found.keys() ^ expected.keys()}"
            for name, value in expected.items():
                assert torch.equal(found[name], value), name
                assert found[name].dtype == value.dtype
            assert (pairs is None) == ("pairs" not in system), "a list of pairs is lost or invented"
            if pairs is not None:
                rows = zip(pairs.tolist(), shifts.tolist(), strict=True)
                assert sorted((i, j, tuple(shift)) for (i, j), shift in rows) == system["pairs"], "other pairs"


OPERATIONS = ("select", "mask", "append", "assign", "add_key", "assign_pairs", "clone", "round_trip", "pickle")


def property_of(cls: type[Batch]) -> Callable[[], None]:
    @settings(
        max_examples=40,
        deadline=None,
        derandomize=True,
        database=None,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(st.sampled_from(OPERATIONS), min_size=1, max_size=8), st.integers(0, 2**31))
    def check(operations: list[str], seed: int) -> None:
        model = Model(cls, seed)
        model.check()
        for operation in operations:
            getattr(model, operation)()
            model.check()

    return check


class DropsKeyOnAppend(Batch):
    """Keeps only what both batches have, as if no policy were written."""

    def append(self, other: Batch) -> None:
        missing = [name for name, _ in self if name not in other and name not in FIELDS]
        super().append(other)
        for name in missing:
            del self[name]


class ForgetsPairs(Batch):
    """Loses the list when systems are selected."""

    def index_select(self, idx: Any) -> Batch:
        return super().index_select(idx).without_pairs()


class SharesOnClone(Batch):
    """A clone that looks at the same tensors."""

    def clone(self) -> Batch:
        return self.to(self.device)


class WrongOffsets(Batch):
    """Reads pairs back without counting from the system's first atom."""

    def get_data(self, idx: int) -> AtomicData:
        data = super().get_data(idx)
        if data.neighbor_list is not None:
            data.neighbor_list = data.neighbor_list + int(self.batch_ptr[idx])
        return data


def test_random_operations() -> None:
    property_of(Batch)()


@pytest.mark.parametrize(
    ("twin", "complaint"),
    [
        (DropsKeyOnAppend, "fields: {'(mark|colour|forces)'}"),
        (ForgetsPairs, "a list of pairs is lost"),
        (SharesOnClone, "positions"),
        (WrongOffsets, "other pairs"),
    ],
)
def test_broken_twin_is_caught(twin: type[Batch], complaint: str) -> None:
    with pytest.raises(AssertionError, match=complaint):
        property_of(twin)()
