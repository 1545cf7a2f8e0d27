"""MatterSim behind the common interface: `wrapper` is the model, `network` loads one, `triples` lists angles."""

from athanor.models.mattersim.wrapper import MatterSimWrapper

__all__ = ["MatterSimWrapper"]
