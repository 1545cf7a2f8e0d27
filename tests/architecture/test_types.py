"""Type checkers and editors know the public names: those of the doors, and the fields of structures and batches."""

from __future__ import annotations

import importlib
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from athanor import _doors

SCRIPT = Path(__file__).parent / "door_stubs.py"
_spec = importlib.util.spec_from_file_location("door_stubs", SCRIPT)
assert _spec is not None
assert _spec.loader is not None
door_stubs = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(door_stubs)


@pytest.mark.parametrize("door", sorted(_doors.TABLE))
def test_the_stub_is_what_the_table_says(door: str) -> None:
    written = door_stubs.source_of(door).with_suffix(".pyi").read_text(encoding="utf-8")
    wanted = door_stubs.stub(door)
    assert written == wanted, "run `python tests/architecture/door_stubs.py` to write the stubs anew"
    for name in (*_doors.TABLE[door], *getattr(importlib.import_module(door), "__all__", ())):
        assert f" {name} as {name}\n" in written


USES = """
import athanor
import athanor.dynamics
import athanor.models
from athanor.data import AtomicData, Batch

reveal_type(athanor.relax)
reveal_type(athanor.dynamics.ZarrData)
reveal_type(athanor.dynamics.NVE)
reveal_type(athanor.models.get)


def read(batch: athanor.Batch, data: athanor.AtomicData) -> None:
    reveal_type(batch)
    reveal_type(batch.positions)
    reveal_type(batch.neighbor_list)
    reveal_type(batch.my_label)
    reveal_type(data.positions)
    reveal_type(data.energy)
    batch.forces = 3


athanor.no_such_name
"""
KNOWN = {
    7: "-> athanor.workflows.results.RunResult",
    8: "-> athanor.sinks.zarr_data.ZarrData",
    9: "-> athanor.dynamics.integrators.nve.NVE",
    10: "-> athanor.models.mixin.BaseModelMixin",
    14: '"athanor.data.batch.Batch"',
    15: '"torch._tensor.Tensor"',
    16: '"torch._tensor.Tensor"',
    17: '"Any"',
    18: '"torch._tensor.Tensor"',
    19: '"torch._tensor.Tensor | None"',
    20: "Incompatible types in assignment",
    23: 'Module has no attribute "no_such_name"',
}
"""Line of `USES` -> what mypy says of it."""


def test_mypy_knows_public_names_and_fields(tmp_path: Path, repository: Path) -> None:
    pytest.importorskip("mypy")
    script = tmp_path / "uses.py"
    script.write_text(USES, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--cache-dir", str(repository / ".mypy_cache"), str(script)],
        cwd=repository,
        env={**os.environ, "MYPYPATH": str(repository / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    said = {}
    for line in done.stdout.splitlines():
        place, colon, text = line.partition("uses.py:")[2].partition(": ")
        if colon:
            said[int(place)] = text
    wrong = {number: said.get(number) for number, text in KNOWN.items() if text not in said.get(number, "")}
    assert not wrong, f"{wrong}\n{done.stdout}{done.stderr}"
