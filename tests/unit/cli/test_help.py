"""What ``--help`` says: no types where there is no value, and an example for every command."""

from __future__ import annotations

import shlex

import pytest
import typer

from athanor.cli.main import app, call

COMMANDS = [command.name or command.callback.__name__ for command in app.registered_commands]


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"COLUMNS": "160", "NO_COLOR": "1", "TERM": "dumb"}.items():
        monkeypatch.setenv(name, value)


def test_there_are_commands() -> None:
    assert {"run", "relax", "md", "evaluate", "init", "models", "show", "plot"} <= set(COMMANDS)


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)], ids=str)
def test_a_flag_has_no_type(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert call([*command, "--help"]) == 0
    shown = capsys.readouterr().out
    assert "--help" in shown
    assert "bool" not in shown.lower()


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_has_an_example_that_it_takes(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call([name, "--help"]) == 0
    example = capsys.readouterr().out.partition("Example: ")[2].strip()
    words = shlex.split(example)
    assert words[:2] == ["athanor", name]
    command = typer.main.get_command(app).commands[name]
    context = command.make_context(name, words[2:])  # refuses what it does not know, runs nothing
    assert context.params
