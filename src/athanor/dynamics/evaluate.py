"""Call the model once, check what it returns, and write the results onto the batch.

This is the only place that marks results fresh. A model works on a view (`Batch.shallow_view`), so nothing that it
flags or assigns reaches the state.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from athanor.data.fields import FIELDS, GIVEN, RESULTS
from athanor.errors import ModelOutputError

if TYPE_CHECKING:
    from athanor.data.batch import Batch


def evaluate(model: Any, batch: Batch, needs: frozenset[str]) -> OrderedDict[str, Tensor]:
    """Evaluate `model` on a batch and store energy, forces and what else it returns of the field table.

    Parameters
    ----------
    model
        A wrapped model.
    batch
        Changed in place: result fields; created if absent, and dropped if they are not computed.
    needs
        Outputs that must be there.

    Returns
    -------
    OrderedDict
        The detached outputs.

    Raises
    ------
    ModelOutputError
        If a needed output is missing or has the wrong shape.
    """
    outputs = _outputs_of(model, batch, needs)
    for key, value in outputs.items():
        if key in FIELDS and key not in GIVEN:
            _store(batch, key, value, model)
    for key, old in zip(RESULTS, batch.tensors_of(RESULTS), strict=True):
        if old is not None and key not in outputs:
            batch.set_field(key, None)
    batch.mark_results_fresh(model, frozenset(outputs))
    return outputs


def _outputs_of(model: Any, batch: Batch, needs: frozenset[str]) -> OrderedDict[str, Tensor]:
    """Return the detached outputs of `model`, checked to be those that are needed."""
    if model.model_config.gradient_keys:  # a model flags these on what it is called with
        batch = batch.shallow_view(model.model_config.gradient_keys)
    raw = model(batch)
    if not isinstance(raw, dict):
        raise ModelOutputError(
            f"{type(model).__name__} returned a {type(raw).__name__}; return a dictionary such as "
            f'`{{"energy": energy, "forces": forces}}` from `forward`.'
        )
    outputs = OrderedDict((key, _detached(value)) for key, value in raw.items() if isinstance(value, Tensor))
    if not needs <= outputs.keys():
        missing = sorted(needs - outputs.keys())
        raise ModelOutputError(
            f"{type(model).__name__} did not return {', '.join(f'`{key}`' for key in missing)}, which this run needs. "
            f"It returned: {', '.join(outputs) or 'nothing'}. "
            f"Ask for it in `model.model_config.active_outputs`, or compute it in `forward`."
        )
    return outputs


def _detached(value: Tensor) -> Tensor:
    return value.detach() if value.requires_grad else value


def _store(batch: Batch, key: str, value: Tensor, model: Any) -> None:
    """Copy one output into the field `key`."""
    spec = FIELDS[key]
    target = batch.get(key)
    if target is None:
        tail = tuple(value.shape[1 + i] if size is None else size for i, size in enumerate(spec.shape))
        rows = batch.num_nodes if spec.level == "node" else batch.num_graphs
        dtype = batch.positions.dtype if spec.kind == "state" else value.dtype
        target = torch.zeros((rows, *tail), dtype=dtype, device=batch.device)
        batch.set_field(key, target)
    if value.shape != target.shape:
        # sizes of 1 may be missing or more, but a transposed tensor has its numbers in wrong places
        if [size for size in value.shape if size != 1] != [size for size in target.shape if size != 1]:
            raise ModelOutputError(
                f"`{key}` from {type(model).__name__} has shape {tuple(value.shape)}; expected {tuple(target.shape)}. "
                f"Return one row per {'atom' if spec.level == 'node' else 'system'}."
            )
        value = value.reshape(target.shape)
    target.copy_(value)
