"""Everything of a batch as a tree of plain values and tensors, and back: what a checkpoint carries.

Beside the fields that is what rides on a batch without being one: rows of engines and hooks, groups of atoms, room, the
stored pair lists with their age and who asked for them, and which results are fresh. Counters of changes are left out:
they tell two moments of one object apart, and mean nothing to another one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np
import torch

from athanor.data._levels import LevelStorage, StateName
from athanor.data._pair_views import check_pair_list
from athanor.data._storage import BatchStorage
from athanor.data.atomic_data import AtomicData
from athanor.data.fields import LEVELS, FieldSpec, Level
from athanor.data.pair_list import TENSORS, PairList
from athanor.data.pair_request import PairRequest, PairUsage
from athanor.errors import InputError, in_words

AnyBatch = TypeVar("AnyBatch", bound=BatchStorage)
Tree = dict[str, Any]
_OF_LISTS = ("cutoff", "radius", "half", "min_width")
_OF_SPECS = ("level", "kind", "unit", "meaning", "default", "role", "assumed")


def tree_of(batch: BatchStorage) -> Tree:
    """Return the tree of a batch; its tensors are those of the batch, see `Batch.state_dict`."""
    lists, fresh, room = batch.pair_lists, batch.fresh_results(), batch._room
    edges = batch._edge if batch._edge.tensors else LevelStorage.empty(len(batch))
    edges_of = [place for place, pairs in enumerate(lists) if edges.tensors and pairs.row_ptr is batch._edge_rows_of]
    levels = {"node": batch._node, "edge": edges, "system": batch._system}
    return {
        "levels": {name: _tree_of_level(level) for name, level in levels.items()},
        "custom": {name: _tree_of_spec(spec) for name, spec in batch._custom.items()},
        "pair_lists": [_tree_of_list(pairs) for pairs in lists],
        "edges_of": edges_of[0] if edges_of else None,
        "assigned": dict(batch._assigned),
        "groups": {name: _tree_of_level(group) for name, group in batch._groups.items()},
        "room": None if room is None else dict(room.rows),
        "fresh": None if fresh is None else sorted(fresh[1]),
    }


def _tree_of_level(level: LevelStorage) -> Tree:
    state = [(key, name, tensor) for (key, name), tensor in level.state.items()]
    return {"counts": torch.from_numpy(level.counts), "fields": dict(level.tensors), "state": state}


def _tree_of_spec(spec: FieldSpec) -> Tree:
    dtype = None if spec.dtype is None else str(spec.dtype).removeprefix("torch.")
    return {name: getattr(spec, name) for name in _OF_SPECS} | {"shape": spec.shape, "dtype": dtype}


def _tree_of_list(pairs: PairList) -> Tree:
    usage = pairs.usage
    asked = {"requests": pairs.requests, "unrepeated": usage.unrepeated, "shorter": usage.shorter_requests}
    return {
        **{name: getattr(pairs, name) for name in (*TENSORS, *_OF_LISTS, "order")},
        **{
            name: [tuple(one) for one in (each if name == "requests" else sorted(each))] for name, each in asked.items()
        },
    }


def batch_of(
    cls: type[AnyBatch], tree: Tree, device: torch.device | None, model: Any, item_class: type[AtomicData]
) -> AnyBatch:
    """Inverse of `tree_of`, see `Batch.from_state_dict`."""
    try:
        return _batch_of(cls, tree, device, model, item_class)
    except InputError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError, ArithmeticError) as error:
        raise InputError(f"This is no state of a Batch: {in_words(error)}. Give what `state_dict` returned.") from error


def _batch_of(
    cls: type[AnyBatch], tree: Tree, device: torch.device | None, model: Any, item_class: type[AtomicData]
) -> AnyBatch:
    def move(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(device) if device is not None else tensor

    levels = {level: _level_of(tree["levels"][level], move) for level in LEVELS}
    if device is None:
        device = next((t.device for level in levels.values() for t in level.tensors.values()), torch.device("cpu"))
    custom = {name: _spec_of(name, entry) for name, entry in tree["custom"].items()}
    groups = {name: _level_of(entry, move) for name, entry in tree["groups"].items()}
    lists = tuple(_list_of(entry, move) for entry in tree["pair_lists"])
    systems = len(levels["node"].counts)
    if any(len(storage.counts) != systems for storage in (*levels.values(), *groups.values())):
        raise InputError("This is no state of a Batch: its levels hold different numbers of systems.")
    batch = cls._of(levels, custom, device, lists, item_class, groups)
    for level in LEVELS:
        for name, tensor in levels[level].tensors.items():
            batch.field_spec(name).check(tensor, levels[level].rows, owner=f"a Batch of {systems} systems")
    for pairs in lists:
        check_pair_list(batch, pairs)
    edges_of = tree["edges_of"]
    batch._edge_rows_of = None if edges_of is None else lists[edges_of].row_ptr
    batch._assigned = {name: move(tensor) for name, tensor in tree["assigned"].items()}
    if tree["room"] is not None:
        batch.reserve(*(int(tree["room"][level]) for level in ("system", "node", "edge")))
    if tree["fresh"] is not None and model is not None:
        batch.mark_results_fresh(model, tree["fresh"])
    return batch


def _level_of(entry: Mapping[str, Any], move: Callable[[torch.Tensor], torch.Tensor]) -> LevelStorage:
    counts = entry["counts"].cpu().numpy()
    if counts.dtype != np.int64 or counts.ndim != 1 or (len(counts) and int(counts.min()) < 0):
        raise InputError("This is no state of a Batch: its counts are no numbers of rows.")
    state: dict[StateName, torch.Tensor] = {(str(key), str(name)): move(tensor) for key, name, tensor in entry["state"]}
    level = LevelStorage(counts, {name: move(tensor) for name, tensor in entry["fields"].items()}, state)
    for tensor in (*level.tensors.values(), *state.values()):
        if tensor.ndim == 0 or tensor.shape[0] != level.rows:
            raise InputError(f"This is no state of a Batch: {tuple(tensor.shape)} has not {level.rows} rows.")
    return level


def _spec_of(name: str, entry: Mapping[str, Any]) -> FieldSpec:
    dtype = None if entry["dtype"] is None else getattr(torch, entry["dtype"])
    level: Level = entry["level"]
    return FieldSpec(name, **{**entry, "level": level, "shape": tuple(entry["shape"]), "dtype": dtype})


def _list_of(entry: Mapping[str, Any], move: Callable[[torch.Tensor], torch.Tensor]) -> PairList:
    order = entry["order"]
    usage = PairUsage(PairRequest(*each) for each in entry["unrepeated"])
    usage.shorter_requests = {PairRequest(*each) for each in entry["shorter"]}
    tensors: dict[str, Any] = {name: move(entry[name]) for name in TENSORS}
    return PairList(
        **tensors,
        **{name: entry[name] for name in _OF_LISTS},
        order=None if order is None else move(order),
        requests=tuple(PairRequest(*each) for each in entry["requests"]),
        usage=usage,
    )
