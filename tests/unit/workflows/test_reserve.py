"""Room that is kept for the end of a run."""

from __future__ import annotations

import resource
from pathlib import Path

from ase.build import bulk

from athanor.workflows.reserve import Reserve
from athanor.workflows.spec import RunSpec
from athanor.workflows.structures import from_python

SPEC = RunSpec.model_validate(
    {"structures": [], "stages": [{"md": {"temperature": 10.0, "time": 10.0}}], "model": "lennard-jones"}
)


def taken(folder: Path) -> int:
    return sum(file.stat().st_blocks * 512 for file in folder.iterdir())


def test_it_takes_room_and_gives_it_back(tmp_path: Path) -> None:
    systems = from_python([bulk("Ar", cubic=True) * (5, 5, 5)] * 2)
    reserve = Reserve(tmp_path, SPEC, systems)
    assert taken(tmp_path) > 1000 * 300
    reserve.give_back_for_results()
    assert 0 < taken(tmp_path) < 100_000
    reserve.give_back()
    assert list(tmp_path.iterdir()) == []
    reserve.give_back_for_results()
    reserve.give_back()


def test_it_is_smaller_or_not_there_where_there_is_no_room(tmp_path: Path) -> None:
    systems = from_python([bulk("Ar", cubic=True) * (5, 5, 5)] * 2)
    whole = Reserve(tmp_path, SPEC, systems)
    size = taken(tmp_path)
    whole.give_back()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size - 100_000, limits[1]))
        Reserve(tmp_path, SPEC, systems)
        assert 0 < taken(tmp_path) < size
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
        Reserve(tmp_path, SPEC, systems)
        assert list(tmp_path.iterdir()) == []
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
