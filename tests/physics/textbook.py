"""Martyna, Tobias and Klein's step as a textbook writes it: a twin of `NPT`, with one method for each of its moves.

The engine does half a step in one operation, which can not be taken apart; mutants change this. It is slow, and knows
neither fixed atoms nor systems that glide.
"""

from __future__ import annotations

import torch

from athanor.dynamics import NPT
from athanor.kernels import segment_sum
from athanor.kernels.thermostat._reference import WEIGHTS
from athanor.testing.dynamics_contract import argon_crystal

EYE = torch.eye(3, dtype=torch.float64)
SHEAR = torch.tensor([[1.0, 0.0, 0.0], [0.12, 1.02, 0.0], [-0.07, 0.05, 0.97]], dtype=torch.float64)


def sheared_crystal(number):
    """A hot argon crystal in a cell without right angles."""
    data = argon_crystal(2, number)
    data.positions, data.cell = data.positions @ SHEAR, data["cell"] @ SHEAR
    return data


class Textbook(NPT):
    freedoms = {"isotropic": 1, "anisotropic": 3, "triclinic": 6}

    def _half_step_(self, batch, *, backward):
        self._constants(batch)  # counts the degrees of freedom
        moves = [self.thermostats_, self.kick_cell_, self.kick_atoms_]
        for move in reversed(moves) if backward else moves:
            move(batch)

    # what mutants change

    def mass(self):
        """W, of each degree of freedom of the cell."""
        return (self._moving.dof + 3.0) / 3.0 * self._heat * self._state.barostat_time**2

    def cell_chain_time(self):
        return self._state.barostat_time

    def share_of_heat(self):
        """1/n, by which the heat pushes the cell in addition to the pressure."""
        return 1.0 / self._moving.dof

    def share_of_drag(self):
        """1/n, by which a growing cell slows the atoms in addition to its rate."""
        return 1.0 / self._moving.dof

    def momentum_flow(self, batch):
        """The sum of m v v."""
        products = batch.velocities[:, :, None] * batch.velocities[:, None, :] * batch.atomic_masses[:, None, None]
        return segment_sum(products.flatten(1), batch.batch_ptr).unflatten(1, (3, 3))

    def virial(self, batch):
        return -batch.volume[:, None, None] * batch.stress

    def scale_(self, batch, factor):
        batch.velocities.mul_(factor[batch.batch_idx][:, None])

    # the moves

    def rate(self):
        return self._state.cell_momentum / self.mass().sqrt()[:, None, None]

    def thermostats_(self, batch):
        state = self._state
        twice_kinetic = trace(self.momentum_flow(batch))
        self.scale_(batch, self.through("chain", twice_kinetic, self._moving.dof, state.thermostat_time))
        squares = state.cell_momentum.square().sum((1, 2))
        free = torch.full_like(squares, self.freedoms[self.pressure_coupling])
        state.cell_momentum.mul_(self.through("cell_chain", squares, free, self.cell_chain_time())[:, None, None])

    def through(self, name, twice_kinetic, free, time):
        """Advance a chain by half a step; return the factor of the velocities that it acts on."""
        speeds, kT = getattr(self._state, name), self._heat
        masses = [kT * time**2 * (free if link == 0 else 1.0) for link in range(speeds.shape[1])]
        rates = [speed / mass.sqrt() for speed, mass in zip(speeds.unbind(1), masses, strict=True)]
        factor, last = torch.ones_like(kT), len(rates) - 1

        def kick(link, step):
            below = twice_kinetic * factor**2 if link == 0 else masses[link - 1] * rates[link - 1] ** 2
            pull = (below - kT * (free if link == 0 else 1.0)) / masses[link]
            slower = torch.exp(-step / 4.0 * rates[link + 1]) if link < last else 1.0
            rates[link] = (rates[link] * slower + step / 2.0 * pull) * slower

        for weight in WEIGHTS[self.yoshida_order]:
            step = 0.5 * weight * self._state.dt
            for link in range(last, -1, -1):
                kick(link, step)
            factor = factor * torch.exp(-step * rates[0])
            self.book(kT, step, free, rates)
            for link in range(last + 1):
                kick(link, step)
        speeds.copy_(torch.stack([rate * mass.sqrt() for rate, mass in zip(rates, masses, strict=True)], dim=1))
        return factor

    def book(self, kT, step, free, rates):
        self._state.bath_energy -= kT * step * (free * rates[0] + sum(rates[1:]))

    def kick_cell_(self, batch):
        flow = self.momentum_flow(batch)
        pull = flow + self.virial(batch) - batch.volume[:, None, None] * self._state.pressure
        pull = pull + (trace(flow) * self.share_of_heat())[:, None, None] * EYE
        half = 0.5 * self._state.dt / self.mass().sqrt()
        self._state.cell_momentum += half[:, None, None] * self._projected(pull)

    def kick_atoms_(self, batch):
        rate = self.rate()
        drag = rate + (trace(rate) * self.share_of_drag())[:, None, None] * EYE
        half, index = 0.5 * self._state.dt, batch.batch_idx
        slowed, pushed = exponential_and_mean(-half[:, None, None] * drag)
        push = half[index][:, None] * batch.forces / batch.atomic_masses[:, None]
        batch.velocities.copy_(times(batch.velocities, slowed[index]) + times(push, pushed[index]))

    def _drift_(self, batch, fraction=1.0):
        index, dt, rate = batch.batch_idx, self._state.dt, self.rate()
        before = self._state.pressure.diagonal(dim1=1, dim2=2).mean(1) * batch.volume
        flow, mean = exponential_and_mean(dt[:, None, None] * rate)
        moved = times(batch.positions, flow[index]) + times(dt[index][:, None] * batch.velocities, mean[index])
        batch.positions.copy_(moved)
        batch.cell.copy_(self.strained(batch.cell, flow))
        volume = torch.linalg.det(batch.cell).abs()
        self._state.work += self._state.pressure.diagonal(dim1=1, dim2=2).mean(1) * volume - before

    def strained(self, cell, flow):
        return torch.bmm(cell, flow)


def trace(tensors):
    return tensors.diagonal(dim1=1, dim2=2).sum(1)


def times(rows, matrices):
    return torch.einsum("nc,ncd->nd", rows, matrices)


def exponential_and_mean(matrices):
    """exp(X) and its mean over the unit of time, the sum of X^k/(k + 1)!; for small X."""
    term = mean = EYE.expand_as(matrices)
    for power in range(1, 9):
        term = torch.bmm(term, matrices) / (power + 1)
        mean = mean + term
    return EYE + torch.bmm(matrices, mean), mean
