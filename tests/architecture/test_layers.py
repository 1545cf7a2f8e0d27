"""Imports point down only: the layers of pyproject.toml hold, and the checker would notice if they did not."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest


def lint_imports(folder: Path, source: Path) -> subprocess.CompletedProcess[str]:
    command = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    done = subprocess.run(
        [sys.executable, "-c", command, "--no-cache"],
        cwd=folder,
        env={"PYTHONPATH": str(source), "PATH": ""},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    done.stdout = click.unstyle(done.stdout)  # some versions colour what they write to a pipe
    return done


def copy_of_the_house(repository: Path, folder: Path) -> Path:
    source = folder / "src"
    shutil.copytree(repository / "src", source, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(repository / "pyproject.toml", folder)
    return source


def test_layers_hold(repository: Path) -> None:
    done = lint_imports(repository, repository / "src")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Layers KEPT" in done.stdout


@pytest.mark.parametrize(
    "line",
    [
        "from athanor.workflows import relax",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import athanor.cli.main",
        "def late():\n    import athanor.cli.main",
    ],
    ids=["plain", "type-only", "inside a function"],
)
def test_an_upward_import_is_noticed(repository: Path, tmp_path: Path, line: str) -> None:
    source = copy_of_the_house(repository, tmp_path)
    (source / "athanor" / "data" / "upward.py").write_text(line + "\n", encoding="utf-8")
    done = lint_imports(tmp_path, source)
    assert done.returncode != 0
    assert "Layers BROKEN" in done.stdout


def test_a_room_outside_the_plan_is_noticed(repository: Path, tmp_path: Path) -> None:
    source = copy_of_the_house(repository, tmp_path)
    (source / "athanor" / "helpers.py").write_text("", encoding="utf-8")
    done = lint_imports(tmp_path, source)
    assert done.returncode != 0
    assert "not listed as layers:\n\n- athanor.helpers" in done.stdout
