"""AIMNet2 behind the common interface: `wrapper` the network, `potential` the sum that it is a part of."""

from athanor.models.aimnet2.potential import aimnet2_potential
from athanor.models.aimnet2.wrapper import AIMNet2Wrapper

__all__ = ["AIMNet2Wrapper", "aimnet2_potential"]
