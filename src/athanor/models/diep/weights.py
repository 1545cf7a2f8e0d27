"""DIEP parameters: those inside the installed diep package, and folders of the user.

A folder holds two files of tensors and numbers. The loader of the package calls whatever class the first one names;
here it can be the network of the package only, so that nothing has to be trusted.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from torch import nn

from athanor._optional import OptionalDependency, process_left_alone
from athanor.errors import InputError
from athanor.models.tensor_file import read_tensor_file

SHIPPED: dict[str, tuple[str, str, str]] = {
    "r2scan": (
        "pretrained_models/diep_fold1",
        "3efd7caee45a02d4988b422f9caff18faa37dbdb0cf928324779bacbed1dc1c7",
        "3be1df5dbe3d15e1d35a2ca1d3c50a6b212ea2d248c89e02d84fa780eb609576",
    )
}
"""Name -> folder below that of the package, SHA-256 of its ``model.pt`` and ``state.pt``."""


def load_potential(name: str | Path) -> tuple[nn.Module, str]:
    """Return the potential of a folder, on the CPU, and the digest of its parameters.

    Parameters
    ----------
    name
        One of `SHIPPED`, or the path of a folder with ``model.pt`` and ``state.pt`` that ``Potential.save`` wrote.

    Raises
    ------
    InputError
        For an unknown name, a shipped folder with other contents than expected, or files that are damaged or no
        potential of DIEP.
    OptionalDependencyError
        If diep is not installed.
    """
    potentials = OptionalDependency.DIEP.load("apps.pes", needed_by="DIEPWrapper")
    folder, digests = Path(name), ("", "")
    if str(name) in SHIPPED:
        relative, *digests = SHIPPED[str(name)]  # type: ignore[assignment]
        folder = Path(str(potentials.__file__)).parents[1] / relative
    elif not folder.is_dir():
        raise InputError(
            f"`{name}` is neither a folder nor one of the shipped potentials: {', '.join(SHIPPED)}. Pass the folder "
            f"that `Potential.save` of diep wrote."
        )
    described, _ = read_tensor_file(folder / "model.pt", digest=digests[0], name=str(name))
    state, digest = read_tensor_file(folder / "state.pt", digest=digests[1], name=str(name))
    network = described.get("model") if isinstance(described, dict) else None
    arguments = network.get("init_args") if isinstance(network, dict) and network.get("@class") == "DIEP" else None
    if not isinstance(arguments, dict) or not isinstance(state, dict):
        raise InputError(
            f"`{folder}` is no potential of DIEP: `model.pt` does not describe a DIEP network, or `state.pt` holds no "
            f"parameters. Pass the folder that `Potential.save` of diep wrote."
        )
    options: dict[str, Any] = {key: value for key, value in described.items() if key != "model" and key[:1] != "@"}
    try:
        with process_left_alone():
            warnings.simplefilter("ignore")
            potential: nn.Module = potentials.Potential(
                model=OptionalDependency.DIEP.load("models._diep").DIEP(**arguments), **options
            )
        potential.load_state_dict(state)
    except (KeyError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(
            f"`{folder}` does not fit the installed diep: {' '.join(str(error).split())[:200]}. "
            f"It may be of another version of the package."
        ) from error
    return potential, digest
