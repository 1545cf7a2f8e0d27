"""The aliases of `_typing` exist under the public names and are made on first use."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch

from athanor import _typing

PUBLIC = (
    "AbstractQueue AtomCategories AtomCategory AtomicMasses AtomicNumbers AtomsLike BatchIndices "
    "BatchTransform Bool Centroids Dipole EdgeEmbeddings EmbeddingModel Energy EnsembleDipoles "
    "EnsembleEnergies EnsembleForces EnsembleHessians EnsembleStresses EnsembleVirials Float Fmax Forces "
    "GraphCharges GraphEmbeddings GraphSpins GraphTemperatures Hessian Integer LatticeVectors ModelOutputs "
    "NeighborList NeighborListShifts NeighborMatrix NeighborMatrixShifts NodeAttributes NodeCharges "
    "NodeEmbeddings NodeKineticEnergies NodeMomentum NodePositions NodeSpins NodeTemperatures NodeVelocities "
    "Num NumNeighbors NumSteps PeriodicShifts Periodicity SampleScores SampleTransform Scalar Status "
    "StrainDisplacement Stress Virials "
)


def test_public_names() -> None:
    for name in PUBLIC.split():
        assert getattr(_typing, name) is not None
        assert name in dir(_typing)
    assert isinstance(_typing.ModelOutputs(), OrderedDict)
    assert isinstance(torch.zeros(4, 3), _typing.Forces)
    assert not isinstance(torch.zeros(4, 2), _typing.Forces)
    with pytest.raises(AttributeError, match="Nonsense"):
        _typing.Nonsense
