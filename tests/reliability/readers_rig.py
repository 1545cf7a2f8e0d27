"""Readers in programs of their own while a writer goes on: no mixed read, no error. ``python readers_rig.py 1000``.

The writer moves its log into the arrays at every frame, closes now and then, cuts the store back, empties
it and has it written anew. A frame says in every number which write it is of.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

READER = """
import sys
import torch
from athanor.errors import StorageError
from athanor.io.trajectory import TrajectoryReader
from athanor.testing.sink_contract import make_batch

store, first = sys.argv[1], make_batch(0, (2, 1, 3)).positions
looks = told = 0
reader = None
print("READY", flush=True)
while True:
    try:
        if reader is None or looks % 3 == 0:
            reader = TrajectoryReader(store)
        elif looks % 3 == 1:
            reader.refresh()
        looks += 1
        if len(reader):
            last = reader.read_rows(range(max(0, len(reader) - 12), len(reader)) if looks % 2 else range(len(reader)))
            steps = last.step.flatten().reshape(-1, 3)
            assert bool((steps == steps[:, :1]).all()), steps
            assert bool((steps[1:, 0] > steps[:-1, 0]).all()), steps[:, 0]
            wanted = first.repeat(len(steps), 1) + steps[:, :1].repeat_interleave(6, 0)
            torch.testing.assert_close(last.positions, wanted, rtol=0, atol=1e-9)
    except StorageError as error:
        if "meanwhile" not in str(error):
            print("BAD", error, flush=True)
            break
        told, reader = told + 1, None
    except AssertionError as error:
        print("BAD", str(error)[:300], flush=True)
        break
    if looks % 20 == 0:
        print("LOOKS", looks, told, flush=True)
"""


def main(commits: int, readers: int = 4) -> int:
    """Number of readers that saw something wrong."""
    import torch

    from athanor.io.store.maintenance import rewrite_store
    from athanor.sinks import ZarrData
    from athanor.testing.sink_contract import make_batch

    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "t.zarr"
        ZarrData(store).close()
        children = [
            subprocess.Popen([sys.executable, "-c", READER, str(store)], stdout=subprocess.PIPE, text=True)
            for _ in range(readers)
        ]
        for child in children:
            assert child.stdout is not None
            child.stdout.readline()
        sink, step = None, 0
        while step < commits:
            if sink is None:
                sink = ZarrData(store, durability="every:3", config={"shard_bytes": 2048, "buffer_bytes": 0})
            batch = make_batch(0, (2, 1, 3))
            batch.step = torch.full((3, 1), step)
            batch.positions += step
            sink.write(batch)
            step += 1
            if step % 97 == 0:
                sink.close()
            if step % 211 == 0:
                sink.truncate_to(3 * (len(sink) // 6))
            if step % 501 == 0:
                sink.zero()
            if step % 307 == 0:
                sink.close()
                sink = None
                rewrite_store(store)
        wrong = 0
        for child in children:
            child.kill()
            assert child.stdout is not None
            lines = child.stdout.read().splitlines()
            child.wait()
            bad = [line for line in lines if line.startswith("BAD")]
            wrong += bool(bad)
            print(*(bad or lines[-1:]), sep="\n")
        print(f"{step:,} commits, {readers} readers, {wrong} of them saw something wrong")
    return wrong


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    raise SystemExit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000))
