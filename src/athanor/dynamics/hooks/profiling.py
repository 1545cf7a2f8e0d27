"""Door: the hooks that measure a run at the address where scripts import them from."""

from __future__ import annotations

from athanor._doors import door

__getattr__, __dir__ = door(__name__)
