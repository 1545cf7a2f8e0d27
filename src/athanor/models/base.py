"""Door: the interface that every wrapper implements."""

from athanor.models.card import ModelCard
from athanor.models.config import ModelConfig, NeighborConfig, NeighborListFormat
from athanor.models.mixin import BaseModelMixin

__all__ = ["BaseModelMixin", "ModelCard", "ModelConfig", "NeighborConfig", "NeighborListFormat"]
