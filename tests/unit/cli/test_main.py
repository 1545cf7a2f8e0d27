"""What becomes of whatever a command raises: one line, the right exit code, and blame only where it belongs."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from ase.build import bulk
from ase.io import write

from athanor.cli.main import call
from athanor.workflows import run

LJ = ["--model", "lennard-jones"]
for _key, _value in (("epsilon", 0.0104), ("sigma", 3.4), ("cutoff", 5.0)):
    LJ += ["--model-option", f"{_key}={_value}"]
MD = ["md", "argon.extxyz", "-o", "out", "--steps", "1", "-T", "30"]
DIGITS = "9" * 5_000


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write("argon.extxyz", bulk("Ar", "fcc", a=5.26, cubic=True) * (2, 2, 2))
    return tmp_path


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (KeyboardInterrupt(), 130, "interrupted."),
        (EOFError("Ran out of input"), 70, "internal error: EOFError: Ran out of input"),
        (MemoryError(), 71, "not enough memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), 71, "can't allocate memory"),
        (RuntimeError("can't start new thread"), 71, "--threads"),
        (ImportError("libtorch.so: failed to map segment from shared object"), 71, "ulimit"),
        (OSError(errno.EMFILE, "Too many open files"), 71, "Too many open files"),
        (OSError(errno.ENOSPC, "No space left on device", "out/x"), 74, "out/x: No space left on device."),
        (SystemExit(0), 70, "ended by code that it ran"),
        (ZeroDivisionError("division by zero"), 70, "This is a mistake in athanor"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_what_a_command_raises(
    error: BaseException, code: int, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*arguments: object, **more: object) -> None:
        raise error

    monkeypatch.setattr(run, "run", fail)
    assert call([*MD, *LJ]) == code
    told = capsys.readouterr().err
    assert words in told
    assert ("mistake in athanor" in told) is (code == 70 and not isinstance(error, SystemExit))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([*MD, "--model", "lj", "--model-option", f"epsilon={DIGITS}"], "not valid YAML"),
        ([*MD, "--model", "lj", "--model-option", f"epsilon={'[' * 50_000}"], "nested too deeply"),
        ([*MD, "--model", "lj", "--model-option", "epsilon=&a [*a]"], "refers to itself"),
        ([*MD, *LJ, "--steps", DIGITS], "steps"),
        ([*MD, *LJ, "--supercell", DIGITS], "supercell"),
        (["run", "job.yaml"], "is not an index"),
        ([*MD, "--model", "chgnet", "--model-option", "name=text.pt"], "is no checkpoint"),
        ([*MD, "--model", "chgnet", "--model-option", "name=empty.pt"], "is empty"),
    ],
)
def test_mistakes_of_users_are_not_called_athanors(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("text.pt").write_text("hello\n", encoding="utf-8")
    Path("empty.pt").write_bytes(b"")
    Path("job.yaml").write_text(
        "structures: [{file: argon.extxyz, index: '::0'}]\n"
        "model: {name: lennard-jones, epsilon: 0.0104, sigma: 3.4, cutoff: 5.0}\nstages: [{relax: {}}]\n",
        encoding="utf-8",
    )
    assert call(arguments) == 65
    told = capsys.readouterr().err
    assert words in told
    assert "mistake in athanor" not in told


def test_a_long_number_is_the_name_of_no_system(capsys: pytest.CaptureFixture[str]) -> None:
    assert call([*MD, *LJ]) == 0
    assert call(["show", "out", "--system", DIGITS]) == 65
    assert "has no system" in capsys.readouterr().err
