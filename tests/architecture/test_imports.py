"""Importing athanor does nothing but import: no heavy package, no environment change, no warning filter."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

PROBE = """
import json, os, sys, time, warnings
cpu_torch = time.process_time()
import torch, numpy
cpu_torch = time.process_time() - cpu_torch
before = dict(os.environ), list(warnings.filters), torch.get_num_threads(), torch.get_default_dtype()
modules, cpu = set(sys.modules), time.process_time()
import athanor, athanor.data, athanor.models, athanor.dynamics, athanor.hooks
cpu = time.process_time() - cpu
after = dict(os.environ), list(warnings.filters), torch.get_num_threads(), torch.get_default_dtype()
new = sorted({name.partition(".")[0] for name in set(sys.modules) - modules})
print(json.dumps({"same": before == after, "new": new, "cpu": cpu, "cpu_torch": cpu_torch}))
"""
HEAVY = {"numba", "llvmlite", "zarr", "ase", "beartype", "pymatgen", "chgnet", "scipy", "typer", "rich", "yaml"}
CPU_OF_TORCH = 0.95
"""Seconds that ``import torch`` costs on the quiet machine for which the budget of 0.2 s was set."""


def run_python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_import_has_no_side_effects_and_is_light() -> None:
    seen = json.loads(run_python(PROBE))
    assert seen["same"], "the environment, the warning filters or torch's settings changed at import"
    assert not HEAVY & set(seen["new"])
    assert "athanor" in seen["new"]


def test_import_costs_little_over_torch() -> None:
    """At most 0.2 s of CPU; on a slow or busy machine as much more as torch itself takes more."""
    runs = [json.loads(run_python(PROBE)) for _ in range(3)]
    assert min(seen["cpu"] / max(1.0, seen["cpu_torch"] / CPU_OF_TORCH) for seen in runs) <= 0.2


def test_the_probe_would_notice_a_heavy_import() -> None:
    seen = json.loads(run_python(PROBE.replace("import athanor,", "import yaml, athanor,")))
    assert set(seen["new"]) & HEAVY


HELP = """
import sys, time
cpu_loop = time.process_time()
sum(i * i for i in range(1_000_000))
cpu_loop = time.process_time() - cpu_loop
started = time.process_time()
from athanor.cli.main import call
assert call({arguments!r}) == 0
cpu = time.process_time() - started
print("HEAVY", sorted({{"torch", "numpy", "ase", "numba", "zarr"}} & set(sys.modules)))
print("CPU", cpu / max(1.0, cpu_loop / 0.06))
"""
"""The loop takes 0.06 s on the quiet machine for which the budget of 0.3 s was set."""


@pytest.mark.parametrize("arguments", [["--help"], ["relax", "--help"], ["--version"]])
def test_help_does_not_load_torch(arguments: list[str]) -> None:
    assert "HEAVY []" in run_python(HELP.format(arguments=arguments)).splitlines()


def test_help_is_quick() -> None:
    """At most 0.3 s of CPU; on a slow or busy machine as much more as a fixed loop takes more."""
    runs = [run_python(HELP.format(arguments=["--help"])).splitlines() for _ in range(3)]
    assert min(float(lines[-1].removeprefix("CPU ")) for lines in runs) <= 0.3
