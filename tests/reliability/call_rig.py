"""Kill a writer at every call to the system, or refuse the call, and read what is left. Needs ``strace``.

A program that has loaded everything forks; the child waits until it is traced, then goes through a life of a store, and
at one call it dies, or is told that the disk is full, broken, over its quota, or that it has too many files. After each
case the store holds what was done before the call, or that and what the call was for. By hand:
``python tests/reliability/call_rig.py`` tries every call, ``... 7`` every seventh.
"""

from __future__ import annotations

import mmap
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch

from athanor.errors import StorageError
from athanor.io.store.maintenance import repair_store, rewrite_store
from athanor.sinks import ZarrData
from athanor.testing.sink_contract import make_batch

CALLS = {
    "pwrite64": ("KILL", "ENOSPC", "EIO", "EDQUOT"),
    "write": ("KILL", "ENOSPC"),
    "rename": ("KILL", "ENOSPC", "EIO"),
    "fsync": ("KILL", "EIO"),
    "fdatasync": ("KILL", "EIO", "ENOSPC"),
    "openat": ("KILL", "EMFILE", "ENOSPC"),
    "ftruncate": ("KILL", "EIO"),
    "unlink": ("KILL", "EIO"),
    "mkdir": ("KILL", "EDQUOT"),
    "renameat2": ("KILL", "EIO"),
}
SYSTEMS = (2, 1, 3)
LAYOUT = {"shard_bytes": 1024, "buffer_bytes": 3000}
Operation = tuple[str, int]
LIFE: tuple[Operation, ...] = (
    ("open", 0), *(("write", step) for step in range(6)), ("close", 0), ("write", 6), ("cut", 4), ("write", 100),
    ("write", 101), ("close", 0), ("anew", 0), ("write", 102), ("repair", 0), ("write", 103), ("end", 0),
)  # fmt: skip


def contents() -> list[list[int]]:
    """Steps that a store holds after so many operations."""
    found: list[list[int]] = [[]]
    for what, number in LIFE:
        now = found[-1]
        found.append([*now, number] if what == "write" else now[:number] if what == "cut" else now)
    return found


def steps_of(store: Path) -> list[int]:
    """Steps of the frames of a store; raises if one of them is not right."""
    if not (store / "format.json").exists():
        return []
    reader = ZarrData(store, mode="r")
    if not len(reader):
        return []
    batch = reader.read()
    steps = batch.step.flatten().reshape(-1, 3)
    assert bool((steps == steps[:, :1]).all()), "a frame is torn"
    first = make_batch(0, SYSTEMS).positions
    wanted = first.repeat(len(steps), 1) + steps[:, :1].repeat_interleave(6, 0)
    torch.testing.assert_close(batch.positions, wanted.to(first.dtype), rtol=0, atol=1e-9)
    return [int(step) for step in steps[:, 0]]


class Life:
    """One life of a store; `done` counts operations in memory that the parent sees."""

    def __init__(self, store: Path, done: np.ndarray) -> None:
        self.store, self.done, self.sink = store, done, None
        self.contents = contents()

    def _open(self) -> ZarrData:
        if self.sink is None:
            self.sink = ZarrData(self.store, durability="frame", config=LAYOUT)
        return self.sink

    def _close(self) -> None:
        if self.sink is not None:
            self.sink.close()
            self.sink = None

    def _do(self, what: str, number: int) -> None:
        if what == "open":
            self._open()
        elif what == "write":
            batch = make_batch(0, SYSTEMS)
            batch.step = torch.full((3, 1), number)
            batch.positions += number
            self._open().write(batch)
        elif what == "cut":
            self._open().truncate_to(3 * number)
        elif what == "anew":
            self._close()
            rewrite_store(self.store)
        elif what == "repair":
            self._close()
            repair_store(self.store)
        else:
            self._close()

    def go(self) -> None:
        """Do all of it; what fails is told once, and is done again."""
        for place, (what, number) in enumerate(LIFE):
            while self.done[0] == place:
                try:
                    self._do(what, number)
                    self.done[0] += 1
                except StorageError:
                    self.done[1] += 1
                    if self.done[1] > 5:
                        raise
                    self._look_again(place)

    def _look_again(self, place: int) -> None:
        """What the sink has is made safe; if it can not be, what the store has counts."""
        if self.sink is not None:
            wanted = 3 * len(self.contents[place + 1])
            with suppress(StorageError):
                self.sink.flush()
                if LIFE[place][0] == "write" and self.sink.acknowledged == wanted:
                    self.done[0] += 1
                if LIFE[place][0] != "write" or self.sink.acknowledged >= wanted - 3:
                    return
            self.sink.abandon()
            self.sink = None
        if LIFE[place][0] == "write" and steps_of(self.store) == self.contents[place + 1]:
            self.done[0] += 1


def child(store: Path, done: np.ndarray) -> None:
    """Wait for the tracer, and go."""
    with suppress(Exception):
        deadline = time.monotonic() + 20
        while b"TracerPid:\t0" in Path("/proc/self/status").read_bytes():
            if time.monotonic() > deadline:
                os._exit(3)
            time.sleep(0.002)
    try:
        Life(store, done).go()
    except BaseException:
        done[2] = 1
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def case(call: str, fault: str, number: int, folder: Path) -> str:
    """One life with one fault: ``over`` if there was no such call, ``killed``, ``told`` or ``unnoticed``."""
    store = folder / "t.zarr"
    shared = mmap.mmap(-1, 64)
    done = np.frombuffer(shared, dtype=np.int64)
    pid = os.fork()
    if pid == 0:
        child(store, done)
    what = "signal=KILL" if fault == "KILL" else f"error={fault}"
    tracer = subprocess.Popen(
        ["strace", "-qq", "-o", str(folder / "calls"), "-e", f"trace={call}", "-e",
         f"inject={call}:{what}:when={number}", "-p", str(pid)], stderr=subprocess.DEVNULL,
    )  # fmt: skip
    _, status = os.waitpid(pid, 0)
    tracer.wait()
    before, told, wrong = (int(value) for value in done[:3])
    hit = "INJECTED" in (folder / "calls").read_text() or os.WIFSIGNALED(status)
    where = f"{call} {number} {fault}, after {before} operations"
    assert not wrong, f"{where}: the writer failed"
    states = contents()
    found = steps_of(store)
    if os.WIFSIGNALED(status):
        assert found in states[before : before + 2], f"{where}: {found} of {states[before]}"
    else:
        assert os.WEXITSTATUS(status) == 0, f"{where}: status {status}"
        assert found == states[-1], f"{where}: {found} at the end"
    life = Life(store, np.zeros(3, dtype=np.int64))
    life._do("write", 200)
    life._close()
    assert steps_of(store) == [*found, 200], f"{where}: it did not go on"
    shutil.rmtree(store)
    for each in folder.iterdir():
        if each.name != "calls":
            shutil.rmtree(each)
    return "over" if not hit else "killed" if fault == "KILL" else "told" if told else "unnoticed"


def main(every: int) -> None:
    """Try every call, or some of them, and print what came of it."""
    if shutil.which("strace") is None:
        raise SystemExit("no `strace`")
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as place:
        folder = Path(place)
        Life(folder / "t.zarr", np.zeros(3, dtype=np.int64)).go()  # what is loaded late is loaded now
        assert steps_of(folder / "t.zarr") == contents()[-1]
        shutil.rmtree(folder / "t.zarr")
        totals: Counter[str] = Counter()
        for call, faults in CALLS.items():
            for fault in faults:
                found: Counter[str] = Counter()
                number = 1
                while not found["over"]:
                    try:
                        found[case(call, fault, number, folder)] += 1
                    except Exception as error:
                        found["bad"] += 1
                        print(f"BAD {call} {number} {fault}: {str(error)[:400]}", flush=True)
                        shutil.rmtree(folder / "t.zarr", ignore_errors=True)
                        if found["bad"] > 20:
                            break
                    number += every
                del found["over"]
                totals.update(found)
                print(f"{call} {fault}: " + ", ".join(f"{count} {name}" for name, count in found.items()), flush=True)
        print(", ".join(f"{count:,} {name}" for name, count in totals.items()))


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1)
