"""MatterSim networks: where one comes from.

The package sets environment variables and a handler of messages when it is imported; `OptionalDependency.load` puts
back what belongs to the process.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from athanor._optional import OptionalDependency, process_left_alone
from athanor._values import did_you_mean, shown
from athanor.errors import ContractError, InputError
from athanor.models.tensor_file import read_tensor_file

PUBLISHED = {"mattersim-v1.0.0-1m": "mattersim-v1.0.0-1M.pth", "mattersim-v1.0.0-5m": "mattersim-v1.0.0-5M.pth"}
"""Name -> file that the package downloads."""
_FOLDER = Path("~/.local/mattersim/pretrained_models")
"""Where the package keeps them."""


def arguments_of(model: Any) -> dict[str, Any]:
    """Return the arguments that a network was made with; ContractError unless it is as those of mattersim are."""
    arguments = getattr(model, "model_args", None)
    needed = ("cutoff", "threebody_cutoff", "max_z", "units")
    if not isinstance(arguments, dict) or any(name not in arguments for name in needed):
        raise ContractError(
            f"`model` is a {type(model).__name__} without `model_args` of a network of mattersim. Pass its `M3Gnet`, "
            f"that is `Potential.model`, or use `MatterSimWrapper.from_checkpoint(name)`."
        )
    return arguments


def load_network(name: str | Path) -> tuple[nn.Module, str]:
    """Return the network in a file, or of a published name, on the CPU, and the digest of its file.

    Raises
    ------
    InputError
        If there is no such file or name, it can not be downloaded, is damaged, or holds something else.
    OptionalDependencyError
        If mattersim is not installed.
    """
    network_class = _package("forcefield.m3gnet.m3gnet").M3Gnet
    path = Path(name)
    if not path.exists():
        path = _download(str(name))
    content, digest = read_tensor_file(path)
    if not isinstance(content, dict) or not {"model_name", "model", "model_args"} <= content.keys():
        raise InputError(
            f"`{path}` holds no network of mattersim, but {shown(content)[:60]}. Pass a file that it published, or "
            f"that `Potential.save` wrote."
        )
    if content["model_name"] != "m3gnet":
        raise InputError(
            f"`{path}` is a network of the kind {shown(content['model_name'])}; this version evaluates `m3gnet`."
        )
    try:
        with process_left_alone():
            network = network_class(device="cpu", **content["model_args"])
    except (TypeError, ValueError) as error:
        raise InputError(
            f"`{path}` was written by another version of mattersim than is installed: {error}. Install the version "
            f"that wrote it; often that is the newest."
        ) from error
    try:
        network.load_state_dict(content["model"])
    except (RuntimeError, TypeError, AttributeError) as error:
        raise InputError(
            f"The parameters in `{path}` do not fit the network that it describes: "
            f"{' '.join(str(error).split())[:160]}. Get the file again."
        ) from error
    return network, digest


def _package(submodule: str) -> ModuleType:
    OptionalDependency.MATTERSIM.load(needed_by="MatterSimWrapper")
    return OptionalDependency.MATTERSIM.load(submodule)


def _download(name: str) -> Path:
    """Return the file of a published network, which the package downloads unless it did before."""
    key = name.lower().removesuffix(".pth")
    if key not in PUBLISHED:
        raise InputError(
            f"`{name}` is neither a file nor a network of mattersim.{did_you_mean(key, PUBLISHED)} There are "
            f"{', '.join(PUBLISHED)}."
        )
    path = _FOLDER.expanduser() / PUBLISHED[key]
    if path.exists():
        return path
    try:
        with process_left_alone():
            _package("utils.download_utils").download_checkpoint(path.name, save_folder=str(path.parent))
    except Exception as error:  # of the library that fetches it
        path.unlink(missing_ok=True)  # the package would take a part of a file for the whole
        raise InputError(
            f"`{name}` can not be downloaded ({' '.join(str(error).split())[:120]}). Download {path.name} where there "
            f"is a network, and pass its path."
        ) from error
    return path
