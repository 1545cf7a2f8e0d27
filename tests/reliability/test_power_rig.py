"""The power of a real file system is cut under a writer; what the rig needs and is missing is told."""

from __future__ import annotations

import random

import pytest

from . import power_rig

CUTS = 1


@pytest.mark.parametrize("variant", power_rig.VARIANTS)
@pytest.mark.parametrize("kind", power_rig.FILE_SYSTEMS)
def test_power_cuts(kind, variant):
    lacking = power_rig.missing()
    if lacking:
        pytest.skip(f"power-cut tests skipped: {lacking}; test_power_cut.py looks at the same promise without")
    generator = random.Random(f"{kind} {variant}")
    for _ in range(CUTS):
        acknowledged, found = power_rig.cut(kind, variant, generator)
        assert found >= acknowledged, f"{acknowledged} frames were acknowledged, {found} are left"
