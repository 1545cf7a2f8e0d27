"""Checks, defaults and text form of one structure: what `AtomicData` does with its dictionary of tensors."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from athanor._typing import AtomCategory
from athanor._values import check_state_dtype, usable_device
from athanor.data._checks import check_one_device, check_structures
from athanor.data.elements import standard_masses
from athanor.data.fields import EXACT_FIELDS, FIELDS, KNOWN_FIELDS, REQUIRED, ROW_OF, STATE_FIELDS, FieldSpec, Level
from athanor.errors import DtypeError, InputError, MissingFieldError, ShapeError


def build(given: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Check the fields of a new structure, cast its state, fill in defaults, and return them in table order."""
    for spec in (FIELDS[name] for name in REQUIRED):
        if spec.name not in given:
            shape, unit = f" of shape {spec.shape}" if spec.shape else "", f", in {spec.unit}" if spec.unit else ""
            raise MissingFieldError(
                f"`{spec.name}` is None; a structure needs a tensor, one row per {ROW_OF[spec.level]}{shape}{unit}."
            )
    _refuse_symbols(given["atomic_numbers"])
    if "atom_categories" in given:
        given["atom_categories"] = categories(given["atom_categories"])
    fields = {name: spec.as_column(given[name]) for name, spec in KNOWN_FIELDS.items() if name in given}
    check_all(fields, {})
    warn_of_cast(cast_state(fields, fields["positions"].dtype), fields["positions"].dtype, stacklevel=4)
    _warn_of_a_cell_without_pbc(fields)
    numbers, state = fields["atomic_numbers"], fields["positions"].dtype
    fields.setdefault("velocities_present", torch.full((1, 1), "velocities" in fields, device=numbers.device))
    for name in ("atomic_masses", "atom_categories", "velocities"):
        if name not in fields:
            fields[name] = initial_values(FIELDS[name], len(numbers), numbers, state)
    return fields


def placed(given: Mapping[str, Any], device: torch.device | str | None, dtype: torch.dtype | None) -> dict[str, Any]:
    """Return what was given with its tensors on `device` and those of the state in `dtype`; labels keep theirs."""
    to_device, cast = mover(device, None, False), mover(None, dtype, False)
    tensors = {name: to_device(name, value) for name, value in given.items() if isinstance(value, torch.Tensor)}
    return {**given, **tensors, **{name: cast(name, value) for name, value in tensors.items() if name in STATE_FIELDS}}


def initial_values(spec: FieldSpec, rows: int, atomic_numbers: torch.Tensor, state: torch.dtype | None) -> torch.Tensor:
    """Return a new tensor of a field: masses of the elements, else its default, what is assumed, or zeros."""
    if spec.name == "atomic_masses":
        return standard_masses(atomic_numbers, state or torch.get_default_dtype())
    shape, dtype = tuple(size or 0 for size in spec.shape), spec.dtype_to_make(state)
    value = next((given for given in (spec.default, spec.assumed) if given is not None), 0)
    return torch.full((rows, *shape), value, dtype=dtype, device=atomic_numbers.device)


def _warn_of_a_cell_without_pbc(fields: Mapping[str, torch.Tensor]) -> None:
    if "cell" in fields and "pbc" not in fields and not fields["cell"].is_meta and bool(fields["cell"].any()):
        warnings.warn(
            "`cell` is given without `pbc`: the structure is taken as not periodic. Pass "
            "`pbc=torch.tensor([[True, True, True]])`, or False to say so.",
            UserWarning,
            stacklevel=4,
        )


def check_all(fields: dict[str, torch.Tensor], custom: Mapping[str, FieldSpec]) -> None:
    """Check every field and the structure as a whole."""
    numbers = fields["atomic_numbers"]
    rows = first_size(numbers) if getattr(numbers, "ndim", 0) else 1
    FIELDS["atomic_numbers"].check(numbers, rows, owner="AtomicData")
    for name, value in fields.items():
        check_rows(fields, KNOWN_FIELDS.get(name) or custom[name], value)
    check_one_device(fields, fields["positions"].device, "AtomicData")
    check_structures(fields, np.array([0, fields["positions"].shape[0]]))


def _refuse_symbols(numbers: Any) -> None:
    """Raise if elements are given by their symbols."""
    first = numbers if isinstance(numbers, str) else next(iter(numbers), None) if isinstance(numbers, list) else None
    if isinstance(first, str):
        raise DtypeError(
            f"`atomic_numbers` holds text ({first!r}); pass a tensor of atomic numbers, such as `torch.tensor([18])` "
            f"for argon. `AtomicData.from_atoms(ase.Atoms(...))` takes symbols."
        )


def first_size(value: Any) -> int:
    return value.shape[0] if isinstance(value, torch.Tensor) and value.ndim else 0


def check_rows(fields: Mapping[str, torch.Tensor], spec: FieldSpec, value: Any) -> None:
    """Raise unless `value` has the rows that its level has in this structure, and the declared shape and dtype."""
    if spec.level == "system":
        spec.check(value, 1, owner="AtomicData, one system,")
        return
    what, counted = ("atoms", "atomic_numbers") if spec.level == "node" else ("edges", "neighbor_list")
    rows = first_size(value if spec.name == "neighbor_list" else fields.get(counted, value))
    if isinstance(value, torch.Tensor) and value.ndim and value.shape[0] != rows:
        raise ShapeError(
            f"Inconsistent number of {what} in {spec.name}: `{spec.name}` has {value.shape[0]} rows, `{counted}` has "
            f"{rows}. Pass one row per {ROW_OF[spec.level]}."
        )
    spec.check(value, rows, owner=f"AtomicData of {rows} {ROW_OF[spec.level]}s")


def check_assignment(fields: dict[str, torch.Tensor], spec: FieldSpec, value: Any) -> None:
    """Raise unless `value` may replace the field of `spec`; costs O(1)."""
    if spec.name == "neighbor_list":
        others = [n for n, t in fields.items() if n != spec.name and _is_edge(n) and t.shape[0] != first_size(value)]
        if others:
            raise ShapeError(
                f"`neighbor_list` has {first_size(value)} rows; `{others[0]}` has {fields[others[0]].shape[0]}. "
                f"Set `{others[0]}` to None first."
            )
    check_rows(fields, spec, value)
    positions = fields["positions"]
    check_same_dtype(spec, value, positions.dtype)
    if value.device != positions.device:
        check_one_device({spec.name: value}, positions.device, "AtomicData")


def _is_edge(name: str) -> bool:
    spec = KNOWN_FIELDS.get(name)
    return spec is not None and spec.level == "edge"


def check_same_dtype(spec: FieldSpec, value: torch.Tensor, state: torch.dtype | None) -> None:
    """Raise if `value` would bring a second dtype into the state."""
    if spec.kind == "state" and state is not None and value.dtype != state:
        raise DtypeError(
            f"`{spec.name}` has dtype {value.dtype}, the state has {state}. Assign `{spec.name}.to({state})`, or "
            f"convert everything first with `.to(dtype={value.dtype})`."
        )


def cast_state(fields: dict[str, torch.Tensor], state: torch.dtype) -> list[str]:
    """Cast state fields to `state`, in place, and return the names of those that had another dtype."""
    cast = [name for name, value in fields.items() if name in STATE_FIELDS and value.dtype != state]
    for name in cast:
        fields[name] = fields[name].to(state)
    return cast


def warn_of_cast(names: list[str], state: torch.dtype, stacklevel: int) -> None:
    """Warn that the fields `names` were cast to `state`, if there are any."""
    if names:
        warnings.warn(
            f"Fields {sorted(names)} were cast to {state}, the dtype of `positions`. Pass them in that dtype to avoid "
            f"this.",
            UserWarning,
            stacklevel=stacklevel,
        )


def categories(value: Any) -> Any:
    """Turn a list of `AtomCategory` into int64 [N]; tensors pass."""
    if isinstance(value, torch.Tensor):
        return value
    if not isinstance(value, list | tuple) or not all(isinstance(item, AtomCategory) for item in value):
        raise InputError("`atom_categories` must be an integer tensor or a list of AtomCategory members.")
    return torch.tensor([item.value for item in value], dtype=torch.int64)


def spec_for(cls: type, key: str, value: Any, level: Level) -> FieldSpec:
    """Return the row for `key` on a `cls`: the table's if it is there, else one made after `value`."""
    known = KNOWN_FIELDS.get(key)
    if known is not None:
        if known.level != level:
            raise InputError(f"`{key}` is a {known.level}-level field of the table; it can not be a {level}-level one.")
        return known
    if not isinstance(key, str) or not key.isidentifier() or key.startswith("_") or hasattr(cls, key):
        raise InputError(f"`{key}` can not name a field: it must be a new identifier without a leading underscore.")
    if not isinstance(value, torch.Tensor):
        raise DtypeError(f"`{key}` is a {type(value).__name__}; pass a torch.Tensor.")
    if value.ndim == 0:
        raise ShapeError(f"`{key}` has no rows dimension; a {level}-level field needs one. Use `{key}.unsqueeze(0)`.")
    return FieldSpec.like(key, level, value)


def mover(
    device: torch.device | str | None, dtype: torch.dtype | None, non_blocking: bool
) -> Callable[[str, torch.Tensor], torch.Tensor]:
    """Return ``move(name, tensor)`` for `to`: the device for all, the dtype for floats."""
    if dtype is not None:
        check_state_dtype(dtype)
    if device is not None:
        device = usable_device(device)

    def move(name: str, tensor: torch.Tensor) -> torch.Tensor:
        wanted = dtype if tensor.is_floating_point() and name not in EXACT_FIELDS else None
        return tensor.to(device=device, dtype=wanted, non_blocking=non_blocking)

    return move


def chemical_hash(fields: Mapping[str, torch.Tensor]) -> str:
    """Digest of numbers and positions, sorted, and of cell and pbc if both are set; 64 hexadecimal digits."""
    numbers = fields["atomic_numbers"].detach().cpu().numpy().astype(np.int64)
    positions = fields["positions"].detach().cpu().double().numpy() + 0.0  # + 0.0 turns -0.0 into 0.0
    order = np.lexsort((positions[:, 2], positions[:, 1], positions[:, 0], numbers))
    digest = hashlib.blake2s()
    digest.update(numbers[order].tobytes())
    digest.update(positions[order].tobytes())
    if "cell" in fields and "pbc" in fields:
        digest.update(fields["pbc"].cpu().numpy().tobytes())
        digest.update((fields["cell"].detach().cpu().double().numpy() + 0.0).tobytes())
    return digest.hexdigest()


def same_fields(a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor]) -> bool:
    """Whether both hold the same names, dtypes, shapes and values; NaN equals NaN."""
    return a.keys() == b.keys() and all(same_tensor(a[name], b[name]) for name in a)


def same_tensor(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether both have the same dtype, shape, device and values; NaN equals NaN."""
    if (a.dtype, a.shape, a.device) != (b.dtype, b.shape, b.device):
        return False
    return torch.equal(a, b) or bool(((a == b) | (a.isnan() & b.isnan())).all())


def _tensor_to_json(tensor: torch.Tensor) -> dict[str, Any]:
    values = tensor.detach().cpu()
    return {"dtype": str(tensor.dtype).removeprefix("torch."), "shape": list(tensor.shape), "data": values.tolist()}


def _tensor_from_json(entry: dict[str, Any]) -> torch.Tensor:
    return torch.tensor(entry["data"], dtype=getattr(torch, entry["dtype"])).reshape(entry["shape"])


def to_json(
    fields: Mapping[str, torch.Tensor], custom: Mapping[str, FieldSpec], info: Mapping[str, torch.Tensor]
) -> str:
    """Write a structure as JSON text: tensors as nested lists with their dtype, custom fields with their level."""
    return json.dumps(
        {
            "fields": {name: _tensor_to_json(tensor) for name, tensor in fields.items()},
            "custom": {name: spec.level for name, spec in custom.items()},
            "info": {n: _tensor_to_json(v) if isinstance(v, torch.Tensor) else v for n, v in info.items()},
        }
    )


def from_json(text: str) -> tuple[dict[str, torch.Tensor], dict[str, FieldSpec], dict[str, Any]]:
    """Read what `to_json` wrote."""
    try:
        entry = json.loads(text)
        fields = {name: _tensor_from_json(value) for name, value in entry["fields"].items()}
        fields = {name: fields[name] for name in (*REQUIRED, *fields)}
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise InputError(
            f"The text is not a structure ({type(error).__name__}: {error}). Pass what `model_dump_json` returned."
        ) from error
    custom = {name: FieldSpec.like(name, level, fields[name]) for name, level in entry["custom"].items()}
    info = {n: _tensor_from_json(v) if isinstance(v, dict) and "dtype" in v else v for n, v in entry["info"].items()}
    return fields, custom, info
