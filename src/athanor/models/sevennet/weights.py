"""SevenNet checkpoints: those inside the installed sevenn package, by name, and files of the user.

They hold tensors, numbers and numpy arrays, so that none has to be trusted: reading one runs no code.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from athanor._optional import OptionalDependency, process_left_alone
from athanor.errors import InputError
from athanor.models.tensor_file import read_tensor_file

SHIPPED: dict[str, tuple[str, str]] = {
    "7net-0": (
        "SevenNet_0__11Jul2024/checkpoint_sevennet_0.pth",
        "7052cb42b7b3be42b40b97fa0d21077a48c54b5548948fc4dcf346629f813c36",
    ),
    "7net-0-22may2024": (
        "SevenNet_0__22May2024/checkpoint_sevennet_0.pth",
        "5d389fafd512e6ae2830d74d0b66ffc49a55d3832653ff8e7bf7f1343013c1d1",
    ),
    "7net-l3i5": (
        "SevenNet_l3i5/checkpoint_l3i5.pth",
        "a7ff190d41efe5b8317a03d20a468e4036a1a3e64e0b14fdbab64ac3f4bfc09d",
    ),
    "7net-mf-0": (
        "SevenNet_MF_0/checkpoint_sevennet_mf_0.pth",
        "81791329b37d445f46b531578c182c41792d98c7814222c9e5dde276402225fd",
    ),
}
"""Name -> file below the package's ``pretrained_potentials`` folder, SHA-256 of that file."""

_RECONSTRUCT: Any = np.empty(0).__reduce__()[0]
_NUMPY = [
    _RECONSTRUCT,
    (_RECONSTRUCT, "numpy.core.multiarray._reconstruct"),  # as numpy before 2 called it
    np.ndarray,
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("bool", "int32", "int64", "float32", "float64")),
]
"""What a pickled array of numbers names."""


def load_network(name: str | Path) -> tuple[nn.Module, str]:
    """Return the network of a checkpoint, on the CPU, and the digest of its file.

    Parameters
    ----------
    name
        One of `SHIPPED`, or the path of a file that the training of sevenn wrote.

    Raises
    ------
    InputError
        For an unknown name, a shipped file with other contents than expected, or a file that is damaged or no
        checkpoint of SevenNet.
    OptionalDependencyError
        If sevenn is not installed.
    """
    package, digest = OptionalDependency.SEVENN.load(needed_by="SevenNetWrapper"), ""
    path = Path(name)
    if str(name) in SHIPPED:
        relative, digest = SHIPPED[str(name)]
        path = Path(str(package.__file__)).parent / "pretrained_potentials" / relative
    elif not path.exists():
        raise InputError(
            f"`{name}` is neither a checkpoint file nor one of the shipped ones: {', '.join(SHIPPED)}. Networks that "
            f"are published elsewhere have to be downloaded first; pass the path of the file."
        )
    with torch.serialization.safe_globals(_NUMPY):
        content, digest = read_tensor_file(path, digest=digest, name=str(name))
    if not isinstance(content, dict) or not {"config", "model_state_dict"} <= content.keys():
        raise InputError(
            f"`{path}` is no SevenNet checkpoint: it has no `config` and `model_state_dict`. Pass the file that the "
            f"training of sevenn wrote, `checkpoint_best.pth`."
        )
    try:
        with process_left_alone():
            warnings.simplefilter("ignore")  # of constants that older checkpoints lack
            checkpoint = OptionalDependency.SEVENN.load("checkpoint").SevenNetCheckpoint(path)
            network: nn.Module = checkpoint.build_model()
    except (AssertionError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(
            f"`{path}` does not fit the installed sevenn {package.__version__}: {type(error).__name__}: "
            f"{' '.join(str(error).split())[:200]}. It may be of another version of the package."
        ) from error
    return network, digest
