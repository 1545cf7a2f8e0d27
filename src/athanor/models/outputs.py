"""What models are asked for, what they return and whether it can be used, and combining it."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from athanor import _runtime
from athanor._values import did_you_mean, shown
from athanor.data.fields import FIELDS, GIVEN, ROW_OF, FieldSpec
from athanor.errors import AthanorWarning, ModelOutputError

if TYPE_CHECKING:
    from athanor.data.batch import Batch

ADDITIVE_KEYS: frozenset[str] = frozenset({"energy", "forces", "stress"})
"""Outputs that add up when models are combined."""


def sum_outputs(
    *outputs: Mapping[str, torch.Tensor | None], additive_keys: Collection[str] | None = None
) -> OrderedDict[str, torch.Tensor]:
    """Add additive outputs element by element; of the others the last one wins.

    Parameters
    ----------
    *outputs
        Outputs of models for the same batch. ``None`` values count as absent.
    additive_keys
        Which keys add up; replaces the default energy, forces, stress.

    Returns
    -------
    OrderedDict
        Keys in order of first appearance. New tensors where something was added, else those handed in.
    """
    additive = ADDITIVE_KEYS if additive_keys is None else additive_keys
    total: OrderedDict[str, torch.Tensor] = OrderedDict()
    for output in outputs:
        for key, value in output.items():
            if value is None:
                continue
            present = total.get(key)
            total[key] = present + value if key in additive and present is not None else value
    return total


@contextmanager
def asking_for(model: Any, outputs: Collection[str]) -> Iterator[None]:
    """Ask `model` for `outputs` only, for the time of the block."""
    config = model.model_config
    asked_before = config.active_outputs
    if asked_before == set(outputs):
        yield
        return
    config.active_outputs = set(outputs)
    try:
        yield
    finally:
        config.active_outputs = asked_before


@contextmanager
def in_eval_mode(model: Any) -> Iterator[None]:
    """Have the modules of `model` in eval mode for the time of the block: what is simulated is no training."""
    training = [module for module in model.modules() if module.training] if getattr(model, "training", False) else []
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def checked_outputs(
    model: Any, batch: Batch, raw: Any, needs: Collection[str] = frozenset()
) -> OrderedDict[str, torch.Tensor]:
    """Return what a model returned, if that can be used; costs microseconds and does not wait for the device.

    Parameters
    ----------
    model
        The wrapper, to be named.
    batch
        What it was called with.
    raw
        What its ``forward`` returned. Not changed.
    needs
        Outputs that must be there.

    Returns
    -------
    OrderedDict
        The tensors in `raw`, as attached as they are; fields that the batch has a place for in the shape of that.

    Raises
    ------
    ModelOutputError
        If `raw` is no dictionary, a needed output is missing, or one is of another type, device, dtype or shape than
        its field. The text says what came, what was expected, and what to do.
    AthanorWarning
        Once, if an output is active and None.
    """
    name = type(model).__name__
    if not isinstance(raw, dict):
        raise ModelOutputError(
            f"{name} returned a {type(raw).__name__}; return a dictionary such as "
            f'`{{"energy": energy, "forces": forces}}` from `forward`.'
        )
    outputs: OrderedDict[str, torch.Tensor] = OrderedDict()
    device = batch.device
    for key, value in raw.items():
        spec = None if key in GIVEN else FIELDS.get(key) or batch.custom_fields.get(key)
        if isinstance(value, torch.Tensor):
            if value.device != device and key not in GIVEN:
                raise ModelOutputError(
                    f"`{key}` from {name} is on {value.device}; the batch is on {device}. Compute it where the "
                    f"positions are: make new tensors with `device=data.positions.device`."
                )
            outputs[key] = value if spec is None or spec.level == "edge" else fitting(spec, value, batch, name)
        elif value is not None and (spec is not None or key in needs):
            raise ModelOutputError(
                f"`{key}` from {name} is a {type(value).__name__}, {shown(value)}; return a tensor, such as "
                f"`torch.as_tensor(value)`."
            )
    if not outputs.keys() >= set(needs):
        missing = sorted(set(needs) - outputs.keys())
        hint = did_you_mean(missing[0], raw.keys() - set(needs))
        what = "returned None for" if missing[0] in raw else "did not return"
        raise ModelOutputError(
            f"{name} {what} {', '.join(f'`{key}`' for key in missing)}, which this run needs. "
            f"It returned: {', '.join(outputs) or 'nothing'}.{hint} "
            f"Ask for it in `model.model_config.active_outputs`, or compute it in `forward`."
        )
    if len(outputs) < len(raw):
        _warn_of_none(model, frozenset(key for key, value in raw.items() if value is None))
    return outputs


def fitting(spec: FieldSpec, value: torch.Tensor, batch: Batch, name: str) -> torch.Tensor:
    """Return `value`, from a model called `name`, in the shape of its field; sizes of 1 may be missing or more.

    Raises
    ------
    ModelOutputError
        If its dtype is of another kind, or its shape another one.
    """
    floating = spec.kind in ("state", "float")
    if not (value.dtype.is_floating_point if floating else spec.accepts_dtype(value.dtype)):
        wanted = "a floating-point dtype, such as that of the positions" if floating else spec.kind
        raise ModelOutputError(
            f"`{spec.name}` from {name} has dtype {value.dtype}; expected {wanted}. Return it as it was computed, "
            f"before it is rounded or cast."
        )
    rows = batch.num_nodes if spec.level == "node" else batch.num_graphs
    if value.shape == (rows, *spec.shape):
        return value
    shape = tuple(value.shape)
    tail = tuple(shape[1 + i] if size is None and i + 1 < len(shape) else size for i, size in enumerate(spec.shape))
    expected = (rows, *tail)
    if shape == expected:
        return value
    # a transposed tensor has its numbers in wrong places
    if [size for size in shape if size != 1] != [size for size in expected if size != 1]:
        advice = f"Return one row per {ROW_OF[spec.level]}"
        if shape == expected[::-1]:
            advice = f"It is transposed: return `{spec.name}.T`"
        elif spec.level == "system" and shape[:1] == (batch.num_nodes,):
            advice += ", summed over its atoms"
        sizes = str(expected).replace("None", "*")
        raise ModelOutputError(f"`{spec.name}` from {name} has shape {shape}; expected {sizes}. {advice}.")
    return value.reshape([-1 if size is None else size for size in expected])


def _warn_of_none(model: Any, names: frozenset[str]) -> None:
    """Warn once of outputs that are active and that a model returned None for."""
    config = model.model_config
    names &= (config.active_outputs or set()) & config.outputs
    warned: set[str] = model.__dict__.setdefault("_warned_of_none", set())
    if not names <= warned:
        warned |= names
        text = (
            f"{type(model).__name__} returned None for {', '.join(f'`{name}`' for name in sorted(names))}, which it is "
            f"asked for; it is left out. Compute it in `forward`, or take it out of "
            f"`model.model_config.active_outputs`."
        )
        warnings.warn(AthanorWarning(text), stacklevel=_runtime.level_of_caller())
