"""Energy, forces and virial of embedded-atom potentials."""

from __future__ import annotations

from athanor.kernels.eam.op import embedded_atom

__all__ = ["embedded_atom"]
