"""Learned potentials: energies and forces of 32 crystals, or 200 molecules, in one batch, against their packages.

On the same thread, from ASE atoms on, as we do, the calculator of each package evaluates the systems one by one, and
what the package has for many systems (`potential_batches.py`) all at once; some compute stress, too. A potential runs
in the environment that ``make test-model-NAME`` sets up, `.venv-NAME`; those whose environment is not there are left
out. MODEL_ENVIRONMENTS may say where else they are: ``/somewhere/{}``.

    python benchmarks/potentials.py              print
    python benchmarks/potentials.py --write      keep in potentials.json, from which the page of models is made
    python benchmarks/potentials.py --only mace
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness import ROOT, Row, describe, environment, run_json
from potential_builders import POTENTIALS

RESULTS = ROOT / "benchmarks" / "potentials.json"
ENVIRONMENTS = os.environ.get("MODEL_ENVIRONMENTS", str(ROOT / ".venv-{}"))


def python_of(name: str) -> Path:
    """Return the interpreter that runs a potential."""
    where = POTENTIALS[name].environment
    return Path(ENVIRONMENTS.format(where)) / "bin" / "python" if where else Path(sys.executable)


def run_there(name: str, arguments: list[str], limit: float | None = None) -> dict[str, Any]:
    """Run a program in the environment of a potential and return its JSON; see `harness.run_json`."""
    before = os.environ.get("PYTHONPATH", "")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT / "src"), before)))  # also of what is installed
    try:
        return run_json([str(python_of(name)), *arguments], limit)
    finally:
        os.environ["PYTHONPATH"] = before


def run(name: str, smoke: bool, rounds: int) -> dict[str, Any]:
    """Return rows and facts of one potential."""
    program = str(Path(__file__).with_name("potential_programs.py"))
    return run_there(name, [program, name, "--rounds", str(rounds), *(["--smoke"] * smoke)])


def measured(names: list[str], smoke: bool = False, rounds: int = 3) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield name, rows and facts of each potential whose environment is there."""
    for name in names:
        if not python_of(name).exists():
            print(f"  {name}: left out, `make test-model-{POTENTIALS[name].environment}` sets its environment up")
            continue
        try:
            found = run(name, smoke, rounds)
        except RuntimeError as error:
            print(f"  {name}: failed: {error}")
            continue
        for row in found["rows"]:
            print("  " + describe(row), flush=True)
        yield name, found


def measure(smoke: bool = False) -> list[Row]:
    """Return the rows of every potential that can run here; of one, if `smoke`."""
    found = measured(["chgnet"], smoke, 1) if smoke else measured(list(POTENTIALS))
    return [row for _, each in found for row in each["rows"]]


def write(name: str, found: dict[str, Any]) -> None:
    """Keep what was measured of one potential; the others stay."""
    kept = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {"potentials": {}}
    machine = environment()
    stamp = {key: machine[key] for key in ("date", "commit", "cpu", "cores")}
    potentials = kept["potentials"] | {name: found | {"measured": stamp}}
    ordered = {each: potentials[each] for each in POTENTIALS if each in potentials}
    RESULTS.write_text(json.dumps({"potentials": ordered}, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> None:
    """Measure, print, and keep if asked to."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--smoke", action="store_true", help="tiny sizes: does the script run?")
    parser.add_argument("--only", nargs="+", choices=POTENTIALS, default=list(POTENTIALS), help="which; all by default")
    parser.add_argument("--write", action="store_true", help=f"keep the figures in {RESULTS.name}")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    for name, found in measured(options.only, options.smoke, options.rounds):
        if options.write:
            write(name, found)


if __name__ == "__main__":
    main()
