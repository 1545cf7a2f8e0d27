"""Lazy imports, threads, forked children, and where compiled kernels are kept."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from athanor import _runtime, kernels
from athanor.errors import DtypeError, InputError, ShapeError
from athanor.kernels import _threads

SUM = "import torch, athanor.kernels as k; print(k.segment_sum(torch.ones(3), torch.tensor([0, 3]).int()).item())"


def _python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(p for p in sys.path if p)
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_import_does_not_load_numba() -> None:
    done = _python("import sys, athanor.kernels; assert 'numba' not in sys.modules, 'numba'")
    assert done.returncode == 0, done.stderr


def test_first_compilation_is_announced_once_and_kept(tmp_path: Path) -> None:
    first = _python(SUM, NUMBA_CACHE_DIR=str(tmp_path))
    second = _python(SUM, NUMBA_CACHE_DIR=str(tmp_path))
    assert (first.stdout.strip(), second.stdout.strip()) == ("3.0", "3.0")
    assert "compiling kernels, once" in first.stderr
    assert "compiling" not in second.stderr
    assert list(tmp_path.rglob("*.nbc"))


def test_without_a_writable_folder_kernels_work_and_say_so(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("", encoding="utf-8")
    done = _python(SUM, NUMBA_CACHE_DIR=str(blocked))
    assert done.stdout.strip() == "3.0"
    assert "can not be written" in done.stderr


def test_a_changed_helper_changes_the_cache_key(tmp_path: Path) -> None:
    from athanor.kernels._numba_options import sources_digest

    shutil.copytree(Path(kernels.__file__).parent, tmp_path / "kernels", ignore=shutil.ignore_patterns("__pycache__"))
    before = sources_digest(tmp_path / "kernels")
    assert before == sources_digest(Path(kernels.__file__).parent)
    with (tmp_path / "kernels" / "philox" / "_cpu.py").open("a") as file:
        file.write("# changed\n")
    assert sources_digest(tmp_path / "kernels") != before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_can_use_threads() -> None:
    code = """
import os, torch, athanor.kernels as k
torch.set_num_threads(2)
p, i, s = torch.tensor([0, 200000]).int(), torch.tensor([1]), torch.tensor([1])
want = k.philox_normal(p, i, s, 1, 1)
child = os.fork()
if child == 0:
    os._exit(0 if torch.equal(k.philox_normal(p, i, s, 1, 1), want) else 3)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert _python(code).returncode == 0


def test_an_error_in_any_part_reaches_the_caller() -> None:
    def kernel(start: int, stop: int) -> None:
        if start == 0:
            raise KeyError("first part")

    with pytest.raises(KeyError, match="first part"):
        _threads.run_parts(kernel, (), [0, 1, 2])
    seen: list[tuple[int, int]] = []
    _threads.run_parts(lambda start, stop: seen.append((start, stop)), (), [0, 3, 5])
    assert sorted(seen) == [(0, 3), (3, 5)]


def test_threads_are_set_and_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    before = _runtime.get_num_threads()
    try:
        _runtime.set_num_threads(2)
        assert torch.get_num_threads() == 2
        monkeypatch.setattr(_runtime, "_available_cores", lambda: 3)
        _runtime.set_num_threads()
        assert torch.get_num_threads() == _runtime.get_num_threads() == 3
        for wrong in (0, -1, 1.5, True):
            with pytest.raises(InputError, match="num_threads"):
                _runtime.set_num_threads(wrong)  # type: ignore[arg-type]
    finally:
        _runtime.set_num_threads(before)
    _runtime.ready()
    _runtime.ready()


def test_segment_reductions() -> None:
    pointer = torch.tensor([0, 2, 2, 3], dtype=torch.int32)
    values = torch.tensor([1.0, float("nan"), 5.0])
    assert kernels.segment_sum(torch.tensor([1, 2, 3]), pointer).tolist() == [3, 0, 3]
    largest = kernels.segment_max(values, pointer)
    assert torch.isnan(largest[0])
    assert largest[1:].tolist() == [-float("inf"), 5.0]
    wide = torch.arange(15.0).reshape(3, 5)
    assert torch.equal(kernels.segment_sum(wide, pointer), torch.stack([wide[0] + wide[1], 0 * wide[0], wide[2]]))
    with pytest.raises(ShapeError, match="segment_ptr"):
        kernels.segment_sum(torch.tensor(1.0), pointer)
    with pytest.raises(ShapeError, match=r"needs \[N\]"):
        kernels.segment_max(wide, pointer)
    with pytest.raises(DtypeError, match="float"):
        kernels.segment_max(torch.tensor([1, 2, 3]), pointer)


def test_a_quiet_command_does_not_announce_a_compilation(tmp_path: Path) -> None:
    code = "from athanor import _runtime; _runtime.set_announcing(False); " + SUM
    done = _python(code, NUMBA_CACHE_DIR=str(tmp_path))
    assert (done.stdout.strip(), done.stderr) == ("3.0", "")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_parts_of_long_operations_cover_all_and_change_no_bit(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    v, f, m = (torch.randn(40_001, 3, generator=generator, dtype=dtype) for _ in range(3))
    whole = torch.addcmul(v, f, m)
    sizes = []
    for part, force, over_mass in _runtime.in_parts(v, f, m):
        sizes.append(part.numel())
        part.addcmul_(force, over_mass)
    assert torch.equal(v, whole)
    assert len(sizes) == 4
    assert max(sizes) <= 32_768 < v.numel(), "what torch shares among threads"
    short = torch.zeros(10_922, 3)
    assert [part[0] is short for part in _runtime.in_parts(short)] == [True]
    assert len(list(_runtime.in_parts(torch.tensor(1.0)))) == 1


def test_the_calling_thread_takes_more_while_others_wake_up() -> None:
    rows = torch.arange(0, 1001).numpy()
    assert _threads.balanced_bounds(rows, 2) == [0, 500, 1000]
    assert _threads.balanced_bounds(rows, 2, 0.1) == [0, 450, 1000]
    assert _threads.balanced_bounds(rows, 1, 0.1) == [0, 1000]
