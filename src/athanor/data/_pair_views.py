"""Between the public neighbour names and the stored pair list: what a user assigns is packed, what is read is a view.

Two groups of names describe the same pairs, ``neighbor_list`` (COO) and ``neighbor_matrix``. The tensors of the last
assigned group are remembered until the list changes otherwise, so that shifts may be assigned after their list.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import torch

from athanor.data._structure import first_size
from athanor.data.fields import PAIR_VIEWS
from athanor.data.pair_list import PairList
from athanor.errors import ArgumentError, DtypeError, InputError, MissingFieldError, ShapeError
from athanor.kernels.neighbor_list.packing import MAX_IMAGE, pack_images


class PairOwner(Protocol):
    """A batch, which stands above this module: its fields are read by name."""

    def __getattr__(self, name: str) -> Any: ...
    def __contains__(self, name: object) -> bool: ...
    def __len__(self) -> int: ...


COO_NAMES = ("neighbor_list", "neighbor_list_shifts", "shifts")
MATRIX_NAMES = ("neighbor_matrix", "num_neighbors", "neighbor_matrix_shifts")


def read_view(batch: PairOwner, name: str) -> torch.Tensor | None:
    """Return the view `name` of the pair list of `batch`, or None without a list."""
    pairs = batch.pair_list
    if pairs is None:
        return None
    if name == "num_neighbors":
        return pairs.num_neighbors
    if name in MATRIX_NAMES:
        return pairs.matrix(batch)[0 if name == "neighbor_matrix" else 2]
    neighbor_list, shifts = pairs.coo(batch)
    if name == "neighbor_list":
        return neighbor_list
    if name == "neighbor_list_shifts":
        return shifts
    if "cell" not in batch:
        return torch.zeros_like(shifts, dtype=batch.dtype)
    cell = batch.cell[batch.batch_idx[neighbor_list[:, 0].long()]]
    return torch.einsum("ea,eac->ec", shifts.to(cell.dtype), cell)


def assign_view(
    batch: PairOwner, assigned: Mapping[str, torch.Tensor], name: str, value: torch.Tensor
) -> tuple[PairList, dict[str, torch.Tensor]]:
    """Return the list with `value` as its view `name`, and the tensors it is made of: `assigned` at the next call.

    Raises
    ------
    MissingFieldError
        If `name` is not the tensor that holds the neighbours and there is none yet.
    """
    group = COO_NAMES if name in COO_NAMES else MATRIX_NAMES
    spec = PAIR_VIEWS[name]
    rows = first_size(value) if spec.level == "edge" else batch.num_nodes
    spec.check(value, rows, owner=f"a Batch of {batch.num_nodes} atoms")
    main = group[0]
    if name == main:
        known = {}
    elif main in assigned:
        known = {key: tensor for key, tensor in assigned.items() if {key, name} != {"shifts", "neighbor_list_shifts"}}
    elif batch.pair_list is not None:
        known = {main: getattr(batch, main)}
    else:
        raise MissingFieldError(f"`{name}` belongs to pairs, and the Batch has none. Assign `{main}` first.")
    known[name] = value
    is_list = group is COO_NAMES
    pairs, shifts = pairs_of_list(known, batch) if is_list else pairs_of_matrix(known)
    return pack(batch, pairs, shifts, keep_order=is_list), known


def pairs_of_list(
    views: Mapping[str, torch.Tensor], batch: PairOwner, first_atom: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return pairs int64 [E, 2] and shifts [E, 3] of the views in `COO_NAMES`, of which the first must be there.

    Its indices count from `first_atom` of `batch`; those of the result are batch-wide.

    Raises
    ------
    ShapeError
        If there are not as many shifts as pairs.
    """
    pairs = views["neighbor_list"].long() + first_atom
    for name in ("neighbor_list_shifts", "shifts"):
        if name in views:
            shifts = views[name]
            if shifts.shape[0] != pairs.shape[0]:
                raise ShapeError(
                    f"`{name}` has {shifts.shape[0]} rows; `neighbor_list` has {pairs.shape[0]}. Pass one per pair."
                )
            return pairs, images_from_cartesian(shifts, batch, pairs) if name == "shifts" else shifts
    return pairs, torch.zeros((pairs.shape[0], 3), dtype=torch.int32, device=pairs.device)


def pairs_of_matrix(views: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return pairs int64 [E, 2] and shifts [E, 3] of the views in `MATRIX_NAMES`, of which the first must be there.

    Raises
    ------
    ShapeError
        If the shifts do not fit the matrix.
    """
    dense = views["neighbor_matrix"].long()
    atoms, width = dense.shape
    used = (dense >= 0) & (dense < atoms)
    if "num_neighbors" in views:
        used &= torch.arange(width, device=dense.device) < views["num_neighbors"].long().unsqueeze(1)
    shifts = views.get("neighbor_matrix_shifts")
    if shifts is not None and shifts.shape[:2] != dense.shape:
        raise ShapeError(
            f"`neighbor_matrix_shifts` has shape {tuple(shifts.shape)}; `neighbor_matrix` needs ({atoms}, {width}, 3)."
        )
    i, slot = torch.nonzero(used, as_tuple=True)
    picked = torch.zeros((len(i), 3), dtype=torch.int32, device=i.device) if shifts is None else shifts[i, slot]
    return torch.stack((i, dense[i, slot]), dim=1), picked


def images_from_cartesian(shifts: torch.Tensor, batch: PairOwner, pairs: torch.Tensor) -> torch.Tensor:
    """Return the integer shifts int32 [E, 3] whose lattice vectors add up to Cartesian `shifts` [E, 3] in Å."""
    if not bool(shifts.any()):
        return torch.zeros(shifts.shape, dtype=torch.int32, device=shifts.device)
    if "cell" not in batch:
        raise InputError("`shifts` is not zero but the batch has no `cell`. Set `batch.cell`, or assign zero shifts.")
    cell = batch.cell.double()[batch.batch_idx[pairs[:, 0]]]
    images = torch.linalg.lstsq(cell.transpose(1, 2), shifts.double().unsqueeze(2)).solution.squeeze(2)
    rounded = images.round()
    off = (torch.einsum("ea,eac->ec", rounded, cell) - shifts.double()).abs().amax(dim=1)
    if bool((off > 1e-2).any()):
        worst = int(off.argmax())
        raise InputError(
            f"`shifts` of pair {worst} is {shifts[worst].tolist()} Å, {float(off[worst]):.3g} Å away from a sum of "
            f"lattice vectors. Assign integer `neighbor_list_shifts` instead."
        )
    return rounded.to(torch.int32)


def pack(batch: PairOwner, pairs: torch.Tensor, shifts: torch.Tensor, *, keep_order: bool) -> PairList:
    """Sort and pack batch-wide pairs int64 [E, 2] with integer shifts [E, 3] into a list of unknown cutoff.

    Raises
    ------
    InputError
        If an index is out of range, a pair joins two systems, or a shift is not a whole number from -511 to 511.
    """
    atoms = batch.num_nodes
    if pairs.numel() and (int(pairs.min()) < 0 or int(pairs.max()) >= atoms):
        raise InputError(
            f"`neighbor_list` holds atom indices from {int(pairs.min())} to {int(pairs.max())}; "
            f"the batch has {atoms} atoms, numbered 0 to {atoms - 1}."
        )
    i, j = pairs[:, 0], pairs[:, 1]
    owner = batch.batch_idx
    crossing = owner[i] != owner[j]
    if bool(crossing.any()):
        worst = int(torch.nonzero(crossing)[0])
        raise InputError(
            f"`neighbor_list` joins atoms of two systems: pair {worst} is {pairs[worst].tolist()}, in systems "
            f"{int(owner[i[worst]])} and {int(owner[j[worst]])}. Offset the indices of each system by `batch_ptr`."
        )
    whole = shifts.to(torch.int32)
    if shifts.is_floating_point() and not torch.equal(whole.to(shifts.dtype), shifts):
        raise DtypeError("`neighbor_list_shifts` holds fractions; it counts lattice vectors. Assign `shifts` for Å.")
    if whole.numel() and int(whole.abs().max()) > MAX_IMAGE:
        raise InputError(
            f"`neighbor_list_shifts` reaches {int(whole.abs().max())}; at most {MAX_IMAGE} can be stored."
            f" Wrap the positions into the cell first."
        )
    order = _sort_order(i, j, whole)
    identity = torch.equal(order, torch.arange(len(order), device=order.device))
    i, j, whole = i[order], j[order], whole[order]
    row_ptr = torch.zeros(atoms + 1, dtype=torch.int64, device=pairs.device)
    torch.cumsum(torch.bincount(i, minlength=atoms), 0, out=row_ptr[1:])
    references = (batch.positions, batch.cell_or_zeros, batch.pbc_or_false)
    blank = PairList.blank(*references, math.nan, math.nan, _is_half(i, j, whole))
    return blank.replace(
        row_ptr=row_ptr,
        neighbors=(j - batch.batch_ptr.long()[owner[i]]).to(torch.int32),
        images=pack_images(whole),
        valid=torch.ones_like(blank.valid),
        order=order if keep_order and not identity else None,
    )


def _sort_order(i: torch.Tensor, j: torch.Tensor, shifts: torch.Tensor) -> torch.Tensor:
    """Order that sorts pairs by (i, j, image x, y, z); stable."""
    order = torch.argsort(_shift_code(shifts), stable=True)
    order = order[torch.argsort(j[order], stable=True)]
    return order[torch.argsort(i[order], stable=True)]


def _shift_code(shifts: torch.Tensor) -> torch.Tensor:
    wide = shifts.long() + MAX_IMAGE + 1
    return (wide[:, 0] << 20) | (wide[:, 1] << 10) | wide[:, 2]


def _is_half(i: torch.Tensor, j: torch.Tensor, shifts: torch.Tensor) -> bool:
    """Whether no pair stands beside its reverse; an empty list counts as full."""
    if not len(i):
        return False
    forward = torch.stack((i, j, _shift_code(shifts)), dim=1)
    backward = torch.stack((j, i, _shift_code(-shifts)), dim=1)
    both = torch.cat((forward.unique(dim=0), backward.unique(dim=0)))
    return both.unique(dim=0).shape[0] == both.shape[0]


def check_pair_list(batch: PairOwner, pairs: PairList) -> None:
    """Raise unless `pairs` has the atoms and systems of `batch`."""
    if not isinstance(pairs, PairList):
        raise ArgumentError(
            f"`pair_list` is a {type(pairs).__name__}. Assign tensors to `batch.neighbor_list`, or call "
            f"`compute_neighbors`."
        )
    atoms, systems = pairs.row_ptr.shape[0] - 1, pairs.valid.shape[0]
    if (atoms, systems) != (batch.num_nodes, len(batch)):
        raise ShapeError(
            f"`pair_list` is for {atoms} atoms in {systems} systems; the Batch has {batch.num_nodes} in {len(batch)}."
        )


def warn_dropped_edges(tensors: Iterable[str]) -> None:
    """Warn that edge fields were dropped with the pairs that they belonged to."""
    names = ", ".join(f"`{name}`" for name in tensors)
    warnings.warn(
        f"{names} belonged to the pairs of an older neighbour list and was dropped. Compute it again.",
        UserWarning,
        stacklevel=5,
    )
