"""The pages tell where things are: every path that ARCHITECTURE.md names exists, and every file has its place there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PATH = re.compile(r"`([\w./]+(?:\.py|/))`")


def rows(page: str) -> list[tuple[str, str]]:
    """Room -> its cells, of the table of rooms; a large room has several rows, ``models/: networks``."""
    table = page.partition("## The rooms")[2].partition("\n## ")[0]
    cells = [line.strip("| ").split(" | ", 1) for line in table.splitlines() if line.startswith("| ")]
    found: dict[str, str] = {}
    for room, text in cells[2:]:
        name = room.partition(": ")[0].strip("`/")
        found[name] = f"{found.get(name, '')} {text}"
    return list(found.items())


def missing_from_the_tree(page: str, source: Path) -> list[str]:
    found = []
    for room, text in rows(page):
        folder = source if room == "foundation" else source / room
        found += [
            f"{room}: {name}" for name in PATH.findall(text) if room != "kernels" and not (folder / name).exists()
        ]
    asked = page.partition("## Where do I find it")[2]
    return found + [name for name in PATH.findall(asked) if not (source / name).exists()]


def missing_from_the_page(page: str, source: Path) -> list[str]:
    """Modules and folders of a room that its row does not name; private ones may stay unnamed."""
    found = []
    for room, text in rows(page):
        folder = source if room == "foundation" else source / room
        named = {name.rstrip("/") for name in PATH.findall(text)}
        here = {path.name for path in folder.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
        if room == "foundation":
            here = {name for name in here if name.endswith(".py")}
        public = {name for name in here if not name.startswith("_")}
        found += [f"{room}: {name}" for name in sorted(public - named)]
    return found


def test_architecture_tells_what_is(repository: Path) -> None:
    page, source = (repository / "ARCHITECTURE.md").read_text(encoding="utf-8"), repository / "src" / "athanor"
    packages = {path.name for path in source.iterdir() if (path / "__init__.py").exists()}
    assert {room for room, _ in rows(page)} == packages | {"foundation"}
    assert missing_from_the_tree(page, source) == []
    assert missing_from_the_page(page, source) == []


def test_a_page_that_is_wrong_would_be_noticed(repository: Path) -> None:
    page, source = (repository / "ARCHITECTURE.md").read_text(encoding="utf-8"), repository / "src" / "athanor"
    assert missing_from_the_tree(page.replace("`registry.py`, and", "`moved.py`, and"), source) == ["hooks: moved.py"]
    assert missing_from_the_tree(page.replace("`dynamics/driver.py`", "`driver.py`"), source) == ["driver.py"]
    assert missing_from_the_page(page.replace("`quarantine.py`, ", ""), source) == ["dynamics: quarantine.py"]


def test_printed_output_is_as_large_as_code_and_keeps_its_columns() -> None:
    style = (ROOT / "docs/_static/athanor.css").read_text(encoding="utf-8")
    rules = [rule for rule in style.split("}") if re.search(r"\bpre\b[^{]*\{", rule)]
    assert rules
    assert not any("font-size" in rule or "pre-wrap" in rule for rule in rules)
    assert any("overflow-x: auto" in rule for rule in rules)


def test_the_first_page_shows_what_one_gets() -> None:
    text = (ROOT / "docs/index.md").read_text(encoding="utf-8")
    pictures = re.findall(r"!\[[^\]]{40,}\]\(([^)]+)\)", text)
    assert pictures
    assert all((ROOT / "docs" / picture).is_file() for picture in pictures)
