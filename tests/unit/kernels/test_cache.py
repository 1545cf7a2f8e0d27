"""Compiled kernels on disk: damage is compiled again, a full disk is done without, and nothing wrong is executed."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numba
import pytest

from athanor.kernels import _cache, _numba_options

SOURCE = """
from athanor.kernels._numba_options import jit

@jit
def tripled(x):
    return 3 * x
"""

DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "cut": lambda content: content[: len(content) // 2],
    "a byte": lambda content: content[:-100] + bytes([content[-100] ^ 1]) + content[-99:],
    "text": lambda content: b"hello",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    kept = tmp_path / "kept"
    kept.mkdir()
    (tmp_path / "own_kernel.py").write_text(SOURCE, encoding="utf-8")
    monkeypatch.setattr(_numba_options, "cache_folder", lambda: kept)
    monkeypatch.setattr(_cache.KernelCache, "_has_announced", False)
    return kept


def compiled(folder: Path) -> ModuleType:
    """The module as a new process has it."""
    spec = importlib.util.spec_from_file_location("own_kernel", folder.parent / "own_kernel.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.tripled(14) == 42
    return module


def hits(module: ModuleType) -> int:
    return sum(module.tripled.stats.cache_hits.values())


def test_code_is_kept_and_found_again(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert hits(compiled(folder)) == 0
    assert hits(compiled(folder)) == 1
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("suffix", ["nbi", "nbc"])
@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_code_is_compiled_again_and_replaced(folder: Path, suffix: str, name: str) -> None:
    compiled(folder)
    (path,) = folder.rglob(f"*.{suffix}")
    path.write_bytes(DAMAGES[name](path.read_bytes()))
    assert hits(compiled(folder)) == 0
    assert hits(compiled(folder)) == 1


def test_the_twin_of_numba_ends_with_an_empty_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_cache, "KernelCache", numba.core.caching.FunctionCache)
    compiled(folder)
    for path in folder.rglob("*.nbi"):
        path.write_bytes(b"")
    with pytest.raises(EOFError):
        compiled(folder)


def test_a_disk_that_takes_nothing_is_done_without(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(self: object, path: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(numba.core.caching.IndexDataCacheFile, "_open_for_write", full)
    assert hits(compiled(folder)) == 0
    told = capsys.readouterr().err
    assert "compiled kernels can not be kept" in told
    assert "No space left on device" in told
    compiled(folder)
    assert capsys.readouterr().err == "", "said once"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs a folder that nobody can write to")
def test_a_folder_that_can_not_be_used(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_numba_options, "cache_folder", lambda: Path("/proc/athanor"))
    compiled(folder)
