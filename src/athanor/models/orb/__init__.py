"""ORB behind the common interface: `wrapper` is the model, `network` loads what it wraps, `nearest` prunes pairs."""

from athanor.models.orb.wrapper import OrbWrapper

__all__ = ["OrbWrapper"]
