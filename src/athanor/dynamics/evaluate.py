"""Call the model once, check what it returns, and write the results onto the batch.

This is the only place that marks results fresh. A model works on a view (`Batch.shallow_view`), so nothing that it
flags or assigns reaches the state.
"""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from athanor import _runtime
from athanor._memory import is_out_of_memory
from athanor.data._part import Part
from athanor.data.fields import FIELDS, GIVEN, RESULTS, FieldSpec, Level
from athanor.errors import AthanorWarning, ContractError, MissingFieldError, ModelOutputError, NotAvailableError
from athanor.models.outputs import asking_for, checked_outputs, fitting, in_eval_mode

if TYPE_CHECKING:
    from athanor.data.batch import Batch


NOT_OF_A_SYSTEM = (ModelOutputError, ContractError, MissingFieldError, NotAvailableError)
"""What a model raises because of itself or of the call, whatever the systems."""


def evaluate(
    model: Any, batch: Batch, needs: frozenset[str], wanted: frozenset[str] = frozenset()
) -> OrderedDict[str, Tensor]:
    """Evaluate `model` on a batch and store what it returns: fields of the table, and other outputs that it declares.

    Parameters
    ----------
    model
        A wrapped model.
    batch
        Changed in place: result fields; created if absent, and dropped if they are not computed. An output that is not
        in the table becomes a custom field, of the level that ``model_config.output_levels`` names or its rows tell;
        what belongs to pairs, or to nothing in the batch, is only returned.
    needs
        Outputs that must be there.
    wanted
        Outputs that somebody looks at and the motion does without. They come from a pass of their own, whose forces are
        dropped, unless the card of the model says that they change no bit of the forces; left out where the model has
        none.

    Returns
    -------
    OrderedDict
        The detached outputs.

    Raises
    ------
    ModelOutputError
        If a needed output is missing, or one has the wrong shape, dtype or device.
    AthanorWarning
        If an output is left out because it may belong to atoms or to systems.
    """
    outputs = _outputs_with(model, batch, needs, wanted) if wanted else _outputs_of(model, batch, needs)
    for key, value in outputs.items():
        is_new = key not in FIELDS and key not in batch.custom_fields  # nobody knew which shape it should have
        spec = None if key in GIVEN else field_for(batch, key, value, model)
        if spec is not None and spec.level != "edge":
            _store(batch, spec, fitting(spec, value, batch, type(model).__name__) if is_new else value)
    drop_results(batch, except_for=outputs.keys())
    batch.mark_results_fresh(model, frozenset(outputs))
    return outputs


def _outputs_with(model: Any, batch: Batch, needs: frozenset[str], wanted: frozenset[str]) -> OrderedDict[str, Tensor]:
    """Return the outputs of `model` with those that are `wanted` beside what it is asked for."""
    asked = frozenset(model.model_config.active_outputs or ())
    extra = (wanted & model.model_config.outputs) - asked
    if extra == {"stress"} and model.model_card.stress_keeps_forces:
        with asking_for(model, asked | extra):
            return _outputs_of(model, batch, needs)
    outputs = _outputs_of(model, batch, needs)
    return outputs | compute_apart(model, batch, extra) if extra else outputs


def compute_apart(model: Any, batch: Batch, outputs: frozenset[str]) -> dict[str, Tensor]:
    """Return detached `outputs` of a pass of their own; nothing is written to the batch."""
    with asking_for(model, outputs):
        found = _outputs_of(model, batch, outputs)
    return {key: found[key] for key in outputs}


def drop_results(batch: Batch, *, except_for: Collection[str]) -> None:
    """Remove results that are not those of the present state, in place."""
    for key in present_results(batch):
        if key not in except_for:
            batch.set_field(key, None)


def present_results(batch: Batch) -> list[str]:
    """Return the names of the results on a batch: of the table, and what a model computed beyond it."""
    found = batch.stored(RESULTS)
    if batch.custom_fields:
        found += batch.stored(key for key, spec in batch.custom_fields.items() if spec.role == "result")
    return found


def is_of_model(error: BaseException) -> bool:
    """Whether an exception came out of a model, or from want of memory, and not from athanor itself."""
    if is_out_of_memory(error):
        return True
    frames = error.__traceback__
    while frames is not None:
        if frames.tb_frame.f_code is _outputs_of.__code__:
            return not isinstance(error, Warning)
        frames = frames.tb_next
    return False


def evaluate_apart(
    model: Any, batch: Batch, needs: frozenset[str], wanted: frozenset[str] = frozenset()
) -> tuple[frozenset[str], dict[int, Exception]]:
    """Evaluate a batch for which the model raised in smaller and smaller parts, down to the systems that make it raise.

    Parameters
    ----------
    model, needs, wanted
        As in `evaluate`.
    batch
        Changed in place as by `evaluate`; systems for which the model raises keep what they have.

    Returns
    -------
    tuple
        Names of what was computed, and what was raised, by the index of the system.
    """
    errors: dict[int, Exception] = {}
    computed: list[frozenset[str]] = []
    waiting = list(torch.arange(len(batch)).tensor_split(2))
    while waiting:
        chosen = torch.zeros(len(batch), dtype=torch.bool, device=batch.device)
        chosen[waiting[-1]] = True
        part = Part(batch, chosen)
        try:
            computed.append(frozenset(evaluate(model, part.batch, needs, wanted)))
            part.write_back()
            waiting.pop()
        except NOT_OF_A_SYSTEM:
            raise
        except Exception as error:
            systems = waiting.pop()
            if len(systems) == 1:
                errors[int(systems[0])] = error
            else:
                waiting += systems.tensor_split(2)
    everywhere = frozenset.intersection(*computed) if computed else frozenset()
    batch.mark_results_fresh(model, everywhere)
    return everywhere, errors


def _outputs_of(model: Any, batch: Batch, needs: frozenset[str]) -> OrderedDict[str, Tensor]:
    """Return the detached outputs of `model` in eval mode, checked to be those that are needed.

    Stress that is active and not needed is not asked for where nothing has a cell.
    """
    active = model.model_config.active_outputs or ()
    if "stress" in active and "stress" not in needs and "cell" not in batch:
        with asking_for(model, set(active) - {"stress"}):
            return _outputs_of(model, batch, needs)
    if getattr(model, "training", False):
        with in_eval_mode(model):
            return _outputs_of(model, batch, needs)
    if model.model_config.gradient_keys:  # a model flags these on what it is called with
        batch = batch.shallow_view(model.model_config.gradient_keys)
    outputs = checked_outputs(model, batch, model(batch), needs)
    return OrderedDict((key, value.detach() if value.requires_grad else value) for key, value in outputs.items())


def field_for(batch: Batch, key: str, value: Tensor, model: Any) -> FieldSpec | None:
    """Return the field in which an output is stored, declared now if it is new; None if there is none for it."""
    spec = FIELDS.get(key) or batch.custom_fields.get(key)
    if spec is not None:
        return spec
    config = model.model_config
    if key not in config.outputs or not batch.takes_name(key) or value.ndim == 0:
        return None
    level = config.output_levels.get(key) or _level_by_rows(batch, key, value, model)
    if level is None or level == "edge":
        return None
    spec = FieldSpec.like(key, level, value, role="result")
    batch.register_field(spec)
    return spec


def _level_by_rows(batch: Batch, key: str, value: Tensor, model: Any) -> Level | None:
    rows: dict[Level, int] = {"node": batch.num_nodes, "system": batch.num_graphs}
    levels = [level for level, count in rows.items() if count == value.shape[0]]
    if len(levels) == 2:
        name = type(model).__name__
        text = (
            f"`{key}` of {name} is left out: with {rows['node']} atoms in as many systems its rows may be those of "
            f"either. Say which in its configuration: `ModelConfig(..., output_levels={{'{key}': 'node'}})`."
        )
        warnings.warn(AthanorWarning(text), stacklevel=_runtime.level_of_caller())
    return levels[0] if len(levels) == 1 else None


def _store(batch: Batch, spec: FieldSpec, value: Tensor) -> None:
    """Copy one output into its field."""
    key = spec.name
    target = batch.get(key)
    if target is None or target.shape != value.shape:  # of a field whose width the model chooses
        dtype = batch.positions.dtype if spec.kind == "state" else value.dtype
        target = torch.empty(value.shape, dtype=dtype, device=batch.device)
        batch.set_field(key, target)
    for mine, new in _runtime.in_parts(target, value):
        mine.copy_(new)
