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
    reserve.keep_for_checkpoint(1000)
    reserve.give_back()


def test_room_for_a_checkpoint_is_beside_that_for_the_end(tmp_path: Path) -> None:
    reserve = Reserve(tmp_path, SPEC, from_python([bulk("Ar", cubic=True) * (5, 5, 5)]))
    before = taken(tmp_path)
    reserve.keep_for_checkpoint(1_000_000)
    assert before + 1_000_000 <= taken(tmp_path) < before + 2_000_000
    reserve.keep_for_checkpoint(500_000)
    assert taken(tmp_path) >= before + 1_000_000, "a smaller one after a larger one gives nothing back"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, limits[1]))
        reserve.keep_for_checkpoint(2_000_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert before + 1_000_000 <= taken(tmp_path) < before + 2_000_000, "what there is no room for takes none"
    reserve.keep_for_checkpoint(2_000_000)
    assert taken(tmp_path) >= before + 2_000_000
    reserve.give_back_for_checkpoint()
    assert 0 < taken(tmp_path) < before
    reserve.give_back()
    assert list(tmp_path.iterdir()) == []


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
