"""SevenNet behind the common interface: `wrapper` is the model, `weights` finds and reads its parameters."""

from athanor.models.sevennet.wrapper import SevenNetWrapper

__all__ = ["SevenNetWrapper"]
