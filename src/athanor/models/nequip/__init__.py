"""NequIP and Allegro behind the common interface: `wrapper` is the model, `network` reads files and what is in them."""

from athanor.models.nequip.wrapper import NequIPWrapper

__all__ = ["NequIPWrapper"]
