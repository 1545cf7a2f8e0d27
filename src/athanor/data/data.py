"""Door: what structures and batches share, at the address where scripts import it from."""

from __future__ import annotations

from athanor.data._mixin import DataMixin

__all__ = ["DataMixin"]
