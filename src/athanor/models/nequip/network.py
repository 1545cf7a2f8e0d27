"""NequIP and Allegro networks: files of them, what they say about themselves, and compiled ones.

Every kind of file runs code when it is loaded: a package (``.nequip.zip``) brings the source of its network, a
checkpoint (``.ckpt``) is a whole pickle, a compiled model is a program (``.nequip.pth``) or a library for the processor
(``.nequip.pt2``). So none is loaded that is not trusted.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import io
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from athanor._optional import OptionalDependency, process_left_alone
from athanor._values import shown
from athanor.data.elements import SYMBOLS
from athanor.errors import ContractError, InputError, OptionalDependencyError
from athanor.models.known_files import KNOWN_PICKLES
from athanor.models.tensor_file import needs_trust

COMPILED = (".nequip.pt2", ".nequip.pth")
_SAVED = (".nequip.zip", ".ckpt")
_PUBLISHED = "nequip.net:"
_FRAMES = ("batch", "num_atoms")


@dataclass(frozen=True)
class NetworkFacts:
    """What a network of the NequIP framework says about itself.

    Parameters
    ----------
    type_names
        Its names of kinds of atoms, in order.
    cutoff
        Å.
    cutoffs
        float64 [T, T], Å, of each pair of kinds, centre first; ``None`` if all have `cutoff`.
    dtype
        Of its parameters; geometry and sums of energies are in float64.
    features
        Name of what describes an atom, or the pairs of an atom, before energies are made of it; empty if unknown.
    width
        Its width.
    """

    type_names: tuple[str, ...]
    cutoff: float
    cutoffs: torch.Tensor | None
    dtype: torch.dtype
    features: str = ""
    width: int = 0

    @classmethod
    def of(cls, network: Any) -> NetworkFacts:
        """Read them.

        Raises
        ------
        ContractError
            If `network` is none of the framework.
        """
        try:
            metadata = network.metadata
            names = metadata["type_names"]
            names = tuple(names.split(" ") if isinstance(names, str) else names)
            cutoff, by_pair = float(metadata["r_max"]), metadata.get("per_edge_type_cutoff")
            dtype = {"float32": torch.float32, "float64": torch.float64}[metadata.get("model_dtype", "float32")]
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise ContractError(
                f"`model` is a {type(network).__name__} that lacks what is read of a network of the NequIP framework: "
                f"{error}. Pass one that its builders return, or use `NequIPWrapper.from_checkpoint(path)`."
            ) from error
        cutoffs = None
        if isinstance(by_pair, str) and by_pair:
            cutoffs = torch.tensor([float(each) for each in by_pair.split()], dtype=torch.float64)
        elif isinstance(by_pair, Mapping):
            cutoffs = torch.tensor([[by_pair[i][j] for j in names] for i in names], dtype=torch.float64)
        cutoffs = None if cutoffs is None else cutoffs.view(len(names), len(names))
        given = {} if isinstance(network, CompiledNetwork) else getattr(energy_model(network), "irreps_out", {})
        features = "edge_features" if "edge_energy" in given else "node_features"
        if given.get(features) is None:
            return cls(names, cutoff, cutoffs, dtype)
        return cls(names, cutoff, cutoffs, dtype, features, int(given[features].dim))

    def types(self, of_element: Mapping[str, str] | None) -> dict[int, int]:
        """Return the place of each element among the type names, by atomic number.

        Raises
        ------
        InputError
            If a type name is no element and `of_element` does not say which one it is for, or names an unknown one.
        """
        if of_element is None:
            of_element = {name: name for name in self.type_names}
        wrong = sorted(name for name in of_element if name not in SYMBOLS[1:])
        if wrong:
            raise InputError(
                f"{', '.join(wrong)} is no symbol of an element. Say which kind of atom each element is: "
                f"`types={{'C': {self.type_names[0]!r}}}`; the network knows {', '.join(self.type_names)}."
            )
        unknown = sorted(set(of_element.values()) - set(self.type_names))
        if unknown:
            raise InputError(f"`types` names {', '.join(unknown)}; this network knows {', '.join(self.type_names)}.")
        return {SYMBOLS.index(symbol): self.type_names.index(name) for symbol, name in of_element.items()}


class CompiledNetwork(nn.Module):
    """A network that differentiates its energy itself, and can not be differentiated.

    Parameters
    ----------
    network
        Takes and returns a dictionary of tensors.
    metadata
        What it says about itself.
    inputs
        Names of what it takes; ``None``: whatever there is.
    """

    def __init__(self, network: nn.Module, metadata: Mapping[str, Any], inputs: Sequence[str] | None = None) -> None:
        super().__init__()
        self.network, self.metadata, self._inputs = network, dict(metadata), inputs

    def forward(self, data: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return energies [B, 1], forces [N, 3] and stress [B, 3, 3], detached, in float64."""
        data, systems = dict(data), len(data["num_atoms"])
        if self._inputs is not None and not set(_FRAMES) <= set(self._inputs):
            if systems > 1:
                raise InputError(
                    f"This network was compiled for one system at a time, and the batch has {systems}. Compile it for "
                    f"batches: `nequip-compile --mode aotinductor --target batch`."
                )
            data = {key: value for key, value in data.items() if key not in _FRAMES}
        elif self._inputs is not None and systems == 1:  # it was compiled for two and more: one without atoms
            data["num_atoms"] = torch.cat((data["num_atoms"], data["num_atoms"].new_zeros(1)))
            data["cell"] = torch.cat((data["cell"], torch.eye(3).to(data["cell"])[None]))
        with torch.enable_grad():
            found = self.network({key: value.detach().contiguous() for key, value in data.items()})
        found = {key: value.detach().clone() for key, value in found.items()}  # some come from inference mode
        return found | {key: found[key].view(-1, *shape)[:systems] for key, shape in _OF_SYSTEMS.items()}


_OF_SYSTEMS: dict[str, tuple[int, ...]] = {"total_energy": (1,), "stress": (3, 3)}


def energy_model(network: Any) -> Any:
    """Return what of a network gives energies: all of it but what differentiates them."""
    whole = network.model
    return getattr(whole, "func", whole)


def load_network(
    name: str | Path, device: torch.device, *, compile_model: bool, model_name: str, trust: bool
) -> tuple[nn.Module, str]:
    """Return the network in a file, or of a published name, in eval mode on a device, and the digest of its file.

    Raises
    ------
    InputError
        If there is no such file or network in it, it is not to be trusted, is damaged, holds something else, or needs
        another version of a package.
    OptionalDependencyError
        If nequip, or a package that the network needs, is not installed.
    """
    published = str(name).startswith(_PUBLISHED)
    digest = "" if published else _digest_of(Path(name))
    if not trust and digest.removeprefix("sha256:") not in KNOWN_PICKLES:
        raise needs_trust(name)
    _package("")
    try:
        with _loading():
            if str(name).endswith(COMPILED):
                network = _compiled(str(name), device)
            else:
                network = _saved(str(name), device, model_name, compile_model)
    except (InputError, MemoryError, OptionalDependencyError):
        raise
    except (AttributeError, ImportError) as error:  # of what the file names
        raise InputError(
            f"`{name}` was written with another version of a package than is installed, or with one that is not: "
            f"{error}. Install that one; for Allegro it is nequip-allegro."
        ) from error
    except OSError as error:
        raise InputError(f"`{name}` can not be read or downloaded ({error}).") from error
    except Exception as error:  # whatever code in a file that is trusted makes of it
        why = " ".join(str(error).split())[:200]
        raise InputError(
            f"`{name}` can not be loaded ({type(error).__name__}: {why}). If it is no file of the NequIP framework, "
            f"pass one; if another version of nequip or torch wrote it, package or compile it anew."
        ) from error
    return network.eval(), digest


def _digest_of(path: Path) -> str:
    """Return the digest of a file if it is there, of a kind that is read, and as it was written."""
    if not path.is_file():
        raise InputError(f"`{path}` is no file. Pass a file that ends in {', '.join((*_SAVED, *COMPILED))}.")
    if not path.name.endswith((*_SAVED, *COMPILED)):
        raise InputError(f"`{path}` ends in none of {', '.join((*_SAVED, *COMPILED))}, which tell how to read it.")
    content = path.read_bytes()
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            wrong = archive.testzip()
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise InputError(f"`{path}` is damaged or no file of a network: {error}. Get the file again.") from error
    if wrong is not None:
        raise InputError(f"`{path}` is damaged: `{wrong}` in it has another checksum than when it was written.")
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _saved(name: str, device: torch.device, model_name: str, compile_model: bool) -> nn.Module:
    """Return the network of a package or checkpoint."""
    load = _package("model.saved_models").load_saved_model
    networks = load(name, compile_mode="compile" if compile_model else "eager", model_key=None)
    if model_name not in networks:
        raise InputError(f"`model_name` is {shown(model_name)}; `{name}` has {', '.join(networks)}.")
    network = networks[model_name].to(device)
    return CompiledNetwork(network, network.metadata) if compile_model else network


def _compiled(name: str, device: torch.device) -> nn.Module:
    """Return the network of a compiled file."""
    network, metadata = _package("model.inference_models").load_compiled_model(name, device)
    return CompiledNetwork(network, metadata, getattr(network, "input_keys", None))


def _package(submodule: str) -> ModuleType:
    return OptionalDependency.NEQUIP.load(submodule, needed_by="NequIPWrapper")


@contextlib.contextmanager
def _loading() -> Iterator[None]:
    """Let the package set what it sets for the whole process, and put it back, also what only it and torch know."""
    import torch._dynamo

    e3nn = importlib.import_module("e3nn")

    dynamo, names = torch._dynamo.config, ("capture_dynamic_output_shape_ops", "capture_scalar_outputs")
    flags = {name: getattr(dynamo, name) for name in names}
    sharing, optimization = torch.multiprocessing.get_sharing_strategy(), e3nn.get_optimization_defaults()
    with process_left_alone(), torch.inference_mode(False):
        warnings.simplefilter("ignore", DeprecationWarning)  # of what torch says about TorchScript
        settings = _package("utils.global_state")
        vars(settings)["_GLOBAL_STATE_INITIALIZED"] = (
            False  # it sets most of it once in a process, and we put that back
        )
        fusion = torch.jit.set_fusion_strategy([("DYNAMIC", 10)])
        settings.set_global_state()
        try:
            yield
        finally:
            for name, value in flags.items():
                setattr(dynamo, name, value)
            torch.multiprocessing.set_sharing_strategy(sharing)
            torch.jit.set_fusion_strategy(fusion)
            e3nn.set_optimization_defaults(**optimization)
