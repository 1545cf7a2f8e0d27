"""Door: the logging hook at the address where scripts import it from."""

from __future__ import annotations

from athanor.dynamics.hooks.log_scalars import LoggingHook

__all__ = ["LoggingHook"]
