"""Files of metatomic: TorchScript archives, which are programs, and libraries that they may need.

Whether `torch.jit.load` runs code of the file: it does. A class in an archive may define how it is restored, and that
runs while the file is loaded, in an interpreter of torch's own. It has no Python, but every operator of torch, among
them one that writes a tensor to any file (`aten::save`); and those of the libraries that the archive names, which
metatomic loads from a folder beside it. PyTorch's own security notes say to treat an archive as a program of unknown
origin. So one is loaded only if it is trusted, as a whole pickle is.
"""

from __future__ import annotations

import io
import json
import zipfile
from importlib import metadata
from pathlib import Path
from typing import Any

from athanor._optional import OptionalDependency, process_left_alone
from athanor._values import shown
from athanor.errors import ContractError, InputError
from athanor.models.tensor_file import needs_trust, read_whole


def load_model(path: Path, extensions: Path | None, *, trust: bool) -> tuple[Any, str]:
    """Return the model in a file, on the CPU, and the digest of the file.

    Raises
    ------
    InputError
        If there is no such file, it is damaged, is no model of metatomic, is not to be trusted, or needs another
        version of the package or libraries that are not there.
    OptionalDependencyError
        If metatomic-torch is not installed.
    """
    package = OptionalDependency.METATOMIC.load(needed_by="MetatomicWrapper")
    content, digest = read_whole(path, packed=True)
    written_by, libraries = _told_by(path, content)
    if not trust:
        raise needs_trust(path)
    if extensions is not None and not extensions.is_dir():
        raise InputError(f"`extensions_directory` {extensions} is no folder. Pass the one that was exported along.")
    try:
        with process_left_alone():
            return package.load_atomistic_model(str(path), extensions and str(extensions)), f"sha256:{digest}"
    except MemoryError:
        raise
    except Exception as error:  # whatever torch, and libraries of others, make of an archive
        raise InputError(
            f"`{path}`, written by metatomic {written_by}{_named(libraries)}, can not be loaded by metatomic-torch "
            f"{metadata.version('metatomic-torch')}: {' '.join(str(error).split())[:200]}. Update metatomic-torch, or "
            f"install what it needs."
        ) from error


def checked(model: Any) -> Any:
    """Return the model if it is one of metatomic that has an energy.

    Raises
    ------
    ContractError
        If it is none.
    InputError
        If it has no energy.
    """
    OptionalDependency.METATOMIC.load(needed_by="MetatomicWrapper")
    if not all(hasattr(model, name) for name in ("capabilities", "requested_neighbor_lists", "requested_inputs")):
        raise ContractError(
            f"`model` is a {type(model).__name__}, no `AtomisticModel` of metatomic. Pass one, or use "
            f"`MetatomicWrapper.from_checkpoint(path)`."
        )
    outputs = model.capabilities().outputs
    if not any(name.split("/")[0] == "energy" for name in outputs):
        raise InputError(f"This model of metatomic gives {shown(sorted(outputs))}, but no `energy`.")
    return model


def _told_by(path: Path, content: bytes) -> tuple[str, list[str]]:
    """Return the version of metatomic that wrote an archive, and the libraries that it needs; nothing of it runs."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        found = {Path(name).name: name for name in archive.namelist() if Path(name).parent.name == "extra"}
        if "metatomic-version" not in found:
            raise InputError(
                f"`{path}` is no model of metatomic: it does not say which version wrote it. Pass a file that "
                f"`AtomisticModel.save` wrote, such as `mtt export` makes one."
            )
        version = archive.read(found["metatomic-version"]).decode(errors="replace")
        try:
            libraries = [str(each["name"]) for each in json.loads(archive.read(found["extensions"]))]
        except (KeyError, TypeError, ValueError):
            libraries = []
    return version, libraries


def _named(libraries: list[str]) -> str:
    return f" and from the libraries {', '.join(libraries)}" if libraries else ""
