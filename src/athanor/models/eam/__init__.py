"""Embedded-atom potentials."""

from __future__ import annotations

from athanor.models.eam.readers import read_eam
from athanor.models.eam.tables import EAMTables
from athanor.models.eam.wrapper import EAMModelWrapper

__all__ = ["EAMModelWrapper", "EAMTables", "read_eam"]
