"""Relax the elements of ``ase.collections.dcdft`` one by one with chgnet's own calculator and write the reference data.

The result is what the package itself calls the equilibrium of each element: its own ASE calculator (model 0.3.0),
ASE's FIRE and ASE's ``FrechetCellFilter``, run until no force exceeds 0.005 eV/Å and no stress component exceeds
0.005 GPa, at most 2000 steps. Nothing of athanor takes part.

Run it from the repository root, one thread, about five minutes each::

    OMP_NUM_THREADS=1 python tests/data/make_chgnet_dcdft_reference.py            # ..._tight.json
    OMP_NUM_THREADS=1 python tests/data/make_chgnet_dcdft_reference.py --float64  # ..._tight_float64.json

The first runs the package as it comes, in float32. The second evaluates the same weights in float64: where a path
passes a saddle, rounding in float32 decides which way it goes on (docs/adr/0003).

The file is rewritten after every element; a second run continues where the first one stopped.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import io
import json
import platform
import sys
import time
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

MAX_FORCE = 0.005
MAX_STRESS_GPA = 0.005
MAX_STEPS = 2000
OUTPUTS = {
    name: Path(__file__).with_name(f"chgnet_dcdft_ase_fire_tight{end}.json")
    for name, end in {"float32": "", "float64": "_float64"}.items()
}
NOTES = {
    "float32": {
        "S": "its cell of one atom relaxes to a saddle (length ratio 0.993, -3.472 eV); float32 noise breaks the "
        "symmetry there and this run falls to -3.902 eV, while a run that keeps the symmetry stops at the saddle",
    },
    "float64": {
        "S": "stops at the saddle of its cell of one atom, by symmetry; so do runs with dt=0.05 and dt=0.2",
    },
}


def source_note(precision: str) -> dict[str, Any]:
    """Return what made the data: programs, versions, date, thresholds."""
    return {
        "what": "elements of ase.collections.dcdft, atoms and cell relaxed one at a time by chgnet's own calculator",
        "script": "tests/data/make_chgnet_dcdft_reference.py",
        "model": "CHGNet 0.3.0 (the checkpoint shipped in the chgnet wheel)",
        "optimizer": "ase.optimize.FIRE (defaults) on ase.filters.FrechetCellFilter (defaults)",
        "versions": {name: version(name) for name in ("chgnet", "ase", "torch", "numpy", "pymatgen")},
        "python": platform.python_version(),
        "machine": f"{platform.machine()} CPU, one thread, {precision} network",
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        "max_force_eV_per_A": MAX_FORCE,
        "max_abs_stress_GPa": MAX_STRESS_GPA,
        "max_steps": MAX_STEPS,
        "isolated_atoms": "on_isolated_atoms='ignore'",
        "start": "the collection's own cell and positions",
        "notes": NOTES[precision],
        "fields": {
            "energy_per_atom": "eV",
            "volume_per_atom": "Å^3",
            "length_ratio": "cube root of (relaxed volume / collection's volume)",
            "max_force": "eV/Å, largest force vector of the last step",
            "max_stress_GPa": "largest absolute component of the last step's stress",
        },
    }


def relax(name: str, calculator: Any) -> dict[str, Any]:
    """Relax one element and describe where it ended."""
    import numpy as np
    from ase import units
    from ase.collections import dcdft
    from ase.filters import FrechetCellFilter
    from ase.optimize import FIRE

    atoms = dcdft[name]
    start_volume = atoms.get_volume()
    atoms.calc = calculator
    optimizer = FIRE(FrechetCellFilter(atoms), logfile=None)
    converged, started = False, time.perf_counter()
    for _ in optimizer.irun(fmax=0.0, steps=MAX_STEPS):
        max_force = float(np.linalg.norm(atoms.get_forces(), axis=1).max())
        max_stress = float(np.abs(atoms.get_stress()).max() / units.GPa)
        if max_force < MAX_FORCE and max_stress < MAX_STRESS_GPA:
            converged = True
            break
    volume = atoms.get_volume()
    return {
        "num_atoms": len(atoms),
        "energy_per_atom": float(atoms.get_potential_energy()) / len(atoms),
        "volume_per_atom": float(volume) / len(atoms),
        "length_ratio": float((volume / start_volume) ** (1.0 / 3.0)),
        "steps": int(optimizer.get_number_of_steps()),
        "converged": converged,
        "max_force": max_force,
        "max_stress_GPa": max_stress,
        "seconds": round(time.perf_counter() - started, 1),
    }


def make_calculator(precision: str) -> Any:
    """Return chgnet's own calculator; in float64 its graphs and all modules that depend on positions are in float64."""
    import chgnet.graph.converter
    import chgnet.model.model
    import torch
    from chgnet.model import CHGNet
    from chgnet.model.dynamics import CHGNetCalculator

    with contextlib.redirect_stdout(io.StringIO()):
        model = CHGNet.load(model_name="0.3.0", use_device="cpu", verbose=False)
        if precision == "float64":
            chgnet.graph.converter.TORCH_DTYPE = chgnet.model.model.TORCH_DTYPE = torch.float64
            model.double()
            model.composition_model.float()  # a constant of each element; it counts the atoms in float32
        return CHGNetCalculator(model=model, use_device="cpu", on_isolated_atoms="ignore")


def main() -> int:
    """Relax every element that the output file does not hold yet, the smallest cells first."""
    import torch
    from ase.collections import dcdft

    parser = argparse.ArgumentParser(description="Record tight relaxations with chgnet's own calculator.")
    parser.add_argument("--float64", action="store_true", help="evaluate the network in float64")
    precision = "float64" if parser.parse_args().float64 else "float32"
    output = OUTPUTS[precision]
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    done = json.loads(output.read_text(encoding="utf-8"))["elements"] if output.exists() else {}
    calculator = make_calculator(precision)
    for name in sorted(dcdft.names, key=lambda key: (len(dcdft[key]), key)):
        if name in done:
            continue
        done[name] = relax(name, calculator)
        data = {"source": source_note(precision), "elements": done}
        output.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        print(name, done[name], flush=True)
    within = sum(abs(entry["length_ratio"] - 1.0) < 0.03 for entry in done.values())
    print(f"{within} of {len(done)} lie within 3 % of the collection")
    return 0


if __name__ == "__main__":
    sys.exit(main())
