"""The same seed gives the same bits, run after run and process after process.

A process that has loaded everything and computed nothing forks: each child is as fresh as a new one, with its kernels
to load and torch's functions to call for the first time, and costs a tenth.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CHILDREN = 7

PROGRAM = """
import hashlib, os, sys
import numba, torch
from athanor.data import Batch
from athanor.dynamics import FIRE, NVTLangevin, FusedStage
from athanor.testing.dynamics_contract import argon_cluster, argon_crystal, argon_model, with_neighbor_hooks

def digest():
    model = argon_model()
    stages = [(0, FIRE(model, dt=0.3, n_steps=20)), (1, NVTLangevin(model, 4.0, temperature=60.0, friction=0.02))]
    batch = Batch.from_data_list([argon_crystal(2, 3), argon_cluster(9, 1), argon_crystal(3, 7)])
    with_neighbor_hooks(FusedStage(stages)).run(batch, 50)
    if sys.argv[2] == "entropy":  # the broken twin: somewhere a generator of the process is asked
        batch.velocities += 1e-12 * torch.empty_like(batch.velocities).normal_(generator=fresh())
    names = ("positions", "velocities", "forces", "energy", "cell", "time")
    return hashlib.sha256(b"".join(batch[name].numpy().tobytes() for name in names)).hexdigest()

def fresh():
    generator = torch.Generator()
    generator.seed()
    return generator

for child in range(int(sys.argv[1])):
    number = os.fork()
    if number == 0:
        print(digest(), flush=True)
        os._exit(0)
    os.waitpid(number, 0)
"""

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def digests(children: int, mode: str = "", **environment: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(children), mode],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **environment},
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parent,
    )
    return done.stdout.split()


def test_twenty_one_fresh_processes_agree_in_every_bit() -> None:
    found = [
        *digests(CHILDREN, PYTHONHASHSEED="1", OMP_NUM_THREADS="1"),
        *digests(CHILDREN, PYTHONHASHSEED="2", OMP_NUM_THREADS="2", NUMBA_NUM_THREADS="2"),
        *digests(CHILDREN, PYTHONHASHSEED="random", OMP_NUM_THREADS="1"),
    ]
    assert len(found) == 3 * CHILDREN
    assert len(set(found)) == 1


def test_they_would_be_told_apart() -> None:
    assert len(set(digests(2, "entropy"))) == 2
