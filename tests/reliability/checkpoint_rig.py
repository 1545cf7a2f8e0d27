"""Damage checkpoints in every way, half of them with digests that are right again, and go on from them.

What is loaded is what was written, to the bit, or an error of storage or input is raised, soon and in little memory. By
hand: ``python tests/reliability/checkpoint_rig.py 20000``; prints what came of it, the longest time, the most memory.
"""

from __future__ import annotations

import hashlib
import json
import random
import resource
import shutil
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from athanor.data import Batch
from athanor.dynamics import NVTLangevin
from athanor.dynamics.checkpoint import SavedCheckpoint
from athanor.dynamics.hooks import Checkpoint, EnergyDriftMonitorHook, SnapshotHook
from athanor.errors import AthanorError, StorageError
from athanor.io.checkpoint import CheckpointFolder
from athanor.io.checkpoint.files import DIGESTS, STATE, TENSORS
from athanor.sinks import HostMemory
from athanor.testing.dynamics_contract import argon_cluster, argon_model, with_neighbor_hooks

if __package__:
    from .damage_rig import damage_bytes, damaged_text, report
else:
    from damage_rig import damage_bytes, damaged_text, report

Files = dict[str, bytes]
NAMES = (STATE, TENSORS, DIGESTS)


def make(*hooks: Any) -> Any:
    hooks = (SnapshotHook(HostMemory(100)), EnergyDriftMonitorHook(1.0), *hooks)
    return with_neighbor_hooks(NVTLangevin(argon_model(), 2.0, temperature=50.0, friction=0.1, hooks=hooks))


def originals(place: Path) -> dict[int, tuple[Files, Any]]:
    """Checkpoints of a run: their files, and what is in them."""
    folder = place / "original"
    batch = Batch.from_data_list([argon_cluster(3, 1), argon_cluster(2, 2)])
    make(Checkpoint(folder, every=2, seconds=None)).run(batch, 4)
    found = CheckpointFolder(folder)
    names = found.numbers()
    return {
        number: ({name: (folder / f"{number:08d}" / name).read_bytes() for name in NAMES}, found.load(number).tree)
        for number in names
    }


def equal(one: Any, other: Any) -> bool:
    """Whether two trees are equal to the bit."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        bits = [each.contiguous().as_strided((each.numel(),), (1,)).view(torch.uint8) for each in (one, other)]
        return (one.dtype, one.shape) == (other.dtype, other.shape) and torch.equal(*bits)
    if isinstance(one, dict) and isinstance(other, dict):
        return list(one) == list(other) and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and type(one) is type(other):
        return len(one) == len(other) and all(map(equal, one, other))
    return type(one) is type(other) and repr(one) == repr(other)


def damage(chance: random.Random, files: Files) -> bool:
    """Damage one file; whether its digest tells."""
    name, how = chance.choice(NAMES), chance.random()
    if how < 0.5:
        name = chance.choice((STATE, STATE, STATE, TENSORS))
        is_text = name == STATE and chance.random() < 0.8
        files[name] = damaged_text(chance, json.loads(files[name])) if is_text else damage_bytes(chance, files[name])
        lines = [f"{hashlib.sha256(files[each]).hexdigest()}  {each}\n" for each in (STATE, TENSORS)]
        files[DIGESTS] = "".join(lines).encode()
        return False
    if how < 0.9:
        files[name] = damage_bytes(chance, files[name])
    elif how < 0.95:
        del files[name]
    else:
        files[name] = files[chance.choice(NAMES)]
    return True


def use(place: Path, wanted: dict[int, Any], told: bool, whole: bool) -> str:
    """Load what is there and, where somebody made digests right, go on from it; what came of it."""
    found = CheckpointFolder(place).load()
    if told or found.number == min(wanted):
        return "right" if equal(found.tree, wanted[found.number]) else "other data, silently"
    if whole:
        engine = make()
        batch = SavedCheckpoint.load(place).restore(engine, allow=True)
        engine.resumed_folder.release()
        return "right" if batch.num_graphs == 2 else "another batch"
    return "right"


def cases(count: int, place: Path, seed: str = "damage") -> Iterator[tuple[str, float, int]]:
    """Damage and use so many checkpoints: what came of each, seconds of work, kilobytes that the program grew by."""
    whole = originals(place)
    wanted = {number: tree for number, (_, tree) in whole.items()}
    for number in range(count):
        chance = random.Random(f"{seed} {number}")
        newest = max(whole)
        files = dict(whole[newest][0])
        told = damage(chance, files)
        folder = place / "C"
        for which, content in ((min(whole), whole[min(whole)][0]), (newest, files)):
            (folder / f"{which:08d}").mkdir(parents=True)
            for name, raw in content.items():
                (folder / f"{which:08d}" / name).write_bytes(raw)
        started, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                outcome = use(folder, wanted, told, chance.random() < 0.5)
            outcome = outcome if outcome == "right" else f"case {number}: {outcome}"
        except AthanorError as error:
            is_right = not told and isinstance(error, StorageError | ValueError)
            outcome = "told" if is_right else f"case {number}: {type(error).__name__}: {error}"
        except Exception as error:
            outcome = f"case {number}: {type(error).__name__}: {error}"
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        yield outcome, time.process_time() - started, grown
        shutil.rmtree(folder)


if __name__ == "__main__":
    report(cases, int(sys.argv[1]) if len(sys.argv) > 1 else 1000, "checkpoints")
