"""ORB networks: where one comes from, and what is read of it.

The package builds a published architecture and reads its parameters in one go, and sets the default dtype of torch on
the way; `process_left_alone` puts that back.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import nn

from athanor._optional import OptionalDependency, process_left_alone
from athanor._values import did_you_mean, shown
from athanor.errors import ContractError, InputError
from athanor.models.tensor_file import read_tensor_file

_USED = ("heads.energy.", "heads.forces.", "heads.stress.", "heads.latent_charges.", "heads.latent_spins.")
"""Parameters without which results would be random: the package warns when a file lacks those of a head."""


class Published(NamedTuple):
    """A network, and what its package says of the pairs it reads."""

    network: nn.Module
    cutoff: float
    max_num_neighbors: int
    digest: str


def width_of(model: Any) -> int:
    """Return the width of the features of an atom; ContractError unless `model` is as networks of orb-models are."""
    try:
        model.heads["energy"].absolute_energy, model.pair_repulsion  # read later
        return int(model.model.gnn_stacks[0].latent_dim)
    except (AttributeError, KeyError, TypeError) as error:
        raise ContractError(
            f"`model` is a {type(model).__name__} that lacks what is read of a network of orb-models: {error}. Pass "
            f"one, or use `OrbWrapper.from_checkpoint(name)`."
        ) from error


def load_network(name: str, path: Path | None) -> Published:
    """Return a published network, on the CPU, with the parameters of a file or of what the package downloads.

    Raises
    ------
    InputError
        If there is no such network, its file can not be downloaded, is damaged, or holds something else.
    OptionalDependencyError
        If orb-models is not installed.
    """
    published = {key: build for key, build in package("forcefield.pretrained").ORB_PRETRAINED_MODELS.items()}
    builders = {key: build for key, build in published.items() if isinstance(_address(build), str)}
    builder = builders.get(name)
    if builder is None:
        raise InputError(
            f"`name` is {shown(name)}, no network of orb-models.{did_you_mean(str(name), builders)} There are "
            f"{', '.join(builders)}."
        )
    file = _download(name, str(_address(builder))) if path is None else path
    content, digest = read_tensor_file(file)  # of tensors only; damage is found
    if not isinstance(content, dict) or not any("gnn_stacks" in str(key) for key in content):
        raise InputError(
            f"`{file}` holds no parameters of an ORB network, but {shown(content)[:60]}. Pass a file that orb-models "
            f"published, or a state dict that was trained from one."
        )
    with process_left_alone(), warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            network, adapter = builder(weights_path=str(file), device="cpu", precision="float32-highest", compile=False)
        except (RuntimeError, KeyError) as error:
            raise InputError(
                f"The parameters in `{file}` are not those of `{name}`: {' '.join(str(error).split())[:160]}. Name the "
                f"network that they were trained from."
            ) from error
    lost = [text for text in (str(each.message) for each in told) if "missing in state_dict" in text]
    if lost := [text.rpartition(" ")[2] for text in lost if any(part in text for part in _USED)]:
        raise InputError(
            f"`{file}` lacks `{lost[0]}` of `{name}`, which would be random. Name the network that the parameters were "
            f"trained from."
        )
    return Published(network, float(adapter.radius), int(adapter.max_num_neighbors), digest)


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Have the default dtype of torch be `dtype` for the time of the block."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def package(submodule: str) -> ModuleType:
    """Import a part of orb-models."""
    OptionalDependency.ORB.load(needed_by="OrbWrapper")
    return OptionalDependency.ORB.load(submodule)


def _address(builder: Callable[..., Any]) -> Any:
    return inspect.signature(builder).parameters["weights_path"].default


def _download(name: str, address: str) -> Path:
    """Return the file of a published network, which the package downloads unless it did before."""
    with process_left_alone():
        try:
            return Path(package("forcefield.pretrained").cached_path(address))
        except Exception as error:  # of any of the libraries that fetch files for it
            raise InputError(
                f"`{name}` can not be downloaded from {address} ({' '.join(str(error).split())[:120]}). Download it "
                f"where there is a network, and pass the path of the file as `weights_path`."
            ) from error
