"""Learned potentials: energies and forces of 32 crystals, or 200 molecules, in one batch, against its own calculator.

The calculator of each package evaluates the systems one by one on the same thread, from ASE atoms on, as we do; some
compute stress as well. A potential runs in the environment that ``make test-model-NAME`` sets up, `.venv-NAME`; those
whose environment is not there are left out. MODEL_ENVIRONMENTS may say where else they are: ``/somewhere/{}``.

    python benchmarks/potentials.py              print
    python benchmarks/potentials.py --write      keep in potentials.json, from which the page of models is made
    python benchmarks/potentials.py --only mace
"""

from __future__ import annotations

import argparse
import json
import os
import sys
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


def run(name: str, smoke: bool) -> dict[str, Any]:
    """Return rows and facts of one potential."""
    program = str(Path(__file__).with_name("potential_programs.py"))
    before = os.environ.get("PYTHONPATH", "")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT / "src"), before)))  # also of what is installed
    try:
        return run_json([str(python_of(name)), program, name, *(["--smoke"] if smoke else [])])
    finally:
        os.environ["PYTHONPATH"] = before


def measured(names: list[str], smoke: bool = False) -> dict[str, dict[str, Any]]:
    """Return name -> rows and facts of those potentials whose environment is there."""
    found = {}
    for name in names:
        if not python_of(name).exists():
            print(f"  {name}: left out, `make test-model-{POTENTIALS[name].environment}` sets its environment up")
            continue
        try:
            found[name] = run(name, smoke)
        except RuntimeError as error:
            print(f"  {name}: failed: {error}")
            continue
        for row in found[name]["rows"]:
            print("  " + describe(row), flush=True)
    return found


def measure(smoke: bool = False) -> list[Row]:
    """Return the rows of every potential that can run here; of one, if `smoke`."""
    found = measured(["chgnet"] if smoke else list(POTENTIALS), smoke)
    return [row for each in found.values() for row in each["rows"]]


def write(found: dict[str, dict[str, Any]]) -> None:
    """Keep what was measured; potentials that were not measured now stay."""
    kept = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {"potentials": {}}
    machine = environment()
    stamp = {key: machine[key] for key in ("date", "commit", "cpu", "cores")}
    potentials = kept["potentials"] | {name: each | {"measured": stamp} for name, each in found.items()}
    ordered = {name: potentials[name] for name in POTENTIALS if name in potentials}
    RESULTS.write_text(json.dumps({"potentials": ordered}, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> None:
    """Measure, print, and keep if asked to."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--smoke", action="store_true", help="tiny sizes: does the script run?")
    parser.add_argument("--only", nargs="+", choices=POTENTIALS, default=list(POTENTIALS), help="which; all by default")
    parser.add_argument("--write", action="store_true", help=f"keep the figures in {RESULTS.name}")
    options = parser.parse_args()
    found = measured(options.only, options.smoke)
    if options.write:
        write(found)


if __name__ == "__main__":
    main()
