"""Type aliases that name shapes in public signatures, and the few small types that every room shares.

The aliases are jaxtyping's; each is made on first use, so importing this module costs nothing. Shape letters:
``V`` atoms of the batch, ``B`` systems, ``E`` pairs, ``K`` neighbour capacity, ``H`` feature width, ``A`` attributes,
``C`` centroids, ``M`` ensemble members (the letters of the reference, kept here because the names are public).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from enum import Enum
from typing import Any, Protocol

import torch

ModelOutputs = OrderedDict[str, torch.Tensor | None]
"""What a model returns: quantity -> tensor, ``None`` for what it did not compute."""

SampleTransform = Callable[[Any, dict], tuple[Any, dict]]
"""``(AtomicData, metadata) -> (AtomicData, metadata)``."""
BatchTransform = Callable[[Any], Any]
"""``Batch -> Batch``."""


class AtomCategory(Enum):
    """Role of an atom. Where two classes are needed, free and frozen, they are GAS and SPECIAL."""

    GAS = 0
    LIQUID = 1
    GL_INTERFACE = 2
    SURFACE = 3
    GS_INTERFACE = 4
    BULK = 5
    SB_INTERFACE = 6
    FRAGMENT = 7
    CLUSTER = 8
    TERMINAL = 9
    CENTRAL = 10
    SPECIAL = -1


class AbstractQueue(Protocol):
    """Anything with ``put`` and ``get``."""

    def put(self, item: Any) -> None:
        """Add an item."""

    def get(self) -> Any:
        """Take an item."""


class EmbeddingModel(Protocol):
    """A model that writes learned features onto the data it is given."""

    def compute_embeddings(self, data: Any, **kwargs: Any) -> Any:
        """Return `data` with embeddings set."""


class AtomsLike(Protocol):
    """A structure with the fields that every model reads or writes."""

    atomic_numbers: torch.Tensor
    positions: torch.Tensor
    cell: torch.Tensor | None
    energy: torch.Tensor | None
    forces: torch.Tensor | None


_FLOAT_SHAPES = {
    "Scalar": "",
    "AtomicMasses": "V",
    "NodeCharges": "V",
    "NodePositions": "V 3",
    "NodeVelocities": "V 3",
    "NodeMomentum": "V 3",
    "Forces": "V 3",
    "NodeSpins": "V 1",
    "NodeKineticEnergies": "V 1",
    "NodeTemperatures": "V 1",
    "NodeEmbeddings": "V H",
    "EdgeEmbeddings": "E H",
    "GraphEmbeddings": "B H",
    "NodeAttributes": "V A",
    "GraphCharges": "B 1",
    "GraphSpins": "B 1",
    "Energy": "B 1",
    "Fmax": "B 1",
    "SampleScores": "B 1",
    "GraphTemperatures": "B 1",
    "PeriodicShifts": "E 3",
    "LatticeVectors": "B 3 3",
    "StrainDisplacement": "B 3 3",
    "Stress": "B 3 3",
    "Virials": "B 3 3",
    "Hessian": "V 3 3",
    "Dipole": "B 3",
    "Centroids": "C H",
    "EnsembleEnergies": "M B 1",
    "EnsembleForces": "M V 3",
    "EnsembleHessians": "M V 3 3",
    "EnsembleStresses": "M B 3 3",
    "EnsembleVirials": "M B 3 3",
    "EnsembleDipoles": "M B 3",
}
_SHAPES: dict[str, tuple[str, str]] = {
    **{name: ("Float", shape) for name, shape in _FLOAT_SHAPES.items()},
    "AtomicNumbers": ("Integer", "V"),
    "AtomCategories": ("Integer", "V"),
    "BatchIndices": ("Integer", "V"),
    "NumNeighbors": ("Integer", "V"),
    "NumSteps": ("Integer", "B 1"),
    "Status": ("Integer", "B 1"),
    "NeighborList": ("Integer", "E 2"),
    "NeighborMatrix": ("Integer", "V K"),
    "NeighborListShifts": ("Num", "E 3"),
    "NeighborMatrixShifts": ("Num", "V K 3"),
    "Periodicity": ("Bool", "B 3"),
}
_JAXTYPING_NAMES = frozenset({"Bool", "Float", "Integer", "Num"})


def __getattr__(name: str) -> Any:
    """Make an alias on first use; without jaxtyping an alias is plainly a tensor."""
    if name not in _SHAPES and name not in _JAXTYPING_NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: Any = torch.Tensor
    try:
        import jaxtyping
    except ImportError:
        pass
    else:
        kind, shape = _SHAPES.get(name, (name, None))
        value = getattr(jaxtyping, kind)
        value = value if shape is None else value[torch.Tensor, shape]
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_SHAPES, *_JAXTYPING_NAMES})
