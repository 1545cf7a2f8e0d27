"""A charge or spin that only some systems of a batch were given: what went in comes out, and models read 0 and 1."""

from __future__ import annotations

import pickle
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from ase import Atoms
from ase.io import read
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import athanor
from athanor.data import AtomicData, Batch
from athanor.data._part import Part
from athanor.data.fields import FIELDS
from athanor.dynamics import NVE
from athanor.dynamics.hooks import SnapshotHook
from athanor.errors import InputError
from athanor.models.base import BaseModelMixin
from athanor.models.lj import LennardJonesModelWrapper
from athanor.neighbors import compute_neighbors
from athanor.sinks import HostMemory, ZarrData
from athanor.testing.dynamics_contract import argon_crystal, argon_model, with_neighbor_hooks

Labels = dict[str, float]
OLD_DEFAULTS = {"charge": 0.0, "spin": 1.0}
PROFILE = settings(
    max_examples=10, deadline=None, derandomize=True, database=None, suppress_health_check=[*HealthCheck]
)
LABELS = st.fixed_dictionaries(
    {}, optional={"charge": st.integers(-3, 3).map(float), "spin": st.integers(1, 5).map(float)}
)
MIXED = [{"charge": -1.0, "spin": 2.0}, {}, {"spin": 3.0}, {"charge": 0.0}]


def system(labels: Labels, seed: int = 0) -> AtomicData:
    data = argon_crystal(1, seed)
    for name, value in labels.items():
        setattr(data, name, torch.tensor([[value]], dtype=torch.float64))
    return data


def mixed() -> list[AtomicData]:
    return [system(labels, number) for number, labels in enumerate(MIXED)]


def labels_of(data: AtomicData | Atoms) -> Labels:
    if isinstance(data, Atoms):
        return {name: data.info[name] for name in OLD_DEFAULTS if name in data.info}
    return {name: float(data[name]) for name in OLD_DEFAULTS if name in data}


def appended(items: Sequence[AtomicData]) -> list[AtomicData]:
    batch = Batch.from_data_list(items[:1])
    for item in items[1:]:
        batch.append_data([item])
    return batch.to_data_list()


def replaced(items: Sequence[AtomicData]) -> list[AtomicData]:
    batch = Batch.from_data_list([items[-1]] * len(items))
    for number, item in enumerate(items):
        batch.replace_systems(number, Batch.from_data_list([item]))
    return batch.to_data_list()


def through_a_part(items: Sequence[AtomicData]) -> list[AtomicData]:
    batch = Batch.from_data_list(items)
    part = Part(batch, torch.arange(len(items)) % 2 == 0)
    part.read_again()
    part.batch.positions = part.batch.positions + 0.1
    part.write_back()
    return batch.to_data_list()


def kept(make: Callable[[Path], Any]) -> Callable[[Sequence[AtomicData]], list[AtomicData]]:
    """All in one frame, and each in a frame of its own."""

    def keep(items: Sequence[AtomicData]) -> list[AtomicData]:
        with tempfile.TemporaryDirectory() as folder:
            whole, one_by_one = make(Path(folder) / "whole"), make(Path(folder) / "frames")
            whole.write(Batch.from_data_list(items))
            for item in items:
                one_by_one.write(Batch.from_data_list([item]))
            found, again = (sink.read().to_data_list() for sink in (whole, one_by_one))
            for sink in (whole, one_by_one):
                getattr(sink, "close", lambda: None)()
        assert [labels_of(data) for data in found] == [labels_of(data) for data in again]
        return found

    return keep


def run(items: Sequence[AtomicData]) -> list[AtomicData]:
    """Two of the systems stand still; frames are taken of all."""
    batch = Batch.from_data_list(items)
    batch.status = torch.arange(len(items))[:, None] % 2 * 5
    memory = HostMemory(100)
    engine = with_neighbor_hooks(NVE(argon_model(), dt=1.0))
    engine.register_hook(SnapshotHook(memory))
    engine.run(batch, 2)
    frames = memory.read().to_data_list()
    for data in frames:
        assert labels_of(data) == labels_of(items[int(data.system_id)])
    return batch.to_data_list()


WAYS: dict[str, Callable[[Sequence[AtomicData]], Sequence[AtomicData | Atoms]]] = {
    "a batch": lambda items: Batch.from_data_list(items).to_data_list(),
    "get_data": lambda items: [Batch.from_data_list(items)[number] for number in range(len(items))],
    "append": appended,
    "replace_systems": replaced,
    "selection": lambda items: Batch.from_data_list(items)[::-1][::-1].to_data_list(),
    "copies": lambda items: pickle.loads(pickle.dumps(Batch.from_data_list(items).clone())).to_data_list(),
    "another batch": lambda items: Batch.from_data_list(Batch.from_data_list(items).to_data_list()).to_data_list(),
    "a part": through_a_part,
    "HostMemory": kept(lambda path: HostMemory(100)),
    "ZarrData": kept(ZarrData),
    "to_atoms": lambda items: Batch.from_data_list(items).to_atoms(),
    "from_atoms": lambda items: [AtomicData.from_atoms(atoms) for atoms in Batch.from_data_list(items).to_atoms()],
}


@pytest.mark.parametrize("way", WAYS)
@PROFILE
@given(chosen=st.lists(LABELS, min_size=2, max_size=4))
def test_what_went_in_comes_out(way: str, chosen: list[Labels]) -> None:
    found = WAYS[way]([system(labels, number) for number, labels in enumerate(chosen)])
    assert [labels_of(data) for data in found] == chosen


def test_an_engine_and_its_frames_keep_them() -> None:
    assert [labels_of(data) for data in run(mixed())] == MIXED


@pytest.mark.parametrize("way", [*WAYS, "an engine"])
def test_the_old_defaults_would_be_noticed(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The twin that fills what a system lacks with 0 and 1."""
    fill_with_old_defaults(monkeypatch)
    with pytest.raises(AssertionError):
        assert [labels_of(data) for data in {**WAYS, "an engine": run}[way](mixed())] == MIXED


def fill_with_old_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in OLD_DEFAULTS.items():
        monkeypatch.setitem(FIELDS, name, replace(FIELDS[name], default=value, assumed=None))


def test_runs_give_back_what_came(tmp_path: Path) -> None:
    structures, model = [data.to_atoms() for data in mixed()], argon_model()
    relaxed = athanor.relax(structures, model, max_steps=3, every=1, out=tmp_path / "relax", silence=["velocities"])
    heated = athanor.md(
        structures, model, steps=2, temperature=5, every=1, out=tmp_path / "md", silence=["small-cell", "start"]
    )
    evaluated = athanor.evaluate(structures, model, out=tmp_path / "evaluated.extxyz")
    for result in (relaxed, heated, evaluated):
        assert result.failed == []
        assert [labels_of(atoms) for atoms in result.structures] == MIXED
    for path in ("relax/final.extxyz", "md/final.extxyz", "evaluated.extxyz"):
        assert [labels_of(atoms) for atoms in read(tmp_path / path, ":")] == MIXED
    for name in ("relax", "md"):
        frames = athanor.open(tmp_path / name).frames(step=1)
        assert [labels_of(data) for data in frames.to_data_list()] == MIXED


class Reads(LennardJonesModelWrapper):
    """Notes the charge and spin that it is given, as inputs and as fields of the data."""

    def __init__(self, kind: str = "optional_inputs") -> None:
        super().__init__(0.0104, 3.4, 8.5)
        self.model_config = self.model_config.model_copy(update={kind: frozenset(OLD_DEFAULTS)})
        self.seen: list[dict[str, list[float]]] = []

    def forward(self, data: Any, **kwargs: Any) -> Any:
        inputs = BaseModelMixin.adapt_input(self, data)
        for found in (inputs, data):
            self.seen.append({name: found[name].flatten().tolist() for name in OLD_DEFAULTS if name in found})
        return super().forward(data, **kwargs)


GIVEN_TO_MODELS = {"charge": [-1.0, 0.0, 0.0, 0.0], "spin": [2.0, 1.0, 3.0, 1.0]}


def seen_by(model: Reads) -> list[dict[str, list[float]]]:
    batch = Batch.from_data_list(mixed())
    compute_neighbors(batch, config=model.model_config.neighbor_config)
    model(batch)
    with_neighbor_hooks(NVE(model, dt=1.0)).run(batch, 1)
    assert [labels_of(data) for data in batch.to_data_list()] == MIXED  # what is assumed stays with the model
    outside = BaseModelMixin.adapt_input(model, batch)
    return [*model.seen, {name: outside[name].flatten().tolist() for name in OLD_DEFAULTS}]


@pytest.mark.parametrize("kind", ["required_inputs", "optional_inputs"])
def test_a_model_reads_what_is_assumed(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = seen_by(Reads(kind))
    assert len(found) > 4
    assert all(seen == GIVEN_TO_MODELS for seen in found)
    for name in OLD_DEFAULTS:  # the twin that hands out what the batch holds
        monkeypatch.setitem(FIELDS, name, replace(FIELDS[name], assumed=None))
    assert all(seen != GIVEN_TO_MODELS for seen in seen_by(Reads(kind)))


def test_a_structure_that_says_nan_has_no_label() -> None:
    data = system({"charge": float("nan"), "spin": 2.0})
    assert data.shallow_view().charge.tolist() == [[0.0]]
    assert data.to_atoms().info.keys() & OLD_DEFAULTS == {"spin"}
    atoms = data.to_atoms()
    atoms.info["charge"] = float("nan")
    assert labels_of(AtomicData.from_atoms(atoms)) == {"spin": 2.0}
    Batch.from_data_list([data, data]).debug()
    with pytest.raises(InputError, match=r"`charge` of .* is inf"):
        Batch.from_data_list([system({"charge": float("inf")})])


def test_a_view_shares_labels_that_all_have() -> None:
    batch = Batch.from_data_list([system(MIXED[0]), system(MIXED[0])])
    view = batch.shallow_view()
    assert view.charge is batch.charge
    assert view.spin is batch.spin
    assert batch[:1].ensure_field("charge").tolist() == [[-1.0]]
    plain = Batch.from_data_list([system({})])
    assert (float(plain.ensure_field("charge")), float(plain.ensure_field("spin"))) == (0.0, 1.0)


def results_stay_fresh_in_a_part() -> bool:
    batch = Batch.from_data_list(mixed())
    part = Part(batch, torch.tensor([True, True, False, False]))
    model = argon_model()
    part.batch.mark_results_fresh(model, ["energy"])
    part.read_again()
    fresh = part.batch.results_fresh(model, ["energy"])
    batch.charge[1] = 1.0
    part.read_again()
    assert not part.batch.results_fresh(model, ["energy"])
    assert part.batch.charge.tolist() == [[-1.0], [1.0]]
    return fresh


def test_a_part_that_looks_again_keeps_results_of_systems_without_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    """NaN differs from itself: compared so, labels would be written again, and results be stale after every hook."""
    assert results_stay_fresh_in_a_part()
    monkeypatch.setattr("athanor.data._part.same_tensor", torch.equal)
    assert not results_stay_fresh_in_a_part()


def test_a_store_of_before_is_read_and_written_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What older versions filled is there for good; what joins later is kept as it came."""
    with monkeypatch.context() as before:
        fill_with_old_defaults(before)
        with ZarrData(tmp_path) as sink:
            sink.write(Batch.from_data_list([system(MIXED[0]), system({})]))
    for _ in range(2):  # committed rows, and rows moved into the arrays
        with ZarrData(tmp_path) as sink:
            sink.write(Batch.from_data_list([system({}), system({"spin": 3.0})]))
            sink.write(Batch.from_data_list([system({})]))
    found = [labels_of(data) for data in ZarrData(tmp_path, mode="r").read().to_data_list()]
    assert found == [MIXED[0], OLD_DEFAULTS, *[{}, {"spin": 3.0}, {}] * 2]


def test_a_label_may_join_a_store_later(tmp_path: Path) -> None:
    with ZarrData(tmp_path) as sink:
        for labels in ({}, MIXED[0], {}):
            sink.write(Batch.from_data_list([system(labels)]))
    found = ZarrData(tmp_path, mode="r").read().to_data_list()
    assert [labels_of(data) for data in found] == [{}, MIXED[0], {}]
