"""Sums of models, and models that feed each other. Door: the code is in the files beside it."""

from athanor.models.pipeline.parts import DerivativeFunction, NeighborAdaptation, PipelineGroup, PipelineStep
from athanor.models.pipeline.wrapper import PipelineModelWrapper

__all__ = ["DerivativeFunction", "NeighborAdaptation", "PipelineGroup", "PipelineModelWrapper", "PipelineStep"]
