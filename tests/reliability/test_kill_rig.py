"""Runs that are killed again and again end with the bits of runs that nobody disturbed."""

from __future__ import annotations

import subprocess
import sys

import pytest

KILLS = "from tests.reliability import kill_rig; kill_rig.main(4, 1)"
TWIN = "from athanor.sinks import ZarrData; ZarrData.load_state_dict = lambda self, state: None; "


@pytest.mark.parametrize("twin", ["", TWIN], ids=["real", "stores are not cut back"])
def test_a_run_that_is_killed_goes_on(repository, twin):
    command = [sys.executable, "-W", "ignore", "-c", twin + KILLS]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=repository)
    if twin:
        assert done.returncode != 0
        assert "other bits" in done.stderr
    else:
        assert done.returncode == 0, done.stderr[-2000:]
        assert done.stdout.startswith("4 kills in")
