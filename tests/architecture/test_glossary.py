"""One word per thing: synonyms that the glossary forbids do not appear as names in the package."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

FORBIDDEN = {
    "coords": "positions",
    "coordinates": "positions",
    "xyz": "positions",
    "species": "atomic_numbers",
    "box": "cell",
    "r_cut": "cutoff",
    "rcut": "cutoff",
    "rc": "cutoff",
    "cutoff_radius": "cutoff",
    "verlet_skin": "skin",
    "potential_energy": "energy",
    "energies_per_atom": "atomic_energies",
    "graduate": "refill",
    "timestep_fs": "dt",
}
"""Forbidden name -> the word we use."""
BAD_ENDINGS = ("Manager", "Handler", "Helper", "Util", "Utils")


def names_defined(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id


def offences(source: str) -> list[str]:
    found = [f"{name}: say {FORBIDDEN[name]}" for name in names_defined(source) if name in FORBIDDEN]
    return found + [name for name in names_defined(source) if name.endswith(BAD_ENDINGS)]


def test_glossary(repository: Path) -> None:
    files = sorted((repository / "src").rglob("*.py"))
    assert len(files) > 5
    bad = {str(path.relative_to(repository)): words for path in files if (words := offences(path.read_text("utf-8")))}
    assert not bad


def test_a_synonym_would_be_noticed() -> None:
    assert offences("def f(coords): ...")
    assert offences("rcut = 3.0")
    assert offences("class BatchManager: ...")
