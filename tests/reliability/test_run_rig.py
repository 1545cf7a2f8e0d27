"""Runs whose folder refuses a call end with 74 or whole, keep what they said, and go on when the cause is gone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from athanor.errors import StorageError
from athanor.io.store import folder
from athanor.workflows import run

from . import run_rig
from .run_rig import ERRORS, Rig

pytestmark = pytest.mark.usefixtures("foreground")
EVERY = 97
"""Of some 300 to 450 calls."""


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("rig"))
        yield Rig()


@pytest.mark.parametrize("stays", [False, True], ids=["once", "from there on"])
@pytest.mark.parametrize("error", ERRORS)
def test_a_disk_that_refuses(error: str, stays: bool, rig: Rig) -> None:
    first = 1 + 9 * ERRORS.index(error) + 5 * stays
    found = run_rig.cases(rig, error, stays, EVERY, first)
    assert found["told"] > 0


# --------------------------------------------------------------------------------------------------- broken twins
def goes_on_without_a_word(patch: pytest.MonkeyPatch) -> None:
    def attempt(self: Any, write: Any, *arguments: Any, of: str = "") -> Any:
        try:
            return write(*arguments)
        except StorageError:
            return None

    patch.setattr(run._Run, "_attempt", attempt)


def calls_all_frames_safe(patch: pytest.MonkeyPatch) -> None:
    close_sink = run._Run._close_sink

    def twin(self: Any) -> int:
        handed_over = 0 if self.sink is None else len(self.sink)
        close_sink(self)
        self._frames_in_words = f"{handed_over} of {handed_over} frames are safe"
        return handed_over

    patch.setattr(run._Run, "_close_sink", twin)


def believes_a_write_that_failed(patch: pytest.MonkeyPatch) -> None:
    write = folder.Disk.write

    def twin(self: Any, descriptor: int, data: bytes, offset: int) -> None:
        with suppress(OSError):
            write(self, descriptor, data, offset)

    patch.setattr(folder.Disk, "write", twin)


@pytest.mark.parametrize(
    ("twin", "error", "stays"),
    [
        (goes_on_without_a_word, "EIO", True),
        (calls_all_frames_safe, "ENOSPC", True),
        (believes_a_write_that_failed, "EIO", False),
    ],
)
def test_a_broken_twin_is_told(twin: Any, error: str, stays: bool, rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    twin(monkeypatch)
    with pytest.raises(AssertionError):
        run_rig.cases(rig, error, stays, 23, 40)
    run_rig.shutil.rmtree(run_rig.OUT, ignore_errors=True)
