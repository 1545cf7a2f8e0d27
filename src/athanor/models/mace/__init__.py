"""MACE behind the common interface: `wrapper` is the model, `network` reads and prepares what it wraps."""

from athanor.models.mace.wrapper import MACEWrapper

__all__ = ["MACEWrapper"]
