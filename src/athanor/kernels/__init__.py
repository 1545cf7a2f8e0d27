"""Numerical operations on plain tensors, one folder each, every device behind one call.

``KeptTensors``                       many tensors looked at and copied in one call
``cell_shape``, ``strained``          volumes and heights; cells and atoms under a strain
``fire_sums``, ``fire_moves``         the passes over all atoms of a FIRE step
``segment_sum``, ``segment_max``      per-system sums and maxima
``philox_uniform``, ``philox_normal`` random numbers that are a function of (seed, system, step, atom, purpose)
``momentum_flow``                     kinetic energy and momentum flow of each system
``scaled``                            vectors times a factor of their system
``nose_hoover_half_step``, ``rescaling_factor``, ``ornstein_uhlenbeck``
                                      what thermostats do to velocities
``barostat_half_step``, ``barostat_drift``
                                      cells that move, and their atoms with them
``build_neighbor_list``               sorted packed neighbour lists (``pack_images``, ``minimum_distance``)
``needs_rebuild``                     has a stored list become incomplete, per system
``arrange_rows``                      rows of systems moved into another order
``pair_potential``                    energy, forces and virial of a pair potential, Lennard-Jones and others
``embedded_atom``                     embedded-atom potentials from tables
``stillinger_weber``                  pairs and angles of the Stillinger-Weber potential
``screened_coulomb``                  pairs of charges within a cutoff
``finite_coulomb``                    all pairs of charges of finite systems
``ewald_reciprocal``                  the long-range part of periodic charges
``pme_reciprocal``                    the same on a mesh
``charge_corrections``                self energy, net charge and slabs
``dftd3``                             the D3 dispersion correction

Each that returns tensors is registered with torch as ``torch.ops.athanor.<name>``. On a CPU numba runs it, elsewhere
the torch reference.
Importing this package does not import numba. Types stand at the public call, once: its implementations and kernels take
the same arguments in the same order, or arrays and numbers made of them.
"""

from __future__ import annotations

from athanor.kernels.barostat import barostat_drift, barostat_half_step
from athanor.kernels.cell import cell_shape, strained
from athanor.kernels.coulomb import finite_coulomb, screened_coulomb
from athanor.kernels.dispersion import dftd3
from athanor.kernels.eam import embedded_atom
from athanor.kernels.ewald import charge_corrections, ewald_reciprocal
from athanor.kernels.fire import fire_moves, fire_sums
from athanor.kernels.flow import momentum_flow, scaled
from athanor.kernels.keep import KeptTensors
from athanor.kernels.neighbor_displacement import needs_rebuild
from athanor.kernels.neighbor_list import build_neighbor_list, minimum_distance, pack_images, unpack_images
from athanor.kernels.pairs import pair_potential
from athanor.kernels.philox import Purpose, philox_normal, philox_uniform
from athanor.kernels.pme import pme_reciprocal
from athanor.kernels.rows import arrange_rows
from athanor.kernels.segment import segment_max, segment_sum
from athanor.kernels.thermostat import nose_hoover_half_step, ornstein_uhlenbeck, rescaling_factor
from athanor.kernels.three_body import stillinger_weber

__all__ = [
    "KeptTensors",
    "Purpose",
    "arrange_rows",
    "barostat_drift",
    "barostat_half_step",
    "build_neighbor_list",
    "cell_shape",
    "charge_corrections",
    "dftd3",
    "embedded_atom",
    "ewald_reciprocal",
    "finite_coulomb",
    "fire_moves",
    "fire_sums",
    "minimum_distance",
    "momentum_flow",
    "needs_rebuild",
    "nose_hoover_half_step",
    "ornstein_uhlenbeck",
    "pack_images",
    "pair_potential",
    "philox_normal",
    "philox_uniform",
    "pme_reciprocal",
    "rescaling_factor",
    "scaled",
    "screened_coulomb",
    "segment_max",
    "segment_sum",
    "stillinger_weber",
    "strained",
    "unpack_images",
]
