"""Write `dftd3_reference.json`: energies, gradients and virials of the library s-dftd3, in atomic units.

    python tests/data/make_dftd3_reference.py

Structures are built here, in bohr, and stored with the numbers, so that conversions of units play no part. Cutoffs are
60 bohr for pairs, and 40 bohr for triples and coordination numbers, without smoothing.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

TARGET = Path(__file__).with_name("dftd3_reference.json")
FUNCTIONALS = ("pbe", "pbesol", "revpbe", "b3lyp", "tpss")
CUTOFFS = {"disp2": 60.0, "disp3": 40.0, "cn": 40.0}


def structures() -> dict[str, dict[str, Any]]:
    """Return molecules and crystals, triclinic and layered ones among them, with atoms off their sites."""
    from ase.build import bulk, graphene, molecule

    found = {"ethanol": molecule("CH3CH2OH"), "thiophene": molecule("C4H4S")}
    found["salt"] = bulk("NaCl", "rocksalt", a=5.64)
    found["magnesium"] = bulk("Mg")
    quartz = bulk("SiO2", "fluorite", a=5.0)
    quartz.set_cell(quartz.cell.array @ np.array([[1.0, 0.1, 0.0], [0.0, 0.95, 0.05], [0.0, 0.0, 1.1]]), True)
    found["triclinic"] = quartz
    layer = graphene(vacuum=4.0)
    layer.pbc = (True, True, False)
    found["layer"] = layer
    rows = {}
    for k, (name, atoms) in enumerate(found.items()):
        atoms.rattle(0.05, seed=k)
        rows[name] = {
            "numbers": atoms.numbers.tolist(),
            "positions": (atoms.positions / 0.529177210544).tolist(),
            "cell": (atoms.cell.array / 0.529177210544).tolist(),
            "pbc": [bool(p) for p in atoms.pbc],
        }
    return rows


def by_library(structure: dict[str, Any], functional: str, damping: str, three_body: bool) -> dict[str, Any]:
    """Return energy, gradient and virial of one structure."""
    from dftd3.interface import DispersionModel, RationalDampingParam, ZeroDampingParam

    periodic = any(structure["pbc"])
    model = DispersionModel(
        np.array(structure["numbers"]),
        np.array(structure["positions"]),
        np.array(structure["cell"]) if periodic else None,
        np.array(structure["pbc"]) if periodic else None,
    )
    model.set_realspace_cutoff(**CUTOFFS)
    kind = {"bj": RationalDampingParam, "zero": ZeroDampingParam}[damping]
    found = model.get_dispersion(kind(method=functional, atm=three_body), grad=True)
    return {name: np.asarray(found[name]).tolist() for name in ("energy", "gradient", "virial")}


def main() -> None:
    """Write the file: every structure, both dampings, with and without three-body term, for PBE."""
    rows = structures()
    results = {
        f"{name} {damping} {'ATM' if three_body else 'pairs'}": by_library(row, "pbe", damping, three_body)
        for name, row in rows.items()
        for damping in ("bj", "zero")
        for three_body in (False, True)
    }
    content = {"source": f"dftd3 {version('dftd3')}", "structures": rows, "results": results}
    TARGET.write_text(json.dumps(content, separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
