"""Door: the hooks that guard a run at the address where scripts import them from."""

from __future__ import annotations

from athanor.dynamics.hooks.force_clamp import MaxForceClampHook
from athanor.dynamics.hooks.nan_detector import NaNDetectorHook

__all__ = ["MaxForceClampHook", "NaNDetectorHook"]
