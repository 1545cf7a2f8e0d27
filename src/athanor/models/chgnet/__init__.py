"""CHGNet behind the common interface.

`wrapper` is the model, `graph` makes its graphs from the stored pair list, `network` and `gate` are the layers,
`weights` reads checkpoints.
"""

from athanor.models.chgnet.wrapper import CHGNetWrapper

__all__ = ["CHGNetWrapper"]
