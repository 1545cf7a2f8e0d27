"""Models exported by metatomic behind the common interface: `wrapper` is the model, `systems` what it is called with."""

from athanor.models.metatomic.wrapper import MetatomicWrapper

__all__ = ["MetatomicWrapper"]
