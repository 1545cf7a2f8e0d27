"""Every code block of README and docs runs, and what a page shows as output is what really comes out."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
sys.path.append(str(ROOT / "docs"))

import blocks as pages  # noqa: E402

PAGES = {str(page.relative_to(ROOT)): page for page in pages.PAGES if pages.blocks(page.read_text(encoding="utf-8"))}


def test_there_are_pages() -> None:
    assert {"README.md", "docs/tour.md", "docs/faq.md", "docs/howto/wrapper.md"} <= set(PAGES)
    shown = sum(page.read_text(encoding="utf-8").count("```\n\n```text\n") for page in PAGES.values())
    assert shown >= 15


@pytest.mark.parametrize("name", PAGES)
def test_every_mark_belongs_to_an_output(name: str) -> None:
    """One that lacks its empty lines would keep an output from ever being compared."""
    text = PAGES[name].read_text(encoding="utf-8")
    marks = sum(line == pages._MARK for line in text.splitlines())
    assert marks == sum(block.of_one_machine for block in pages.blocks(text))


@pytest.mark.parametrize("name", PAGES)
def test_page(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in pages.TERMINAL.items():
        monkeypatch.setenv(key, value)
    for block, printed in pages.run_page(PAGES[name], tmp_path):
        if block.output is not None:
            wrong = pages.difference(block.output, printed, of_one_machine=block.of_one_machine)
            assert not wrong, f"{name}:{block.line}: {wrong}\nIf it should be so: python docs/blocks.py {name}"


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        ("2 systems, 0.31 s", "2 systems, 12.9 s", True),
        ("3 systems, 0.31 s", "2 systems, 0.31 s", False),
        ("-3.3629 eV", "-3.3628 eV", True),
        ("-3.3629 eV", "-3.3619 eV", False),
        ("-3.3629 eV", "3.3629 eV", False),
        ("a = 5.26  converged", "a = 5.26 converged", True),
        ("a = 5.26 converged", "a = 5.26 step limit", False),
        ("athanor  0.1.0.dev0, torch 2.13.0+cpu", "athanor  0.2.0, torch 2.14.1", True),
        ("253 ± 19 K", "226 ± 15 K", True),
        ("253 ± 19 K", "453 ± 19 K", False),
        ("253 ± 19 K", "K", False),
        ("1.5e-03", "1.6e-03", True),
        ("1.5e-03", "1.5e-02", False),
    ],
)
def test_outputs_are_compared(shown: str, printed: str, same: bool) -> None:
    assert (pages.difference(shown, printed) == "") is same


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        ("MgO: 32 logged steps, -6.300 eV", "MgO: 35 logged steps, -6.318 eV", True),
        ("MgO: 32 logged steps, -6.300 eV", "MgO: 62 logged steps, -6.300 eV", False),
        ("MgO: 32 logged steps, -6.300 eV", "MgO: 32 logged steps, -5.300 eV", False),
        ("MgO: 32 logged steps, -6.300 eV", "MgO: 32 logged steps, nan eV", False),
        ("MgO: 32 logged steps", "NaCl: 32 logged steps", False),
        ("[59, 61, 63]", "[60, 61, 63]", True),
        ("[59, 61, 63]", "[59, 61]", False),
    ],
)
def test_figures_of_one_machine_are_compared_in_form_and_range(shown: str, printed: str, same: bool) -> None:
    assert (pages.difference(shown, printed, of_one_machine=True) == "") is same


def test_a_page_is_taken_apart(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "```{code-block} python\n:caption: part/mine.py\n\nANSWER = 42\n```\n\nText.\n\n"
        "```python\nfrom part.mine import ANSWER\nprint(ANSWER)\n```\n\n```text\n41\n```\n\n"
        "```bash\nathanor show nothing  # exit code 65\nls part\n```\n\n```text\n```\n",
        encoding="utf-8",
    )
    folder = tmp_path / "work"
    folder.mkdir()
    ran = [(block.kind, block.output, printed) for block, printed in pages.run_page(page, folder)]
    assert [kind for kind, _, _ in ran] == ["file", "python", "bash"]
    assert ran[1] == ("python", "41\n", "42\n")
    assert "nothing" in ran[2][2]
    assert "mine.py" in ran[2][2]
    (tmp_path / "again").mkdir()
    assert pages.rewrite(page, tmp_path / "again")
    assert "```text\n42\n```" in page.read_text(encoding="utf-8")
