"""Every code block of the pages runs: Python as it stands, `athanor` lines through the command line."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(kind: str) -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        for number, (language, code) in enumerate(BLOCK.findall(page.read_text(encoding="utf-8"))):
            if language == kind:
                found.append((f"{page.relative_to(ROOT)}:{number}", code))
    return found


PYTHON, SHELL = blocks("python"), blocks("bash")


def test_there_are_blocks() -> None:
    assert len(PYTHON) >= 4
    assert len(SHELL) >= 1


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("work")
@pytest.mark.parametrize("code", [code for _, code in PYTHON], ids=[name for name, _ in PYTHON])
def test_python_block(code: str) -> None:
    exec(compile(code, "block", "exec"), {"__name__": "block"})


@pytest.mark.usefixtures("work")
@pytest.mark.parametrize("code", [code for _, code in SHELL], ids=[name for name, _ in SHELL])
def test_shell_block(code: str) -> None:
    from athanor.cli.main import call

    lines = [line for line in code.replace("\\\n", " ").splitlines() if line.strip() and not line.startswith("#")]
    assert lines
    for line in lines:
        words = shlex.split(line)
        assert words[0] == "athanor", f"only athanor lines belong into a bash block: {line}"
        assert call(words[1:]) == 0, line
