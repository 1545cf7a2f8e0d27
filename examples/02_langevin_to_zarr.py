"""Langevin dynamics of argon at two temperatures in one batch, frames to a Zarr store. Needs: athanor-md."""

import tempfile
from pathlib import Path

import torch
from ase.build import bulk

import athanor.models
from athanor.data import AtomicData, Batch
from athanor.dynamics import NVTLangevin, ZarrData, initialize_velocities
from athanor.dynamics.hooks import SnapshotHook

model = athanor.models.get("lennard-jones", epsilon=0.0104, sigma=3.4, cutoff=8.5)
crystal = bulk("Ar", "fcc", a=5.3, cubic=True).repeat(2)
batch = Batch.from_data_list([AtomicData.from_atoms(crystal, dtype=torch.float64) for _ in range(2)])

temperature = torch.tensor([20.0, 60.0], dtype=torch.float64)  # one value for each system
batch.velocities = initialize_velocities(
    torch.zeros_like(batch.positions), batch.atomic_masses, temperature, batch.batch_idx
)
store = Path(tempfile.mkdtemp()) / "argon.zarr"
engine = NVTLangevin(model, dt=2.0, temperature=temperature, friction=0.01, n_steps=100)
for hook in (*model.make_neighbor_hooks(), SnapshotHook(ZarrData(store), frequency=10)):
    engine.register_hook(hook)
engine.run(batch)

frames = ZarrData(store, mode="r").read()
print(f"{frames.num_graphs} frames in {store}; times {sorted(set(frames.time.flatten().tolist()))} fs")
