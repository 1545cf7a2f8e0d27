"""Door: the hooks that watch a run at the address where scripts import them from."""

from __future__ import annotations

from athanor.dynamics.hooks.energy_drift import EnergyDriftMonitorHook

__all__ = ["EnergyDriftMonitorHook"]
