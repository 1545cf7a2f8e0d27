"""MACE networks: what is read of one, where it comes from, and what is done to it before use.

``import mace`` switches off, for the whole process, what keeps `torch.load` from running code in files;
`OptionalDependency.load` puts that back.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import nn

from athanor._optional import OptionalDependency
from athanor._values import is_real, shown
from athanor.data.elements import SYMBOLS, number_of_symbol
from athanor.errors import ContractError, InputError, NotAvailableError
from athanor.models.tensor_file import read_tensor_file


def probed(model: Any) -> tuple[list[int], int]:
    """Return the atomic numbers and the width of a network, if it has what is read of it."""
    try:
        numbers, width = [int(number) for number in model.atomic_numbers], model.products[0].linear.irreps_out.dim
        float(model.r_max), next(model.parameters())
    except (AttributeError, LookupError, StopIteration, TypeError, ValueError) as error:
        raise ContractError(
            f"`model` is a {type(model).__name__} that lacks what is read of a MACE network: {error or 'a parameter'}. "
            f"Pass a network of mace-torch, or use `MACEWrapper.from_checkpoint(path)`."
        ) from error
    return numbers, int(width)


DEBYE = 0.20819433622621247
"""e·Å in a debye."""


_OMOL = "https://github.com/ACEsuit/mace-foundations/releases/download/mace_omol_0/MACE-omol-0-extra-large-1024.model"


class Abilities(NamedTuple):
    """What a kind of network gives by our names, and reads beside atoms and pairs by its own."""

    outputs: frozenset[str]
    reads: tuple[str, ...]
    in_debye: bool = False
    has_embeddings: bool = True


_ENERGY = frozenset({"energy", "forces", "stress", "atomic_energies"})
_KINDS = {
    "AtomicDipolesMACE": Abilities(frozenset({"dipole"}), ("charges",), in_debye=True, has_embeddings=False),
    "AtomicDielectricMACE": Abilities(frozenset({"dipole", "charges"}), ("total_charge",), has_embeddings=False),
    "EnergyDipolesMACE": Abilities(
        frozenset({"energy", "forces", "stress", "dipole"}), ("charges", "head"), in_debye=True, has_embeddings=False
    ),
}


_LONG_RANGED = {"PolarMACE": "PolarMACE", "MACELES": "MACE"}
"""Kinds that are left to the calculator of the package, and what it calls them."""


def abilities_of(model: Any) -> Abilities:
    """Return what a network gives and reads, by the name of its class and what it was trained with.

    Raises
    ------
    NotAvailableError
        If it is of a kind with electrostatics of its own.
    """
    classes = [each.__name__ for each in type(model).__mro__]
    if apart := next((name for name in classes if name in _LONG_RANGED), None):
        raise NotAvailableError(
            f"`model` is a {apart}, whose charges act beyond the cutoff by a package of its own; this interface gives "
            f"it no such list. Use the calculator of mace-torch: `athanor.models.ASEModelWrapper(MACECalculator("
            f'models=[network], model_type="{_LONG_RANGED[apart]}"))`.'
        )
    found = next((_KINDS[name] for name in classes if name in _KINDS), Abilities(_ENERGY, ()))
    if getattr(model, "use_polarizability", False):
        found = found._replace(outputs=found.outputs | {"polarizability"})
    embedded = getattr(model, "embedding_specs", None) if hasattr(model, "joint_embedding") else None
    return found._replace(reads=tuple(dict.fromkeys((*found.reads, *(embedded or ())))))


def head_of(model: Any, head: str | None) -> tuple[str | None, int | None]:
    """Return the name and the place of the head to use: none if there is one only and nobody asks for it."""
    heads = list(getattr(model, "heads", None) or ())
    if head is None and len(heads) < 2:
        return None, None
    if head is None:
        head = next((each for each in heads if each.lower() == "default"), None)
    if head not in heads:
        raise InputError(f"`head` is {shown(head)}; this network has {', '.join(heads) or 'one without a name'}.")
    return head, heads.index(head)


def load_network(name: str | Path, *, trust: bool) -> tuple[nn.Module, str]:
    """Return the network in a file, or of a published name, on the CPU, and the digest of its file.

    Raises
    ------
    InputError
        If there is no such file or name, it can not be downloaded, is a whole pickle and not to be trusted, is damaged,
        or holds something else.
    OptionalDependencyError
        If mace-torch is not installed.
    """
    _package("modules")  # classes of what is read
    path = Path(name) if Path(name).exists() else _download(str(name), trust)
    network, digest = read_tensor_file(path, trust=trust)
    if not isinstance(network, nn.Module):
        raise InputError(
            f"`{path}` holds a {type(network).__name__}, no network: parameters alone do not say which one. Pass the "
            f"file that ends in `.model`, which the training of mace-torch and `export_model` write."
        )
    return network, digest


def set_atomic_energies(network: nn.Module, energies: Mapping[Any, float] | None, path: Path | str | None) -> None:
    """Put other energies of isolated atoms, eV, into a network: of the elements named, by number or symbol.

    Raises
    ------
    InputError
        If one is no number, the network does not know the element, or the file can not be read.
    """
    if path is not None:
        try:
            energies = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"`atomic_energies_path` {path} can not be read as JSON: {error}.") from error
    if energies is None:
        return
    if not isinstance(energies, Mapping):
        raise InputError(f"Atomic energies are {shown(energies)}; give a number in eV by element, as {{1: -13.6}}.")
    known = [int(number) for number in network.atomic_numbers]  # type: ignore[union-attr]
    table: torch.Tensor = network.atomic_energies_fn.atomic_energies  # type: ignore[union-attr,assignment]
    for element, energy in energies.items():
        number = int(element) if str(element).isdecimal() else number_of_symbol(str(element))
        if number not in known:
            raise InputError(
                f"Element {shown(element)} of the atomic energies is not supported by this network, which knows "
                f"{', '.join(SYMBOLS[each] for each in known)}. Leave it out."
            )
        if not (is_real(energy) and abs(energy) < float("inf")):
            raise InputError(f"The atomic energy of {SYMBOLS[number]} is {shown(energy)}; give a number in eV.")
        table[..., known.index(number)] = float(energy)  # the same for every head


def with_cuequivariance(network: nn.Module, device: torch.device) -> nn.Module:
    """Return the network with the kernels of cuEquivariance in it, on a CUDA device."""
    for package in (OptionalDependency.CUEQUIVARIANCE, OptionalDependency.CUEQUIVARIANCE_OPS):
        package.load(needed_by="enable_cueq")
    with _made_in_the_precision_of(network):
        return _package("cli.convert_e3nn_cueq").run(network, device=device.type, return_model=True).to(device)


def compiled(network: nn.Module, options: Mapping[str, Any], *, made_anew: bool) -> nn.Module:
    """Return the network with frozen parameters, compiled on its first call.

    What e3nn generates by TorchScript can not be compiled: such a network is `made_anew` without that.
    """
    tools = _package("tools.compile")
    with _made_in_the_precision_of(network), tools.disable_e3nn_codegen():
        if made_anew:
            device = next(network.parameters()).device
            network = _package("tools.scripts_utils").extract_model(network, map_location=device)
        network = tools.simplify(network)
    network.requires_grad_(False).eval().compile(**options)
    return network


@contextlib.contextmanager
def _made_in_the_precision_of(network: nn.Module) -> Iterator[None]:
    """Let modules be made in the dtype of `network`, as mace-torch wants, and put the default back."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(next(network.parameters()).dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _package(submodule: str) -> ModuleType:
    """Import a part of mace-torch; what it prints meanwhile does not belong into the output of a command."""
    OptionalDependency.MACE.load(needed_by="MACEWrapper")
    with torch.serialization.safe_globals([slice]), contextlib.redirect_stdout(sys.stderr):  # a file of e3nn has one
        return OptionalDependency.MACE.load(submodule)


def _download(name: str, trust: bool) -> Path:
    """Return the file of a published network, which the package downloads unless it did before."""
    published = _package("calculators.foundations_models")
    urls = {
        **published.mace_mp_urls,
        **{f"off-{size}": url for size, url in published.mace_off_urls.items()},
        "omol": _OMOL,
    }
    if name not in urls:
        raise InputError(f"`{name}` is neither a file nor a network that mace-torch can get: {', '.join(urls)}.")
    if not trust:
        raise InputError(
            f"`{name}` is a whole pickle: loading it would run code from {urls[name]}. Pass `trust=True` if you trust "
            f"that address."
        )
    try:
        with contextlib.redirect_stdout(sys.stderr):
            return Path(published.download_mace_mp_checkpoint(urls[name]))
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"`{name}` can not be downloaded from {urls[name]} ({error}). Download it where there is a network, and "
            f"pass the path of the file."
        ) from error
