"""DIEP behind the common interface: `wrapper` is the model, `network` evaluates, `weights` loads what it wraps."""

from athanor.models.diep.wrapper import DIEPWrapper

__all__ = ["DIEPWrapper"]
