"""Models exported by metatomic behind the common interface: `wrapper` is the model, `systems` makes its input."""

from athanor.models.metatomic.wrapper import MetatomicWrapper

__all__ = ["MetatomicWrapper"]
