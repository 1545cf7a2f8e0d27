"""Cut the power of a file system under a running writer, let the file system recover, and read what is left.

A loop device holds the file system; the shutdown call of ``xfs_io`` throws away whatever was not synced, as a power cut
does. Needs root, a loop device, ``xfsprogs`` and ``e2fsprogs``. By hand: ``python tests/reliability/power_rig.py 50``.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

FILE_SYSTEMS = {"xfs": ["mkfs.xfs", "-q", "-f"], "ext4": ["mkfs.ext4", "-q", "-F"]}
VARIANTS = {"nothing unsynced": "shutdown", "journal only": "shutdown -f"}

WRITER = """
import sys, time
import torch
from athanor.sinks import ZarrData
from athanor.testing.sink_contract import make_batch
sink = ZarrData(sys.argv[1], durability=sys.argv[2], config={"shard_bytes": 4096, "buffer_bytes": int(sys.argv[3])})
step = 0
while True:
    batch = make_batch(0, (2, 1, 3))
    batch.step = torch.full((3, 1), step)
    batch.positions += step
    sink.write(batch)
    step += 1
    print("ACK", sink.acknowledged // 3, flush=True)
    if step % 97 == 0:
        sink.close()
        print("ACK", sink.acknowledged // 3, flush=True)
"""


def missing() -> str | None:
    """What this machine lacks, or None."""
    if os.geteuid() != 0:
        return "not root"
    for program in ("losetup", "xfs_io", "mkfs.xfs", "mkfs.ext4", "mount"):
        if shutil.which(program) is None:
            return f"no `{program}`"
    with suppress(OSError):
        for number in range(4):
            if not os.path.exists(f"/dev/loop{number}"):
                os.mknod(f"/dev/loop{number}", 0o660 | 0o060000, os.makedev(7, number))
    found = subprocess.run(["losetup", "-f"], capture_output=True, check=False)
    return "no loop device" if found.returncode else None


@contextmanager
def disk(kind: str) -> Iterator[tuple[str, Path]]:
    """Make a file system on a loop device; its device and a place to mount it."""
    with tempfile.TemporaryDirectory() as folder:
        image, place = Path(folder) / "disk.img", Path(folder) / "m"
        with image.open("wb") as file:
            file.truncate(400 << 20)
        place.mkdir()
        loop = run(["losetup", "-f", "--show", str(image)]).strip()
        try:
            run([*FILE_SYSTEMS[kind], loop])
            yield loop, place
        finally:
            subprocess.run(["umount", str(place)], check=False, capture_output=True)
            run(["losetup", "-d", loop])


def run(command: list[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def cut(kind: str, variant: str, generator: random.Random) -> tuple[int, int]:
    """One power cut: frames acknowledged, and frames that are read afterwards, all of them right."""
    durability = generator.choice(["frame", "every:3", "every:10"])
    with disk(kind) as (loop, place):
        run(["mount", loop, str(place)])
        child = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(place / "t.zarr"), durability, str(generator.choice([3000, 20_000]))],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert child.stdout is not None
        child.stdout.readline()
        deadline = time.monotonic() + generator.uniform(0.05, 0.9)
        if generator.random() < 0.5:  # a sync of everything at another moment mixes old and new
            time.sleep(max(0.0, (deadline - time.monotonic()) * generator.random()))
            os.kill(child.pid, signal.SIGSTOP)
            os.sync()
            os.kill(child.pid, signal.SIGCONT)
        time.sleep(max(0.0, deadline - time.monotonic()))
        os.kill(child.pid, signal.SIGSTOP)
        run(["xfs_io", "-x", "-c", VARIANTS[variant], str(place)])
        child.kill()
        acknowledged = max([0, *(int(line.split()[1]) for line in child.stdout if line.endswith("\n"))])
        child.wait()
        child.stdout.close()
        run(["umount", str(place)])
        run(["mount", loop, str(place)])
        found = readable(place / "t.zarr")
        go_on(place / "t.zarr", found)
        return acknowledged, found


def readable(store: Path) -> int:
    """Frames of a store; raises if one of them is wrong."""
    import torch

    from athanor.sinks import ZarrData
    from athanor.testing.sink_contract import make_batch

    if not (store / "format.json").exists():
        return 0
    sink = ZarrData(store, mode="r")
    if not len(sink):
        return 0
    found = sink.read()
    frames = found.num_graphs // 3
    first = make_batch(0, (2, 1, 3)).positions
    torch.testing.assert_close(found.step.flatten(), torch.arange(frames).repeat_interleave(3), rtol=0, atol=0)
    wanted = first.repeat(frames, 1) + torch.arange(frames).repeat_interleave(6)[:, None]
    torch.testing.assert_close(found.positions, wanted, rtol=0, atol=1e-9)
    return frames


def go_on(store: Path, frames: int) -> None:
    """The next writer goes on from there."""
    from athanor.sinks import ZarrData
    from athanor.testing.sink_contract import make_batch

    with ZarrData(store) as sink:
        assert len(sink) == 3 * frames
        sink.write(make_batch(0, (2, 1, 3)))
    assert len(ZarrData(store, mode="r").read().num_nodes_list) == 3 * frames + 3


def main(cuts: int) -> None:
    """Cut often, and print what came of it."""
    lacking = missing()
    if lacking:
        raise SystemExit(f"power cuts can not be tried here: {lacking}")
    totals: Counter[str] = Counter()
    for kind in FILE_SYSTEMS:
        for variant in VARIANTS:
            generator, lost, frames = random.Random(f"{kind} {variant}"), 0, 0
            for _ in range(cuts):
                acknowledged, found = cut(kind, variant, generator)
                lost += max(0, acknowledged - found)
                frames += acknowledged
            totals.update(cuts=cuts, acknowledged=frames, lost=lost)
            print(f"{kind}, {variant}: {cuts} cuts, {frames:,} frames acknowledged, {lost} lost", flush=True)
    print(", ".join(f"{key} {value:,}" for key, value in totals.items()))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
