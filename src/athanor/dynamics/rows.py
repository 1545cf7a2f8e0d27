"""Taking up state rows from a batch: those that ride on it, those that a restart saved, and fresh ones.

Inside a batch a system is known by its `system_id`, never by its place.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from athanor.data._levels import Arrangement, LevelStorage
from athanor.errors import InputError

if TYPE_CHECKING:
    from athanor.data.batch import Batch
    from athanor.data.fields import Level

Rows = dict[str, Tensor]


class SavedRows(NamedTuple):
    """What a restart carries of one owner of rows.

    Parameters
    ----------
    ids
        int64 [B']; the systems that were saved.
    atoms
        int64 [B']; number of atoms of each.
    rows
        Name -> tensor.
    """

    ids: Tensor
    atoms: Tensor
    rows: Rows


def mask_of_rows(batch: Batch, systems: Tensor, level: Level, like: Tensor) -> Tensor:
    """Return a mask of systems [B] as one of the rows of `like`, which are of `level`, in a shape to select by."""
    rows = systems[batch.batch_idx] if level == "node" else systems
    return rows.reshape(-1, *([1] * (like.ndim - 1)))


def save_rows(batch: Batch, key: str, levels: Mapping[str, Level]) -> SavedRows:
    """Return copies of the rows under `key`, and to which systems they belong: those that its owner knows."""
    known = batch.known_to(key)
    if known is None:
        known = torch.zeros(len(batch), dtype=torch.bool, device=batch.device)
    atoms = known[batch.batch_idx]
    return SavedRows(
        batch.system_id.reshape(-1)[known],
        batch.num_nodes_per_graph.long()[known],
        {
            name: tensor[atoms if levels.get(name) == "node" else known]
            for name, tensor in batch.state_rows(key).items()
        },
    )


def take_up_rows(
    batch: Batch, key: str, fresh: Rows, levels: Mapping[str, Level], saved: SavedRows | None
) -> tuple[Rows, Tensor]:
    """Put the rows of one owner on `batch`: what it has or `saved` holds, and `fresh` for systems that are new.

    Parameters
    ----------
    batch
        Changed in place: its state rows under `key`.
    key
        Of the owner.
    fresh
        Fresh rows for all systems; changed in place.
    levels
        Level of each variable that is not one row for each system.
    saved
        What a restart brings; it wins over what rides on the batch. Systems are matched by id.

    Returns
    -------
    tuple
        The rows, as they ride on the batch now, and which systems were known before, bool [B].

    Raises
    ------
    InputError
        If the rows are those of another kind of owner.
    """
    if saved is not None:
        known = put_saved(batch, saved, fresh, levels)
    else:
        riding = batch.known_to(key)
        known = torch.zeros(len(batch), dtype=torch.bool, device=batch.device) if riding is None else riding
        if bool(known.any()):
            there = batch.state_rows(key)
            check_same_names(there, fresh)
            for name, tensor in fresh.items():
                mask = mask_of_rows(batch, known, levels.get(name, "system"), tensor)
                fresh[name] = torch.where(mask, there[name].to(tensor.dtype), tensor)
    batch.set_state_rows(key, {name: (levels.get(name, "system"), tensor) for name, tensor in fresh.items()})
    return fresh, known


def check_same_names(there: Mapping[str, Tensor], fresh: Mapping[str, Tensor]) -> None:
    """Raise InputError unless both hold the same variables."""
    if there.keys() != fresh.keys():
        raise InputError(
            f"The state holds {', '.join(there) or 'nothing'}; this engine has {', '.join(fresh) or 'none'}. Load the "
            f"state of the same engine."
        )


def put_saved(batch: Batch, saved: SavedRows, fresh: Rows, levels: Mapping[str, Level]) -> Tensor:
    """Put saved rows over fresh ones, in place, and return which systems had some, bool [B]."""
    check_same_names(saved.rows, fresh)
    ids, atoms = saved.ids.cpu().numpy(), saved.atoms.cpu().numpy()
    wanted, sizes = batch.system_id.reshape(-1).cpu().numpy(), np.array(batch.num_nodes_list, dtype=np.int64)
    if not len(ids):
        return torch.zeros(len(batch), dtype=torch.bool, device=batch.device)
    order = np.argsort(ids)
    place = order[np.searchsorted(ids, wanted, sorter=order).clip(max=len(ids) - 1)]
    known = (ids[place] == wanted) & (atoms[place] == sizes)
    arrangement = Arrangement(np.where(known, place, np.arange(len(batch))), known)
    moves = {
        "node": arrangement.rows(LevelStorage(sizes), LevelStorage(atoms)),
        "system": arrangement.rows(LevelStorage(np.ones_like(sizes)), LevelStorage(np.ones_like(atoms))),
    }
    for name, tensor in fresh.items():
        fresh[name] = moves[levels.get(name, "system")].move(tensor, saved.rows[name].to(tensor))
    return torch.from_numpy(known).to(batch.device)
