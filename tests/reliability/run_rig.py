"""Refuse every call to the system with which ``athanor md`` changes its folder, and look at what is left.

Each case is a run of the command line in this process. One call that concerns the results folder, or every one from
there on, is told that the disk is full, broken, over its quota or read-only, or that the process has too many files;
Python's own files go through `_pyio`, so that none is missed. The run goes on to the end as if nothing had been, or
ends with 74, says how many frames are safe, and they are: the same, bit by bit, as those of a run that nothing
disturbed. When the cause is gone, a run goes on from the folder, and another one may take its place. By hand, in an
empty folder: ``python tests/reliability/run_rig.py`` tries every call, ``... 7`` every seventh.
"""

from __future__ import annotations

import _pyio
import builtins
import errno
import io
import os
import re
import shutil
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from ase.build import bulk
from ase.io import write

from athanor.cli.main import call
from athanor.data.batch import Batch
from athanor.errors import StorageError
from athanor.io.store.check import check_store
from athanor.io.store.folder import Folder
from athanor.sinks import AsyncSink, ZarrData
from athanor.workflows import run
from athanor.workflows.checksums import check_file
from athanor.workflows.folder import CHECKSUMS, FINAL, LOG, SUMMARY_CSV, SUMMARY_JSON, TRAJECTORY

ERRORS = ("ENOSPC", "EIO", "EDQUOT", "EROFS", "EMFILE")
OF_OPENING = ("open",)
CHANGING = ("write", "pwrite", "fsync", "fdatasync", "rename", "replace", "truncate", "ftruncate", "posix_fallocate",
            "unlink", "remove", "mkdir", "rmdir")  # fmt: skip
REFUSED_BY = {"EMFILE": OF_OPENING, "EROFS": (*OF_OPENING, *CHANGING)}
"""Calls that an error is for; the others are for all that change something."""
OUT = Path("out")
STEPS = 7
MODEL = ["--model", "lennard-jones", *(word for pair in ("epsilon=0.0104", "sigma=3.4", "cutoff=8.5")
                                       for word in ("--model-option", pair))]  # fmt: skip
COMMAND = ["md", "argon.extxyz", "-T", "30", "--every", "1", "--threads", "1", *MODEL]
LAYOUT = {"shard_bytes": 2048, "buffer_bytes": 5000}
"""So small that rows move into the arrays several times in a run."""


class Refusing:
    """Counts the calls that concern a folder; refuses the one with a number, or all from there on.

    Parameters
    ----------
    folder
        What the disk is.
    error
        Name of the error.
    number
        From 1; None only counts.
    stays
        Whether every later call is refused as well.
    """

    def __init__(self, folder: Path, error: str = "EIO", number: int | None = None, stays: bool = False) -> None:
        self._folder = os.path.abspath(folder)
        self._error, self._number, self._stays = error, number, stays
        self._of_error = REFUSED_BY.get(error, CHANGING)
        self._files: set[int] = set()
        self._lock = threading.RLock()
        self.count = 0
        self.refused: list[str] = []

    def _concerns(self, target: Any, dir_fd: int | None) -> bool:
        if isinstance(target, int):
            return target in self._files
        if dir_fd is not None:
            return dir_fd in self._files
        return os.path.abspath(os.fsdecode(target)).startswith(self._folder)

    def _look(self, name: str, target: Any, dir_fd: int | None) -> bool:
        if not self._concerns(target, dir_fd):
            return False
        with self._lock:
            if name in self._of_error:
                self.count += 1
                hit = self._number is not None and (self.count >= self._number if self._stays else
                                                    self.count == self._number)  # fmt: skip
                if hit:
                    self.refused.append(name)
                    number = getattr(errno, self._error)
                    raise OSError(number, os.strerror(number), None if isinstance(target, int) else str(target))
        return True

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Have all calls of this process go this way."""
        calls = {name: self._through(name) for name in (*CHANGING, "open", "close")}
        files = {"open": _pyio.open}
        with mock.patch.multiple(os, **calls), mock.patch.multiple(builtins, **files), mock.patch.multiple(io, **files):
            yield

    def _through(self, name: str) -> Any:
        real = getattr(os, name)

        def called(target: Any, *more: Any, dir_fd: int | None = None, **options: Any) -> Any:
            options |= {} if dir_fd is None else {"dir_fd": dir_fd}
            if name == "close":
                self._files.discard(target)
                return real(target)
            is_ours = self._look(name, target, dir_fd)
            found = real(target, *more, **options)
            if name == "open" and is_ours:
                self._files.add(found)
            return found

        return called


_GROWING = ("write", "pwrite", "posix_fallocate")
_BLOCK = 4096


class Small(Refusing):
    """A disk that has so many bytes, all of them for a folder."""

    def __init__(self, folder: Path, size: int) -> None:
        super().__init__(folder)
        self._size = size

    def _through(self, name: str) -> Any:
        through = super()._through(name)
        if name not in _GROWING:
            return through

        def called(target: int, *more: Any) -> Any:
            with self._lock:
                if self._concerns(target, None) and not self._has_room(name, target, more):
                    self.refused.append(name)
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                return through(target, *more)

        return called

    def _has_room(self, name: str, target: int, more: tuple[Any, ...]) -> bool:
        size = os.fstat(target).st_size
        if name == "posix_fallocate":
            end = sum(more)
        else:
            end = len(more[0]) + (more[1] if name == "pwrite" else os.lseek(target, 0, os.SEEK_CUR))
        files = [path.stat().st_size for path in Path(self._folder).rglob("*") if path.is_file()]
        return sum(map(_in_blocks, files)) + max(0, _in_blocks(end) - _in_blocks(size)) <= self._size


def _in_blocks(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def run_md(*more: str) -> tuple[int, str]:
    """Run the command line; return its exit code and what it says on stderr."""
    screen = io.StringIO()
    with redirect_stdout(io.StringIO()), redirect_stderr(screen):
        code = call([*COMMAND, *more])
    return code, screen.getvalue()


def whole_frames(store: Path) -> Batch | None:
    """All frames of a store, after a look at every byte; None if there is none."""
    if not (store / "format.json").exists():
        return None
    reader = ZarrData(store, mode="r")
    return reader.read() if len(reader) else None


def tables(folder: Path) -> list[bytes]:
    """What a run says besides its frames."""
    return [(folder / name).read_bytes() for name in (FINAL, SUMMARY_CSV, SUMMARY_JSON, LOG)]


class Rig:
    """The folder in which this happens, with a run that nothing disturbed."""

    def __init__(self) -> None:
        write("argon.extxyz", [bulk("Ar", a=5.2 + 0.1 * number, cubic=True) for number in range(2)])
        self.opened = lambda place: AsyncSink(ZarrData(place, config=LAYOUT))
        code, told = self.run("-o", "whole", "--steps", str(STEPS))
        assert code == 0, told
        frames = whole_frames(Path("whole") / TRAJECTORY)
        assert frames is not None
        self.frames, self.tables = frames, tables(Path("whole"))

    def run(self, *more: str) -> tuple[int, str]:
        """A run whose store is cut small."""
        with mock.patch.object(run, "_open_sink", self.opened):
            return run_md(*more)

    def case(self, error: str, number: int | None, stays: bool) -> str:
        """One run with one fault: ``over`` if there was no such call, ``told`` or ``unnoticed``."""
        disk = Refusing(OUT, error, number, stays)
        with disk.installed():
            code, told = self.run("-o", str(OUT), "--steps", str(STEPS))
        try:
            self.look(code, told)
            self.go_on()
        except (AssertionError, StorageError) as wrong:
            raise AssertionError(
                f"{error} at {disk.refused[:1]} {number}, exit code {code}: {wrong}\n{told}"
            ) from wrong
        shutil.rmtree(OUT, ignore_errors=True)
        return "over" if not disk.refused else "told" if code else "unnoticed"

    def look(self, code: int, told: str) -> None:
        """Is what the run says of its folder true?"""
        assert code in (0, 74), f"exit code {code}"
        assert "Traceback" not in told, "a traceback"
        assert "Exception ignored" not in told, "an exception that nobody caught"
        frames = whole_frames(OUT / TRAJECTORY)
        found = 0 if frames is None else frames.num_graphs
        if frames is not None:
            self.compare(frames)
            problems = check_store(Folder(OUT / TRAJECTORY)).problems
            assert not problems, f"damage: {problems}"
        if code == 0:
            assert found == self.frames.num_graphs, f"{found} frames of {self.frames.num_graphs}"
            assert tables(OUT) == self.tables, "other tables"
            assert (OUT / CHECKSUMS).exists(), "no checksums"
        for name in (FINAL, SUMMARY_JSON, LOG) if (OUT / CHECKSUMS).exists() else ():
            check_file(OUT / name)
        safe = re.search(r"; ([\d,]+) of ([\d,]+) frames are safe", told)
        if safe is not None:  # what was not synced is there as well, as long as the power is
            least, most = (int(number.replace(",", "")) for number in safe.groups())
            assert least <= found <= most, f"{found} frames are there"
        assert code == 0 or "can not be" in told or "failed" in told or "did not take" in told, "no cause"

    def compare(self, frames: Batch) -> None:
        """Are frames the first of those of the undisturbed run, to the bit?"""
        wanted = self.frames.index_select(list(range(frames.num_graphs)))
        for name, values in frames:
            assert torch.equal(values.nan_to_num(7.0), wanted[name].nan_to_num(7.0)), f"`{name}` of a frame differs"

    def go_on(self) -> None:
        """The cause is gone: a run goes on from what is there, and another one may take its place."""
        store = OUT / TRAJECTORY
        if (OUT / FINAL).exists() or whole_frames(store) is not None:
            shutil.rmtree("more", ignore_errors=True)
            code, told = run_md_on(OUT, "-o", "more")
            assert code == 0, f"no run goes on from there: {told}"
        if (store / "format.json").exists():
            with ZarrData(store) as sink:
                before = len(sink)
                sink.write(self.frames.index_select([0]))
            again = whole_frames(store)
            assert again is not None
            assert again.num_graphs == before + 1, "the store does not go on"
        code, told = self.run("-o", str(OUT), "--steps", "2", "--overwrite")
        assert code == 0, f"it can not be replaced: {told}"


def run_md_on(folder: Path, *more: str) -> tuple[int, str]:
    """Go on from a results folder for two steps, with the usual store."""
    screen = io.StringIO()
    with redirect_stdout(io.StringIO()), redirect_stderr(screen):
        code = call(["md", str(folder), "-T", "30", "--steps", "2", *COMMAND[6:], *more])
    return code, screen.getvalue()


def cases(rig: Rig, error: str, stays: bool, every: int, first: int = 1) -> Counter[str]:
    """Refuse every so many calls, until there is none left."""
    found: Counter[str] = Counter()
    number = first
    while not found["over"]:
        found[rig.case(error, number, stays)] += 1
        number += every
    del found["over"]
    return found


def main(every: int) -> None:
    """Try every call, or some of them, and print what came of it."""
    totals: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as place:
        os.chdir(place)
        rig = Rig()
        for error in ERRORS:
            for stays in (False, True):
                found = cases(rig, error, stays, every)
                totals.update(found)
                told = ", ".join(f"{count} {name}" for name, count in found.items())
                print(f"{error}, {'from there on' if stays else 'once'}: {told}", flush=True)
        os.chdir("/")
    print(", ".join(f"{count:,} {name}" for name, count in totals.items()))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1)
