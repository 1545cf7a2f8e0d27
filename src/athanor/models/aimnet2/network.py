"""AIMNet2 networks: what is read of one, and where it comes from.

A file of the second format (``.pt``) holds tensors, numbers and the text that says how the network is built. The
package builds nothing but its own parts from it, so that loading runs no code of the file; with ``trust=True``,
whatever the text names. One of the first format (``.jpt``) is a program, TorchScript, with sums over all pairs inside:
it is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from athanor._optional import OptionalDependency, process_left_alone
from athanor._values import shown
from athanor.errors import ContractError, InputError
from athanor.models.tensor_file import needs_trust, read_tensor_file

_OF_ALL_PAIRS = frozenset({"LRCoulomb", "DFTD3", "D3BJ", "D3TS"})
"""Parts that reach further than the list of the network."""

_FORMAT = 2


@dataclass(frozen=True)
class NetworkFacts:
    """What an AIMNet2 network says about itself.

    Parameters
    ----------
    elements
        Atomic numbers that it knows.
    cutoff
        Å.
    width
        Numbers that describe an atom before the energy is made of them.
    open_shell
        Whether it reads the multiplicity and gives spin charges.
    needs_coulomb
        Whether the energy lacks the Coulomb sum of its charges.
    d3_parameters
        ``a1``, ``a2`` (bohr), ``s8`` and ``s6`` of the D3(BJ) term that the energy lacks; empty if it lacks none.
    """

    elements: frozenset[int]
    cutoff: float
    width: int
    open_shell: bool = False
    needs_coulomb: bool = False
    d3_parameters: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, network: Any) -> NetworkFacts:
        """Read them.

        Raises
        ------
        ContractError
            If `network` is no AIMNet2 network.
        InputError
            If it sums over all pairs itself.
        """
        if isinstance(network, torch.jit.ScriptModule):
            raise _older_format("`model`")
        try:
            cutoff = max(float(network.aev.rc_s), float(network.aev.rc_v))
            width = [each for each in network.mlps[-1] if isinstance(each, nn.Linear)][-1].out_features
            known = network.afv.weight.isfinite().all(1).nonzero().flatten().tolist()
            channels = int(network.num_charge_channels)
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise ContractError(
                f"`model` is a {type(network).__name__} that lacks what is read of an AIMNet2 network: {error}. Pass a "
                f"network of the aimnet package, or use `AIMNet2Wrapper.from_checkpoint(path)`."
            ) from error
        for name, part in network.named_modules():
            if type(part).__name__ in _OF_ALL_PAIRS:
                raise InputError(
                    f"The network sums over pairs beyond its list itself, by `{name}` ({type(part).__name__}). Take a "
                    f"file that `aimnet export` wrote, without that part, and add it again as a model of its own: "
                    f"`athanor.models.aimnet2_potential`."
                )
        metadata = getattr(network, "metadata", None) or {}
        return cls(
            elements=frozenset(metadata.get("implemented_species") or known) - {0},
            cutoff=cutoff,
            width=width,
            open_shell=channels == 2,
            needs_coulomb=bool(metadata.get("needs_coulomb", False)),
            d3_parameters={"s6": 1.0, **metadata["d3_params"]} if metadata.get("needs_dispersion", False) else {},
        )


def load_network(name: str | Path, *, trust: bool) -> tuple[nn.Module, str, dict[str, Any]]:
    """Return the network in a file, or of a published name, on the CPU; the digest of the file; and what else is in it.

    Raises
    ------
    InputError
        If there is no such file or name, it can not be downloaded, is of the first format, is damaged, holds something
        else, needs a newer package, or names code that is not part of the package and not to be trusted.
    OptionalDependencyError
        If aimnet is not installed.
    """
    if str(name).endswith(".jpt"):
        raise _older_format(f"`{name}`")
    package = _package("models.base")
    path = Path(name) if Path(name).exists() else _download(str(name))
    content, digest = read_tensor_file(path)  # of tensors only, whoever is trusted
    if not isinstance(content, dict) or not {"model_yaml", "state_dict"} <= content.keys():
        raise InputError(
            f"`{path}` is no AIMNet2 model: it lacks `model_yaml` or `state_dict`. Pass a file that `aimnet export` or "
            f"`export_model` wrote."
        )
    version = content.get("format_version", _FORMAT)
    if isinstance(version, int) and version > _FORMAT:
        raise InputError(
            f"`{path}` has format {version} of AIMNet2 models; the installed aimnet reads {_FORMAT}. Upgrade it."
        )
    try:
        with process_left_alone():
            network, _ = package.load_model(str(path), model_import_mode="unsafe" if trust else "extend")
    except ValueError as error:
        if "Untrusted import path" in str(error):
            raise needs_trust(path) from error
        raise _unfit(path, error) from error
    except (AttributeError, ImportError) as error:
        raise InputError(
            f"`{path}` names a part that the installed aimnet does not have: {error}. Install the version that wrote "
            f"it; often that is the newest."
        ) from error
    except (KeyError, RuntimeError, TypeError) as error:
        raise _unfit(path, error) from error
    return network, digest, {key: value for key, value in content.items() if key != "state_dict"}


def _package(submodule: str) -> ModuleType:
    return OptionalDependency.AIMNET.load(submodule, needed_by="AIMNet2Wrapper")


def _download(name: str) -> Path:
    """Return the file of a published network; the package downloads it unless it did before, and checks its digest."""
    published = _package("calculators.model_registry")
    if published.try_resolve_registry_model_name(name) is None:
        names = published.load_model_registry()["aliases"]
        raise InputError(f"{shown(name)} is neither a file nor a network that aimnet can get: {', '.join(names)}.")
    try:
        with process_left_alone():
            return Path(published.get_model_path(name))
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(
            f"`{name}` can not be downloaded ({error}). Download it where there is a network, and pass the path of the "
            f"file."
        ) from error


def _older_format(what: str) -> InputError:
    return InputError(
        f"{what} is an AIMNet2 model of the first format, a program that runs code and sums over all pairs itself. "
        f"Convert it, if you trust it: `aimnet convert model.jpt config.yaml model.pt`."
    )


def _unfit(path: Path, error: Exception) -> InputError:
    return InputError(
        f"`{path}` is no AIMNet2 model that the installed aimnet reads: {' '.join(str(error).split())[:200]}. Get the "
        f"file again, or upgrade aimnet."
    )
