"""Join structures or batches field by field, with one policy for fields that only some of them have.

A field that some parts lack is filled with its default from the field table, a float without default with NaN, which
means absent; anything else is refused, naming the first part that lacks it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch

from athanor.data.fields import FIELDS, LEVELS, REQUIRED, FieldSpec, Level
from athanor.errors import DtypeError, InputError, MissingFieldError, ShapeError

_ORDER = {name: number for number, name in enumerate(FIELDS)}


class Parts(NamedTuple):
    """What `join` needs: the tensors of each structure or batch, and the rows that each has at each level."""

    tensors: Sequence[Mapping[str, torch.Tensor]]
    rows: Mapping[Level, Sequence[int]]

    @property
    def have_same_fields(self) -> bool:
        """Whether all parts have the same names."""
        names = self.tensors[0].keys()
        return all(part.keys() == names for part in self.tensors)


Combine = Callable[[Level, list[torch.Tensor]], torch.Tensor]


def _concatenated(level: Level, values: list[torch.Tensor]) -> torch.Tensor:
    return values[0].clone() if len(values) == 1 else torch.cat(values)


def merge_specs(customs: Sequence[Mapping[str, FieldSpec]], name_of: Callable[[int], str]) -> dict[str, FieldSpec]:
    """Join the rows of custom fields; two rows of one name must agree."""
    merged: dict[str, FieldSpec] = {}
    seen: set[int] = set()
    for number, custom in enumerate(customs):
        if not custom or id(custom) in seen:
            continue
        seen.add(id(custom))
        for name, spec in custom.items():
            known = merged.setdefault(name, spec)
            if known is not spec and (known.level, known.shape, known.kind) != (spec.level, spec.shape, spec.kind):
                raise InputError(
                    f"`{name}` of {name_of(number)} is a {spec.level}-level {spec.kind} field with trailing shape "
                    f"{spec.shape}; before it is {known.level}-level {known.kind} with {known.shape}. "
                    f"Rename one of them."
                )
    return merged


def join(
    parts: Parts, custom: Mapping[str, FieldSpec], name_of: Callable[[int], str], combine: Combine = _concatenated
) -> dict[Level, dict[str, torch.Tensor]]:
    """Put the fields of `parts` together, by default one part behind the other.

    Parameters
    ----------
    parts
        At least one.
    custom
        Rows of the custom fields.
    name_of
        Part number -> how messages name it.
    combine
        Level and tensors of one field, one for each part -> the tensor that holds them all.

    Returns
    -------
    dict
        Level -> name -> tensor.
    """
    same_names = parts.have_same_fields
    names = parts.tensors[0] if same_names else dict.fromkeys(name for part in parts.tensors for name in part)
    levels: dict[Level, dict[str, torch.Tensor]] = {level: {} for level in LEVELS}
    for name in sorted(names, key=lambda name: _ORDER.get(name, len(_ORDER))):
        spec = FIELDS.get(name) or custom.get(name)
        if spec is not None:
            values = [part[name] for part in parts.tensors] if same_names else _with_fillers(spec, parts, name_of)
            levels[spec.level][name] = _combined(spec, values, name_of, combine)
    return levels


def _with_fillers(spec: FieldSpec, parts: Parts, name_of: Callable[[int], str]) -> list[torch.Tensor]:
    """Return the tensor of each part, filled where a part lacks the field."""
    found = [part.get(spec.name) for part in parts.tensors]
    first = next(value for value in found if value is not None)
    rows = parts.rows[spec.level]
    return [
        filler(spec, first, rows[number], partial(name_of, number)) if value is None else value
        for number, value in enumerate(found)
    ]


def _combined(
    spec: FieldSpec, values: list[torch.Tensor], name_of: Callable[[int], str], combine: Combine
) -> torch.Tensor:
    try:
        return combine(spec.level, values)
    except (RuntimeError, TypeError, IndexError) as error:
        raise _mismatch_error(spec, values, name_of) from error


def filler(spec: FieldSpec, like: torch.Tensor, rows: int, name: Callable[[], str]) -> torch.Tensor:
    """Return so many rows of a field for a part that lacks it; refused where they can not say that it is absent."""
    shape = (rows, *like.shape[1:])
    if rows == 0:
        return like.new_empty(shape)
    if spec.default is not None:
        return like.new_full(shape, spec.default)
    if like.is_floating_point() and spec.name not in REQUIRED:
        return like.new_full(shape, float("nan"))
    raise MissingFieldError(
        f"`{spec.name}` is missing from {name()}, while others have it; it has no default and is not a float. "
        f"Set it everywhere, or leave it out with `exclude_keys=['{spec.name}']`."
    )


def _mismatch_error(spec: FieldSpec, values: list[torch.Tensor], name_of: Callable[[int], str]) -> InputError:
    first = values[0]
    for number, value in enumerate(values):
        if value.ndim != first.ndim or value.shape[1:] != first.shape[1:]:
            return ShapeError(
                f"`{spec.name}` of {name_of(number)} has trailing shape {tuple(value.shape[1:])}; "
                f"{name_of(0)} has {tuple(first.shape[1:])}. Make them equal, or exclude the field."
            )
        if value.device != first.device:
            return InputError(
                f"`{spec.name}` of {name_of(number)} is on {value.device}; {name_of(0)} is on {first.device}. "
                f"Move one of them with `.to(...)`."
            )
    return InputError(f"`{spec.name}` can not be joined over {len(values)} samples.")


def check_cells_have_pbc(parts: Parts, name_of: Callable[[int], str]) -> None:
    """Raise if a part has a cell but no pbc while others have one: it would silently stop being periodic."""
    if parts.have_same_fields or not any("pbc" in part for part in parts.tensors):
        return
    for number, part in enumerate(parts.tensors):
        if "cell" in part and "pbc" not in part and bool(part["cell"].any()):
            raise MissingFieldError(
                f"{name_of(number)} has a `cell` but no `pbc`, while other samples have `pbc`. "
                f"Set `pbc`, bool (1, 3), on it."
            )


def common_state_dtype(
    parts: Sequence[Mapping[str, torch.Tensor]], dtype: torch.dtype | None, name_of: Callable[[int], str]
) -> torch.dtype | None:
    """Return the state dtype of the joined batch: `dtype` if given, else the one that all parts share.

    Raises
    ------
    DtypeError
        If parts have different state dtypes and `dtype` does not say which to use.
    """
    state: torch.dtype | None = dtype
    for number, part in enumerate(parts):
        if "positions" not in part:
            raise MissingFieldError(f"`positions` is missing from {name_of(number)}; every system needs it.")
        found = part["positions"].dtype
        if state is None:
            state = found
        elif found != state and dtype is None:
            wide = max(found, state, key=lambda d: torch.finfo(d).bits)
            raise DtypeError(
                f"`positions` of {name_of(number)} has dtype {found}; {name_of(0)} has {state}. "
                f"Convert with `.to(dtype={wide})`, or pass `dtype={wide}` to `from_data_list`."
            )
    return state
