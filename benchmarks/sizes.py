"""Lennard-Jones NVE from a thousand to a million atoms: time of a step for each atom, on two threads, in four programs.

The programs, states and checks are those of `lennard_jones.py`. Programs that take long are left out where they would
take minutes. ``page.py`` draws the picture.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

from harness import Row, main
from lennard_jones import compare, programs, write_state

LARGEST = {"torch-sim": 32_000, "ase": 4_000}
"""Atoms that slow programs are given at most."""
NAMES = {"lammps": "LAMMPS", "ase": "ASE"}


def measure(smoke: bool = False) -> list[Row]:
    """Return a row for each size, in ns an atom and step."""
    #        cells; steps and rounds of fast and of slow programs
    cases = [
        (6, (400, 3), (5, 1)),
        (10, (200, 3), (5, 1)),
        (20, (60, 3), (2, 1)),
        (40, (40, 2), (1, 1)),
        (63, (30, 1), (1, 1)),
    ]
    if smoke:
        cases = [(2, (2, 1), (1, 1))]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for cells, fast, slow in cases:
            atoms = 4 * cells**3
            state = write_state(Path(folder) / "state.npz", cells, 1)
            names = [name for name in programs() if atoms <= LARGEST.get(name, atoms)]
            row = compare(names, f"{atoms:,} atoms", state, 2, fast, slow)
            for figures in row["figures"].values():
                figures[:] = [float(f"{1e6 * milliseconds / atoms:.4g}") for milliseconds in figures]
            rows.append(Row(case=row["case"], threads=2, unit="ns", figures=row["figures"]))
    return rows


def draw(rows: Iterable[Row], path: Path) -> None:
    """Draw time for each atom against the number of atoms, both on logarithmic scales."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    lines: dict[str, tuple[list[int], list[float]]] = {}
    for row in rows:
        atoms = int(row["case"].split()[0].replace(",", ""))
        for name, figures in row["figures"].items():
            sizes, times = lines.setdefault(name, ([], []))
            sizes.append(atoms)
            times.append(min(figures))
    figure, axes = pyplot.subplots(figsize=(6.4, 4.0), dpi=120, layout="constrained")
    for (name, (sizes, times)), marker in zip(lines.items(), "osD^", strict=False):
        width = 2.0 if name == "athanor" else 1.2
        axes.loglog(sizes, times, marker=marker, label=NAMES.get(name, name), linewidth=width)
    axes.set(xlabel="atoms", ylabel="ns for each atom and step", title="Lennard-Jones NVE, two threads")
    axes.grid(True, which="both", alpha=0.25)
    axes.legend()
    figure.savefig(path, metadata={"Software": None})
    pyplot.close(figure)


if __name__ == "__main__":
    main(measure)
