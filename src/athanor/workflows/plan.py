"""What is settled before the first step: systems, model, device, and which systems share a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch

from athanor._runtime import set_num_threads
from athanor.data.batch import Batch
from athanor.dynamics import SizeAwareSampler
from athanor.dynamics.arguments import check_model, device_of
from athanor.dynamics.evaluate import NOT_OF_A_SYSTEM, is_of_model
from athanor.errors import InputError, in_words
from athanor.workflows import build
from athanor.workflows.admission import admit
from athanor.workflows.bounds import check_bounds
from athanor.workflows.chunks import split_into_chunks, suitable_max_atoms
from athanor.workflows.problems import Origin, as_argument
from athanor.workflows.properties import check_properties
from athanor.workflows.readable import count
from athanor.workflows.repeat import repeat_cells
from athanor.workflows.spec import CalculationSpec, RunSpec, validated
from athanor.workflows.structures import System, usable_indices, with_ids

Spec = TypeVar("Spec", bound=CalculationSpec)


@dataclass(frozen=True, slots=True)
class Plan(Generic[Spec]):
    """A calculation whose every input has been checked.

    Parameters
    ----------
    spec
        The description, resolved: the model is named, `max_atoms` is set.
    systems
        What was handed in, repeated already, in input order; those with a `problem` are not computed.
    model
        Wrapped model, on `device`.
    device
        Where batches go.
    chunks
        Indices into `systems` of each batch.
    state
        The systems that are computed, converted, in one batch on the CPU: its chunks then all have the same fields, as
        frames need them.
    errors
        What the model raised for systems that were set aside during the run.
    """

    spec: Spec
    systems: list[System]
    model: Any
    device: torch.device
    chunks: list[list[int]]
    state: Batch
    errors: list[BaseException] = field(default_factory=list)

    @property
    def usable(self) -> list[int]:
        """Indices of the systems that are computed."""
        return [index for chunk in self.chunks for index in chunk]

    @property
    def num_atoms(self) -> int:
        """Atoms of all systems that are computed together."""
        return self.count_atoms(self.usable)

    def count_atoms(self, indices: Iterable[int]) -> int:
        """Return the atoms of the systems `indices` together."""
        return sum(len(self.systems[index].atoms) for index in indices)

    def in_words(self) -> str:
        """Return ``3 systems, 12 atoms, one batch; Lennard-Jones``, with the device if it is not the CPU."""
        parts = [count(len(self.usable), "system"), count(self.num_atoms, "atom"), "one batch"]
        if len(self.chunks) > 1:
            parts[-1] = f"at most {self.spec.max_atoms} atoms at a time"
        if len(self.usable) < len(self.systems):
            parts[0] += f" ({len(self.systems) - len(self.usable)} more set aside)"
        name = self.model.model_card.name or type(self.model).__name__
        where = "" if self.device.type == "cpu" else f" on {self.device}"
        return f"{', '.join(parts)}; {name}{where}"

    def batch(self, indices: Sequence[int]) -> Batch:
        """Collect the systems `indices` in one batch on the device."""
        rows = torch.searchsorted(torch.tensor(self.usable), torch.tensor(indices))
        return self.state.index_select(rows).to(self.device)

    def sampler(self) -> SizeAwareSampler:
        """Return what gives out the systems: `max_atoms` at a time in all, and a larger one alone."""
        sizes, most = self.state.num_nodes_list, self.spec.max_atoms or 1
        made = SizeAwareSampler(self.state, max_atoms=max(most, *sizes))
        made.caps.shared_atoms = most
        return made

    def as_planned(self) -> Callable[[Batch], Batch]:
        """Return what gives the systems of a batch as they were converted: with the same fields, whoever is in it."""
        rows = {one: row for row, one in enumerate(self.state.system_id[:, 0].tolist())}
        return lambda batch: self.state.index_select([rows[one] for one in batch.system_id[:, 0].tolist()]).to(
            self.device
        )

    def set_aside_all_of(self, batch: Batch, error: BaseException) -> None:
        """Note that the model raised for the systems of a batch before their first step."""
        ids = set(batch.system_id[:, 0].tolist())
        self.set_aside([index for index in self.usable if self.systems[index].id in ids], in_words(error))
        self.errors.append(error)

    def parts_after(self, error: Exception, indices: Sequence[int]) -> list[Sequence[int]]:
        """Return the batches to try in place of one that the model, or the memory, was not up to.

        They are its halves; nothing if it is a single system, or if the model fails whatever it is given. Those are set
        aside. An error of another kind is raised again.
        """
        if not is_of_model(error):
            raise error
        if len(indices) > 1 and not isinstance(error, NOT_OF_A_SYSTEM):
            middle = len(indices) // 2
            return [indices[:middle], indices[middle:]]
        self.set_aside(indices, in_words(error))
        self.errors.append(error)
        return []

    def set_aside(self, indices: Iterable[int], reason: str) -> None:
        """Note why systems can not be used."""
        for index in indices:
            self.systems[index] = self.systems[index].set_aside(reason)

    def check_some_left(self) -> None:
        """Raise InputError if no system is left that can be used."""
        try:
            usable_indices(self.systems)
        except InputError as problem:
            raise problem from (self.errors[-1] if self.errors else None)


def make_plan(spec: Spec, systems: Sequence[System], *, model: Any = None) -> Plan[Spec]:
    """Settle everything about a calculation, without computing anything.

    A system that can not be used is set aside, with its reason.

    Parameters
    ----------
    spec
        What to do.
    systems
        What to do it with, in order.
    model
        A wrapped model object instead of `spec.model`. It is moved to the device.

    Raises
    ------
    InputError
        If the model or the device is not usable, or no system is; with `spec.strict`, if one of them is not.
    OptionalDependencyError
        If a package of the model is missing.
    """
    if spec.threads is not None:
        set_num_threads(spec.threads)
    device = find_device(spec.device, spec.dtype)
    repeated = with_ids(repeat_cells(systems, spec.supercell, spec.min_atoms))
    usable_indices(repeated, strict=spec.strict)  # before a model is built
    if model is None:
        chosen, repeated = build.choose_model(spec, repeated)
        usable_indices(repeated, strict=spec.strict)
        spec = spec.model_copy(update={"model": chosen})
        model = build.build_model(chosen)
    check_model(model)
    check_properties(spec.properties, model)
    if isinstance(spec, RunSpec):
        build.check_stages(spec, repeated, model)
        check_bounds(spec.stop_above, model)
    if isinstance(model, torch.nn.Module):
        model.to(device)
    repeated, state = admit(spec, repeated, model)
    chosen_systems = usable_indices(repeated, strict=spec.strict)
    if spec.max_atoms is None:
        name = spec.model.name if spec.model is not None else ""
        spec = spec.model_copy(update={"max_atoms": suitable_max_atoms(model, name, state, device)})
    chunks = split_into_chunks([len(repeated[index].atoms) for index in chosen_systems], spec.max_atoms or 1)
    return Plan(spec, repeated, model, device, [[chosen_systems[row] for row in chunk] for chunk in chunks], state)


def find_device(name: str, dtype: str) -> torch.device:
    """Return the device called `name`: ``cpu``, ``cuda``, ``cuda:1``, ``mps``, or ``auto`` for the first GPU there is.

    Raises
    ------
    InputError
        If it is not there, with what there is; or if it can not compute in `dtype`.
    """
    available = _devices()
    if name == "auto":
        best = ["cuda:0", "mps", "cpu"] if dtype == "float32" else ["cuda:0", "cpu"]
        return torch.device(next(device for device in best if device in available))
    wanted = {"cuda": "cuda:0", "mps:0": "mps"}.get(name, name)
    if wanted not in available:
        raise InputError(f"`device` is {name!r}, which is not there. Use one of: {', '.join(available)}.")
    if wanted == "mps" and dtype != "float32":
        raise InputError("`device` mps computes in float32 only. Set `dtype` to float32, or use another device.")
    return torch.device(wanted)


def spec_of_call(kind: type[Spec], arguments: Mapping[str, Any], **more: Any) -> tuple[Spec, Any]:
    """Make a description out of the arguments of a Python call.

    Parameters
    ----------
    kind
        Class of the description.
    arguments
        What was given, by name; None leaves the default, for `device` that of the model.
    **more
        Further keys of the description.

    Returns
    -------
    tuple
        The description, and the model if it is an object rather than a name.

    Raises
    ------
    InputError
        If a value is wrong; the text names the argument.
    """
    names = {key: as_argument((key,)) for key in kind.model_fields if key != "structures"}
    given = {key: arguments[name] for key, name in names.items() if name in arguments} | more
    model = None if isinstance(given["model"], str | dict | list | tuple) else given.pop("model")
    if model is not None and given["device"] is None:
        device = device_of(model)
        given["device"] = None if device is None else str(device)
    given = {key: value for key, value in given.items() if value is not None}
    return validated(kind, given, Origin(spell=as_argument)), model


def _devices() -> list[str]:
    found = ["cpu"]
    if torch.backends.mps.is_available():
        found.append("mps")
    if torch.cuda.is_available():
        found += [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    return found
