"""Pipelines in files: topology and settings as JSON, parameters as tensors, no pickled code."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from athanor.errors import InputError
from athanor.models.pipeline.parts import DerivativeFunction, PipelineGroup, PipelineStep
from athanor.models.tensor_file import read_tensor_file

if TYPE_CHECKING:
    from athanor.models.mixin import BaseModelMixin

_FORMAT = "athanor pipeline 1"


class SavedPipeline(NamedTuple):
    """What is in a file: of a pipeline everything but its models and functions."""

    groups: list[PipelineGroup]
    settings: dict[str, Any]
    active_outputs: Collection[str]
    state: dict[str, torch.Tensor]


def save(path: Path, pipeline: SavedPipeline) -> None:
    """Write a pipeline; see `PipelineModelWrapper.save`."""
    description = {
        "groups": [
            {
                "use_autograd": group.use_autograd,
                "has_derivative_fn": group.derivative_fn is not None,
                "steps": [
                    {
                        "model": type(step.model).__name__,
                        "settings": _settings_of(step.model),
                        "wire": step.wire,
                        "constants": sorted(step.constants),
                    }
                    for step in group.steps
                ],
            }
            for group in pipeline.groups
        ],
        "settings": {key: sorted(v) if isinstance(v, frozenset) else v for key, v in pipeline.settings.items()},
        "active_outputs": sorted(pipeline.active_outputs),
    }
    torch.save({"format": _FORMAT, "description": json.dumps(description), "state_dict": pipeline.state}, path)


def load(
    path: Path, models: Sequence[BaseModelMixin], derivative_fns: Mapping[int, DerivativeFunction]
) -> SavedPipeline:
    """Read a pipeline, with `models` and `derivative_fns` in it; see `PipelineModelWrapper.load`."""
    content, _ = read_tensor_file(path)
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise InputError(f"`{path}` holds no pipeline. Write one with `pipeline.save(path)`.")
    found = json.loads(content["description"])
    groups = _groups(path, found["groups"], list(models), derivative_fns)
    return SavedPipeline(groups, found["settings"], found["active_outputs"], content["state_dict"])


def _settings_of(model: BaseModelMixin) -> dict[str, Any]:
    """Return what tells a model from others of its class beside its parameters: plain attributes, and its card."""
    plain = {name: value for name, value in vars(model).items() if isinstance(value, int | float | str | dict)}
    found = {name: value for name, value in plain.items() if not name.startswith("_") and name != "training"}
    found |= {"name": model.model_card.name, "weights_digest": model.model_card.weights_digest}
    return json.loads(json.dumps(found, default=str))


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
    saved = [step["settings"] for group in described for step in group["steps"]]
    for kind, settings, model in zip(kinds, saved, models, strict=True):
        here = _settings_of(model)
        if different := sorted(key for key in settings | here if settings.get(key) != here.get(key)):
            told = ", ".join(f"`{key}` {here.get(key)!r} instead of {settings.get(key)!r}" for key in different)
            raise InputError(
                f"The {kind} in `models` is not the one in `{path}`: {told}. Build it as it was built then."
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
