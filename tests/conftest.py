"""Settings that every test shares: what a shell hands down, fixed seeds, kernels compiled once before the fan-out."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

# Before torch or numba load: several test processes share few cores, and results must not depend on threads anyway.
for _name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# What a person has set for their own screen is not what the tests are about; programs that tests start inherit this.
for _name in ("NO_COLOR", "FORCE_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "TTY_COMPATIBLE", "ATHANOR_DEBUG", "LINES"):
    os.environ.pop(_name, None)
os.environ["COLUMNS"] = "80"

# No test waits for the disk, which some machines share: what a missing sync does, `unit/io/test_power_cut.py` finds out
# from a record of the calls, and `reliability/` from programs of their own.
os.fsync = lambda descriptor: None
if hasattr(os, "fdatasync"):
    os.fdatasync = lambda descriptor: None

# The same examples everywhere, however slow the machine is that tries them.
hypothesis.settings.register_profile(
    "everywhere",
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("everywhere")

WARM_UP = Path(__file__).parent / "warm_up.py"


def pytest_sessionstart(session: pytest.Session) -> None:
    """Compile every kernel in one process, so that the workers find them in the cache instead of each compiling."""
    is_worker = hasattr(session.config, "workerinput")
    fans_out = bool(getattr(session.config.option, "numprocesses", None))
    if is_worker or not fans_out or not WARM_UP.exists():
        return
    started = time.monotonic()
    print("warm-up: compiling kernels once (seconds if cached, up to a minute if not)", flush=True)
    done = subprocess.run([sys.executable, str(WARM_UP)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise pytest.UsageError(f"the warm-up failed:\n{done.stdout}\n{done.stderr}")
    print(f"warm-up: done in {time.monotonic() - started:.1f} s", flush=True)


@pytest.fixture(autouse=True)
def _fixed_seeds() -> None:
    """Give every test the same start of the global generators, whatever ran before it."""
    import random

    import numpy
    import torch

    random.seed(0)
    numpy.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture
def foreground() -> Iterator[None]:
    """Let Ctrl-C and hangups be heard as in the foreground, also by programs that the test starts.

    A shell starts what runs in the background with Ctrl-C ignored, and `nohup` with hangups, which programs inherit.
    """
    handlers = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def repository() -> Path:
    """Root of the clone."""
    return Path(__file__).parent.parent
