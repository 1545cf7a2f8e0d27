"""CHGNet checkpoints: those inside the installed chgnet package, by name, and files of the user, read and written."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from athanor._optional import OptionalDependency
from athanor.errors import InputError
from athanor.models.tensor_file import read_tensor_file, write_tensor_file

SHIPPED: dict[str, tuple[str, str]] = {
    "0.3.0": (
        "0.3.0/chgnet_0.3.0_e29f68s314m37.pth.tar",
        "d14ab7c0f093efe64b60a7bcd540bca10e74fb7f46c86108a079af60524659d1",
    ),
    "0.2.0": (
        "0.2.0/chgnet_0.2.0_e30f77s348m32.pth.tar",
        "ef624f78b6db9d315b4ef256f1bb3207449924191b91720dc17d3f60c5df980e",
    ),
    "r2scan": (
        "r2scan/chgnet_r2scan_transfer_learning_e15f36s161m23.pth.tar",
        "8eba3db0f35a2788bb3ae22885ad340591e27996f213c6643af522a633b50dad",
    ),
}
"""Name -> file below the package's ``pretrained`` folder, SHA-256 of that file."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a file holds.

    Parameters
    ----------
    name
        Name or path it was asked for by.
    state
        Tensors by the names of the chgnet package.
    arguments
        Arguments the package builds its model with.
    digest
        ``sha256:`` and the hexadecimal digest of the file.
    """

    name: str
    state: dict[str, torch.Tensor]
    arguments: dict[str, Any]
    digest: str


def load_checkpoint(name: str | Path, *, trust: bool = False) -> Checkpoint:
    """Read a checkpoint on the CPU; the network modules of chgnet are not imported.

    Parameters
    ----------
    name
        ``"0.3.0"``, ``"0.2.0"`` or ``"r2scan"`` from the installed package, or the path of a file written by its
        trainer.
    trust
        Whether to run a file that is a whole pickle, which can execute anything. Never needed for shipped names.

    Raises
    ------
    InputError
        A `ValueError`: for an unknown name, a shipped file with other contents than expected, or a file that is damaged
        or no checkpoint.
    OptionalDependencyError
        If a shipped name is asked for and chgnet is not installed.
    """
    digest = ""
    if str(name) in SHIPPED:
        package = OptionalDependency.CHGNET.load(needed_by="CHGNetWrapper")
        relative, digest = SHIPPED[str(name)]
        path = Path(str(package.__file__)).parent / "pretrained" / relative
    else:
        path = Path(name)
    if not path.exists():
        raise InputError(
            f"`{name}` is neither a checkpoint file nor one of the shipped ones: {', '.join(SHIPPED)}. "
            f"There is no file {path}."
        )
    content, digest = read_tensor_file(path, trust=trust, digest=digest, name=str(name))
    model = content.get("model", content) if isinstance(content, dict) else None
    if isinstance(model, dict) and (written := _arguments_beside(model)) is not None:
        model = {"state_dict": dict(model), "model_args": written}
    if not isinstance(model, dict) or not {"state_dict", "model_args"} <= model.keys():
        raise InputError(
            f"`{path}` is no CHGNet checkpoint: it has no `state_dict` and `model_args`. Parameters alone do not say "
            f"which cutoffs they were fitted with; write them with `export_model`, which does."
        )
    state, arguments = model["state_dict"], model["model_args"]
    if not isinstance(state, dict) or not isinstance(arguments, dict):
        raise InputError(f"`{path}` is no CHGNet checkpoint: `state_dict` and `model_args` are no dictionaries.")
    return Checkpoint(str(name), dict(state), dict(arguments), digest)


def save_checkpoint(
    path: str | Path, state: Mapping[str, torch.Tensor], arguments: Mapping[str, Any], *, as_state_dict: bool
) -> None:
    """Write a checkpoint that `load_checkpoint` and the chgnet package read; neither form is a pickle of code.

    Parameters
    ----------
    path
        File to write.
    state, arguments
        Tensors, and what the package builds its model with.
    as_state_dict
        Write the tensors as a state dict, whose metadata hold the arguments; else both in a dictionary.

    Raises
    ------
    StorageError
        If the file can not be written.
    """
    if as_state_dict:
        named = OrderedDict(state)
        named._metadata = OrderedDict({"": {"version": 1, "model_args": dict(arguments)}})  # type: ignore[attr-defined]
        write_tensor_file(path, named)
    else:
        write_tensor_file(path, {"model": {"state_dict": dict(state), "model_args": dict(arguments)}})


def _arguments_beside(state: dict[str, Any]) -> dict[str, Any] | None:
    """Return the arguments that `save_checkpoint` wrote into the metadata of a state dict, if there are any."""
    metadata = getattr(state, "_metadata", None)
    own = metadata.get("") if isinstance(metadata, dict) else None
    return own.get("model_args") if isinstance(own, dict) else None
