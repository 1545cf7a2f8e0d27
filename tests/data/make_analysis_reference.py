"""Write `analysis_reference.json`: what MDAnalysis says of the trajectory `analysis_trajectory.npz`.

    python tests/data/make_analysis_reference.py trajectory    with athanor: the trajectory
    python tests/data/make_analysis_reference.py               with MDAnalysis, in an environment of its own

The trajectory is a liquid of argon and krypton (one Lennard-Jones potential for both, so they differ by mass) in a
skewed cell. Its positions are not wrapped. Radial distributions are made once for the cell as it is, and once for a
cell that is stretched by another few percent in every frame, atoms with it.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np

TRAJECTORY = Path(__file__).with_name("analysis_trajectory.npz")
TARGET = Path(__file__).with_name("analysis_reference.json")
BINS, CUTOFF = 40, 6.0


def stretches(frames: int) -> np.ndarray:
    """How much longer the cell vectors of each frame are made, [F, 3]."""
    return 1.0 + 0.04 * np.sin(np.arange(frames)[:, None] * np.array([0.3, 0.5, 0.7]))


def write_trajectory() -> None:
    from ase.build import bulk

    import athanor

    crystal = bulk("Ar", "fcc", a=5.9, cubic=True) * (3, 3, 3)
    crystal.set_cell(crystal.cell.array @ np.array([[1.0, 0.1, 0.0], [0.15, 0.95, 0.2], [0.0, 0.1, 1.05]]), True)
    numbers = crystal.get_atomic_numbers()
    numbers[np.random.default_rng(1).permutation(len(numbers))[:40]] = 36
    crystal.set_atomic_numbers(numbers)
    crystal.set_masses("defaults")
    model = {"name": "lennard-jones", "epsilon": 0.0104, "sigma": 3.4, "cutoff": 6.5}
    melt = athanor.md(crystal, model=model, temperature=250, steps=3000, timestep=4)
    [liquid], out = melt.structures, Path("argon-krypton")
    del liquid.arrays["momenta"]  # new ones, so that the centre of mass rests
    settings = {"ensemble": "nve", "temperature": 150, "steps": 1200, "timestep": 4, "every": 20, "overwrite": True}
    athanor.md(liquid, model=model, out=out, **settings)
    frames = athanor.open(out).frames(0)
    atoms = len(crystal)
    np.savez_compressed(
        TRAJECTORY,
        positions=frames.positions.reshape(-1, atoms, 3).numpy().astype(np.float32),
        cell=frames.cell[0].numpy(),
        numbers=numbers.astype(np.int8),
        spacing=80.0,
        stretches=stretches(len(frames)),
    )


def write_numbers() -> None:
    import MDAnalysis
    from MDAnalysis.analysis.msd import EinsteinMSD
    from MDAnalysis.analysis.rdf import InterRDF
    from MDAnalysis.lib.mdamath import triclinic_box

    stored = np.load(TRAJECTORY)
    positions, numbers = stored["positions"].astype(float), stored["numbers"]
    frames, atoms = positions.shape[:2]
    names = {18: "Ar", 36: "Kr"}
    universe = MDAnalysis.Universe.empty(atoms, trajectory=True)
    universe.add_TopologyAttr("names", [names[number] for number in numbers])

    def load(path: np.ndarray, cells: np.ndarray) -> None:
        # MDAnalysis has cells with the first vector along x and the second in the plane: turn all into that frame
        boxes = [triclinic_box(*cell) for cell in cells]
        turned = np.stack([
            frame @ np.linalg.inv(cell) @ MDAnalysis.lib.mdamath.triclinic_vectors(box)
            for frame, cell, box in zip(path, cells, boxes, strict=True)
        ])  # fmt: skip
        universe.load_new(turned.astype(np.float32), dimensions=np.array(boxes), order="fac")

    def radial() -> dict[str, list[float]]:
        found = {}
        for one, other in (("Ar", "Ar"), ("Ar", "Kr"), ("Kr", "Kr")):
            first, second = universe.select_atoms(f"name {one}"), universe.select_atoms(f"name {other}")
            same = one == other
            # frame by frame: MDAnalysis multiplies mean counts by the mean volume, and each frame has its own here
            every = [
                InterRDF(first, second, nbins=BINS, range=(0.0, CUTOFF), exclusion_block=(1, 1) if same else None)
                .run(start=frame, stop=frame + 1)
                .results.rdf
                for frame in range(frames)
            ]
            # of equal atoms it counts N (N - 1) pairs, athanor N²: the own images of an atom are neighbours, too
            found[f"{one}-{other}"] = (np.mean(every, axis=0) * (1.0 - same / len(first))).tolist()
        return found

    cells = np.repeat(stored["cell"][None], frames, axis=0)
    load(positions, cells)
    numbers_found = {"rdf": radial()}
    load(positions, cells)
    msd = EinsteinMSD(universe, select="name Kr", msd_type="xyz", fft=False).run()
    numbers_found["msd_Kr"] = msd.results.timeseries.tolist()
    stretch = stored["stretches"]
    load(positions * stretch[:, None], cells * stretch[:, None])
    numbers_found["rdf_of_stretched"] = radial()
    source = {"program": f"MDAnalysis {version('MDAnalysis')}, numpy {version('numpy')}", "units": "Å, Å²"}
    TARGET.write_text(json.dumps({"source": source, "cutoff": CUTOFF, "bins": BINS, **numbers_found}) + "\n")


if __name__ == "__main__":
    write_trajectory() if "trajectory" in sys.argv else write_numbers()
