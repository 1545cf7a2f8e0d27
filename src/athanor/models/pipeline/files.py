"""Pipelines in files: topology and settings as JSON, parameters as tensors, no pickled code."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from athanor.errors import InputError
from athanor.models.pipeline.parts import DerivativeFunction, PipelineGroup, PipelineStep
from athanor.models.tensor_file import read_tensor_file

if TYPE_CHECKING:
    from athanor.models.mixin import BaseModelMixin
    from athanor.models.pipeline.wrapper import PipelineModelWrapper

_FORMAT = "athanor pipeline 1"


def save(pipeline: PipelineModelWrapper, path: Path) -> None:
    """Write a pipeline; see `PipelineModelWrapper.save`."""
    additive = pipeline.additive_keys
    description = {
        "groups": [
            {
                "use_autograd": group.use_autograd,
                "has_derivative_fn": group.derivative_fn is not None,
                "steps": [
                    {"model": type(step.model).__name__, "wire": step.wire, "constants": sorted(step.constants)}
                    for step in group.steps
                ],
            }
            for group in pipeline.groups
        ],
        "settings": pipeline.settings | {"additive_keys": None if additive is None else sorted(additive)},
        "scopes": pipeline.scopes,
        "active_outputs": sorted(pipeline.model_config.active_outputs or ()),
    }
    content = {"format": _FORMAT, "description": json.dumps(description), "state_dict": pipeline.state_dict()}
    torch.save(content, path)


def load(
    kind: type[PipelineModelWrapper],
    path: Path,
    models: Sequence[BaseModelMixin],
    derivative_fns: Mapping[int, DerivativeFunction],
) -> PipelineModelWrapper:
    """Read a pipeline; see `PipelineModelWrapper.load`."""
    content, _ = read_tensor_file(path)
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise InputError(f"`{path}` holds no pipeline. Write one with `pipeline.save(path)`.")
    description = json.loads(content["description"])
    groups = _groups(path, description["groups"], list(models), derivative_fns)
    pipeline = kind(groups, **description["settings"], scopes=description["scopes"])
    pipeline.model_config.active_outputs = set(description["active_outputs"])
    try:
        pipeline.load_state_dict(content["state_dict"])
    except RuntimeError as error:
        raise InputError(
            f"The parameters in `{path}` do not fit `models`: {' '.join(str(error).split())}. Pass models of the same "
            f"kinds and sizes, in the same order."
        ) from error
    return pipeline


def _groups(
    path: Path,
    described: Sequence[Mapping[str, Any]],
    models: list[BaseModelMixin],
    derivative_fns: Mapping[int, DerivativeFunction],
) -> list[PipelineGroup]:
    """Return the groups of a file with `models` in them.

    Raises
    ------
    InputError
        If they are too few, too many or of other kinds, or a function is missing or not asked for.
    """
    kinds = [step["model"] for group in described for step in group["steps"]]
    handed_in = [type(model).__name__ for model in models]
    if kinds != handed_in:
        raise InputError(
            f"`models` are {', '.join(handed_in) or 'none'}; the pipeline in `{path}` has {', '.join(kinds)}. Pass "
            f"{len(kinds)} models of these kinds, in this order."
        )
    wanted = [index for index, group in enumerate(described) if group["has_derivative_fn"]]
    if wanted != sorted(derivative_fns):
        raise InputError(
            f"`derivative_fns` has the groups {sorted(derivative_fns)}; the pipeline in `{path}` needs a function for "
            f"{wanted}. Functions are not saved: pass them as `derivative_fns={{group: function}}`."
        )
    given = iter(models)
    return [
        PipelineGroup(
            [PipelineStep(next(given), step["wire"], step["constants"]) for step in group["steps"]],
            group["use_autograd"],
            derivative_fns.get(index),
        )
        for index, group in enumerate(described)
    ]
