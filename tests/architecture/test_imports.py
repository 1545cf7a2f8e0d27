"""Importing athanor does nothing but import: no heavy package, no environment change, no warning filter.

How long it takes is a matter of the machine: `benchmarks/start_up.py` measures it.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

PROBE = """
import json, os, sys, warnings
import torch, numpy
before = dict(os.environ), list(warnings.filters), torch.get_num_threads(), torch.get_default_dtype()
modules = set(sys.modules)
import athanor, athanor.data, athanor.models, athanor.dynamics, athanor.hooks
after = dict(os.environ), list(warnings.filters), torch.get_num_threads(), torch.get_default_dtype()
new = {name.partition(".")[0] for name in set(sys.modules) - modules}
print(json.dumps({"same": before == after, "new": sorted(new - sys.stdlib_module_names)}))
"""


def run_python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_import_has_no_side_effects_and_loads_nothing_but_torch() -> None:
    assert json.loads(run_python(PROBE)) == {"same": True, "new": ["athanor"]}


@pytest.mark.parametrize(
    ("line", "seen"),
    [
        ("import iniconfig", {"same": True, "new": ["athanor", "iniconfig"]}),
        ("os.environ['A_B_C'] = '1'", {"same": False, "new": ["athanor"]}),
        ("warnings.simplefilter('ignore')", {"same": False, "new": ["athanor"]}),
    ],
)
def test_the_probe_would_notice(line: str, seen: dict) -> None:
    assert json.loads(run_python(PROBE.replace("\nafter", f"; {line}\nafter"))) == seen


HELP = """
import sys
from athanor.cli.main import main
try:
    main({arguments!r})
except SystemExit as end:
    assert not end.code
heavy = {{"torch", "numpy", "yaml", "ase", "numba", "zarr", "scipy", "matplotlib"}}
print("HEAVY", sorted(heavy & set(sys.modules)))
"""


@pytest.mark.parametrize("arguments", [["--help"], ["relax", "--help"], ["--version"]])
def test_help_loads_no_torch(arguments: list[str]) -> None:
    assert "HEAVY []" in run_python(HELP.format(arguments=arguments)).splitlines()
