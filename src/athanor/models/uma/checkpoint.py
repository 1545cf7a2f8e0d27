"""Checkpoints of fairchem: where they come from, and how they are loaded without a trace in the process.

A checkpoint is a whole pickle, and names in plain text which functions its network is to be built by. Both run whatever
they say, so that a file is loaded only if it is trusted.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from athanor._optional import OptionalDependency, process_left_alone
from athanor._values import shown
from athanor.errors import ContractError, InputError
from athanor.models.tensor_file import read_tensor_file

_FOR_ONE_COMPOSITION = frozenset({"nitro", "multigpu", "high-precision"})
"""Settings by which the package merges the experts of a network for one composition, charge and spin."""


def load_predict_unit(
    name: str | Path,
    *,
    device: torch.device,
    settings: Any,
    overrides: Mapping[str, Any] | None,
    dtype: torch.dtype | None,
    trust: bool,
) -> tuple[Any, str]:
    """Return the predict unit of a file, or of a published name, and the digest of its file.

    Raises
    ------
    InputError
        If there is no such file or name, it can not be downloaded, is not to be trusted, is damaged, holds something
        else, or needs another version of the package.
    OptionalDependencyError
        If fairchem-core is not installed.
    """
    with process_left_alone():
        units = OptionalDependency.UMA.load("units.mlip_unit", needed_by="UMAWrapper")
        published = OptionalDependency.UMA.load("calculate.pretrained_mlip")
        chosen = _inference_settings(units, settings, dtype)
        path = Path(name)
        references: dict[str, Any] = {}
        if not path.exists():
            path, references = _download(str(name), published, trust)
        content, digest = read_tensor_file(path, trust=trust)
        if not hasattr(content, "tasks_config"):
            raise InputError(
                f"`{path}` holds a {type(content).__name__}, no checkpoint for inference. Pass a file such as "
                f"`uma-s-1p2p1.pt`, or convert a training checkpoint with fairchem first."
            )
        del content  # the package reads the file itself
        try:
            unit = units.load_predict_unit(
                str(path), chosen, None if overrides is None else dict(overrides), device.type, **references
            )
        except MemoryError:
            raise
        except Exception as error:  # whatever building the network of a configuration can raise
            raise InputError(
                f"`{path}` can not be built by fairchem-core {metadata.version('fairchem-core')}: "
                f"{type(error).__name__}: {' '.join(str(error).split())[:200]}. It may need another version: "
                f"`pip install -U fairchem-core`."
            ) from error
    return unit, digest


def network_of(unit: Any) -> Any:
    """Return the network of a predict unit: a backbone and heads, whose experts are not merged.

    Raises
    ------
    ContractError
        If it has none.
    InputError
        If the experts were merged for one composition.
    """
    network: Any = getattr(getattr(unit, "model", None), "module", None)
    if not hasattr(getattr(network, "backbone", None), "regress_config") or not hasattr(network, "output_heads"):
        raise ContractError(
            f"`predict_unit` is a {type(unit).__name__} that lacks what is read of a predict unit of fairchem: a model "
            f"with a backbone and heads. Pass one that `fairchem.core.pretrained_mlip.get_predict_unit` returned, or "
            f"use `UMAWrapper.from_checkpoint`."
        )
    check_unmerged(network.backbone)
    return network


def check_unmerged(backbone: Any) -> None:
    """Raise InputError if the experts of a network were merged for one composition, charge and spin."""
    if getattr(backbone, "_merged_composition", None) is not None:
        raise InputError(
            "The experts of this network were merged for one composition, which the first call of its predict unit "
            'did. Load it again with `UMAWrapper.from_checkpoint`, or with `inference_settings="batch"`.'
        )


def _inference_settings(units: Any, given: Any, dtype: torch.dtype | None) -> Any:
    """Return settings by which one network serves batches of any systems; geometry of its own is not made."""
    if (
        (isinstance(given, str) and given in _FOR_ONE_COMPOSITION)
        or getattr(given, "merge_mole", False)
        or getattr(given, "nitro", False)
    ):
        raise InputError(
            f"`inference_settings` is {shown(given)}, which merges the experts of a network for one composition; "
            f'batches hold many. Use "default" or "batch".'
        )
    if isinstance(given, str) and given not in ("default", "batch", "traineval"):
        raise InputError(f'`inference_settings` is {shown(given)}; use "default", "batch" or "traineval".')
    chosen = units.InferenceSettings(activation_checkpointing=False, execution_mode="general")
    if given != "default":
        chosen = units.guess_inference_settings(given)
    if dtype is not None:
        chosen.base_precision_dtype = dtype
    return chosen


def _download(name: str, published: Any, trust: bool) -> tuple[Path, dict[str, Any]]:
    """Return the file of a published network, which the package downloads unless it did before, and its tables."""
    if name not in published.available_models:
        raise InputError(
            f"`{name}` is neither a file nor a network that fairchem can get: {', '.join(published.available_models)}."
        )
    if not trust:
        raise InputError(
            f"`{name}` is a whole pickle of huggingface.co/facebook: loading it would run code from there. Pass "
            f"`trust=True` if you trust that address."
        )
    try:
        found = published.resolve_checkpoint(name)
    except Exception as error:  # of the hub, of its terms, or of the network
        raise InputError(
            f"`{name}` can not be downloaded ({type(error).__name__}: {' '.join(str(error).split())[:160]}). Its terms "
            f"have to be accepted on huggingface.co, and `huggingface-cli login` to be run, once. Or pass the path of "
            f"its file."
        ) from error
    return Path(found.path), {"atom_refs": found.atom_refs, "form_elem_refs": found.form_elem_refs}
