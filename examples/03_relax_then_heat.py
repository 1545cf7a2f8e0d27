"""Relaxation and dynamics fused: a crystal that is relaxed goes on into MD, in the same batch. Needs: athanor-md."""

import torch
from ase.build import bulk

import athanor.models
from athanor.data import AtomicData, Batch
from athanor.dynamics import ConvergenceHook, FIREVariableCell, NVTLangevin

model = athanor.models.get("lennard-jones", epsilon=0.0104, sigma=3.4, cutoff=8.5)
crystals = [bulk("Ar", "fcc", a=a, cubic=True) for a in (5.0, 5.27, 5.6)]
batch = Batch.from_data_list([AtomicData.from_atoms(atoms, dtype=torch.float64) for atoms in crystals])

converged = ConvergenceHook.from_fmax_and_smax(fmax=0.001)
relax = FIREVariableCell(model, dt=0.2, dt_max=1.0, mass_scale="mean", convergence_hook=converged)
heat = NVTLangevin(model, dt=2.0, temperature=30.0, friction=0.01, n_steps=50)
engine = relax + heat
for hook in model.make_neighbor_hooks():
    engine.register_hook(hook)
engine.run(batch)

for row in range(batch.num_graphs):
    print(
        f"system {int(batch.system_id[row])}: {int(batch.step[row])} steps, {float(batch.time[row]):.0f} fs of dynamics"
    )
