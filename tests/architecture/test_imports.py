"""Importing athanor does nothing but import: no heavy package, no environment change, no warning filter."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

PROBE = """
import json, os, sys, time, warnings
import torch, numpy
before = dict(os.environ), list(warnings.filters), torch.get_num_threads(), torch.get_default_dtype()
modules, cpu = set(sys.modules), time.process_time()
import athanor, athanor.data, athanor.models, athanor.dynamics, athanor.hooks
cpu = time.process_time() - cpu
after = dict(os.environ), list(warnings.filters), torch.get_num_threads(), torch.get_default_dtype()
new = sorted({name.partition(".")[0] for name in set(sys.modules) - modules})
print(json.dumps({"same": before == after, "new": new, "cpu": cpu}))
"""
HEAVY = {"numba", "llvmlite", "zarr", "ase", "beartype", "pymatgen", "chgnet", "scipy", "typer", "rich", "yaml"}


def run_python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_import_has_no_side_effects_and_is_light() -> None:
    seen = json.loads(run_python(PROBE))
    assert seen["same"], "the environment, the warning filters or torch's settings changed at import"
    assert not HEAVY & set(seen["new"])
    assert "athanor" in seen["new"]


def test_import_costs_little_over_torch() -> None:
    assert min(json.loads(run_python(PROBE))["cpu"] for _ in range(3)) <= 0.2


def test_the_probe_would_notice_a_heavy_import() -> None:
    seen = json.loads(run_python(PROBE.replace("import athanor,", "import yaml, athanor,")))
    assert set(seen["new"]) & HEAVY


@pytest.mark.parametrize("arguments", [["--help"], ["relax", "--help"], ["--version"]])
def test_help_does_not_load_torch(arguments: list[str]) -> None:
    code = f"""
import sys, time
from athanor.cli.main import main
sys.argv = ["athanor"] + {arguments!r}
try:
    main()
except SystemExit as stop:
    assert not stop.code
heavy = {{"torch", "numpy", "ase", "numba", "pydantic", "zarr"}} & set(sys.modules)
print("HEAVY", sorted(heavy))
print("CPU", time.process_time())
"""
    runs = [run_python(code).splitlines() for _ in range(3)]
    assert all("HEAVY []" in lines for lines in runs)
    assert min(float(lines[-1].removeprefix("CPU ")) for lines in runs) <= 0.3
