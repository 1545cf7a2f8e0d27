"""Memory: peak resident bytes that each further atom costs, from the difference of two sizes.

Lennard-Jones dynamics between 32,000 and 108,000 atoms (about 78 neighbours each in the list), in the programs of
`lennard_jones.py`; CHGNet relaxations between 256 and 768 atoms. Every figure comes from fresh processes; below
these sizes the peak is that of the imports.
"""

from __future__ import annotations

import sys
import tempfile
from functools import partial
from pathlib import Path

from harness import Row, interleave, main, run_json
from lennard_jones import programs, run_program, write_state


def of_dynamics(program: str, states: dict[int, Path]) -> float:
    """Return kB an atom of Lennard-Jones NVE; slow programs take few steps, ours and LAMMPS rebuild their lists."""
    steps = 30 if program in ("athanor", "lammps") else 1
    return kilobytes_an_atom(
        {atoms: run_program(program, state, 1, steps, warm=1)["peak_bytes"] for atoms, state in states.items()}
    )


def of_chgnet(counts: tuple[int, int]) -> float:
    """Return kB an atom of a CHGNet relaxation of crystals of eight atoms."""
    code = "from chgnet_relaxation import peak_bytes; print(peak_bytes({}))"
    return kilobytes_an_atom({8 * n: run_json([sys.executable, "-c", code.format(n)]) for n in counts})


def kilobytes_an_atom(peaks: dict[int, int]) -> float:
    """Return the slope between two sizes."""
    (small, low), (large, high) = peaks.items()
    return (high - low) / (large - small) / 1e3


def measure(smoke: bool = False) -> list[Row]:
    """Return a row for dynamics and one for CHGNet, in kB an atom."""
    with tempfile.TemporaryDirectory() as folder:
        states = {
            4 * cells**3: write_state(Path(folder) / f"{cells}.npz", cells, 1)
            for cells in ((4, 10) if smoke else (20, 30))
        }
        contestants = {name: partial(of_dynamics, name, states) for name in programs() if name != "ase"}
        rows = [interleave("Lennard-Jones NVE", "kB", contestants, 1)]
    if not smoke:
        rows.append(interleave("CHGNet relaxation", "kB", {"athanor": partial(of_chgnet, (32, 96))}, 1))
    return rows


if __name__ == "__main__":
    main(measure)
