"""DIEP behind the common interface: `wrapper` is the model, `weights` finds and reads its parameters."""

from athanor.models.diep.wrapper import DIEPWrapper

__all__ = ["DIEPWrapper"]
