"""SO3LR behind the common interface: `wrapper` is the model, `network` evaluates and loads what it wraps."""

from athanor.models.so3lr.wrapper import SO3LRWrapper

__all__ = ["SO3LRWrapper"]
