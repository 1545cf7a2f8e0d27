"""UMA and eSEN of fairchem behind the common interface: `wrapper` is the model, `checkpoint` reads what it wraps."""

from athanor.models.uma.wrapper import UMATask, UMAWrapper

__all__ = ["UMATask", "UMAWrapper"]
