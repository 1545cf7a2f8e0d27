"""The Stillinger-Weber potential behind the common interface: `terms` holds its parameters and reads their file."""

from __future__ import annotations

from athanor.models.stillinger_weber.terms import Terms, read_stillinger_weber
from athanor.models.stillinger_weber.wrapper import StillingerWeberModelWrapper

__all__ = ["StillingerWeberModelWrapper", "Terms", "read_stillinger_weber"]
