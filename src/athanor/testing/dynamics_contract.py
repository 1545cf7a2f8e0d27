"""The contract of integrators and optimizers: checks that anybody can run on an engine of their own.

Each check takes ``make_engine(model)``, which returns a fresh engine, and raises AssertionError with the numbers if
the engine does not keep the promise. Nothing here needs a test framework.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from athanor._runtime import get_num_threads, set_num_threads
from athanor.data.atomic_data import AtomicData
from athanor.data.batch import Batch
from athanor.data.observables import kinetic_energy
from athanor.dynamics.pressure import UnderPressure
from athanor.dynamics.velocities import initialize_velocities
from athanor.hooks.stages import DynamicsStage
from athanor.models.lj import LennardJonesModelWrapper
from athanor.testing.systems import FCC, crystal

if TYPE_CHECKING:
    from athanor.dynamics.engine import BaseDynamics

MakeEngine = Callable[[Any], "BaseDynamics"]

FIELDS = ("positions", "velocities", "forces", "energy", "cell")
"""What two runs of one system are compared in, where it is there."""


def argon_model() -> LennardJonesModelWrapper:
    """Return a smooth Lennard-Jones argon: 0.0104 eV, 3.4 Å, cutoff 8 Å tapered over 1.5 Å."""
    return LennardJonesModelWrapper(epsilon=0.0104, sigma=3.4, cutoff=8.0, switch_width=1.5)


def argon_crystal(repeat: int, system_id: int, temperature: float = 60.0, strain: float = 0.0) -> AtomicData:
    """Return a hot fcc argon crystal of ``4 repeat^3`` atoms in float64.

    Displacements and velocities are a function of `system_id` alone.
    """
    cell = torch.eye(3, dtype=torch.float64) * 5.26 * (1.0 + strain)
    data = crystal(FCC, cell, [18] * 4, (repeat, repeat, repeat), jitter=0.1, seed=1000 + system_id)
    data.system_id = torch.tensor([[system_id]])
    data.velocities = initialize_velocities(
        torch.empty_like(data.positions),
        data["atomic_masses"],
        temperature,
        torch.zeros(data.num_nodes, dtype=torch.long),
        system_id=torch.tensor([system_id]),
        dof=torch.tensor([3.0 * data.num_nodes - 3.0]),
    )
    return data


def argon_cluster(count: int, system_id: int) -> AtomicData:
    """Return `count` argon atoms of a disturbed lattice, not periodic, at rest, in float64."""
    side = torch.arange(4, dtype=torch.float64)
    generator = torch.Generator().manual_seed(2000 + system_id)
    positions = torch.cartesian_prod(side, side, side)[:count] * 3.9
    positions += 0.15 * torch.randn(positions.shape, generator=generator, dtype=torch.float64)
    return AtomicData(
        positions=positions,
        atomic_numbers=torch.full((count,), 18),
        velocities=torch.zeros_like(positions),
        system_id=torch.tensor([[system_id]]),
    )


def small_system(make_engine: MakeEngine, count: int, system_id: int) -> AtomicData:
    """Return a cluster of `count` atoms; where the engine needs a cell, a crystal of four."""
    if isinstance(make_engine(argon_model()), UnderPressure):
        return argon_crystal(1, system_id)
    return argon_cluster(count, system_id)


def with_neighbor_hooks(engine: BaseDynamics, skin: float = 0.6) -> BaseDynamics:
    """Register the model's neighbour hooks on `engine` with a skin in Å, and return it.

    It does not warn of the velocities that it starts with: the systems here are hot, whatever they are given to.
    """
    for stage in (engine, *engine._members()):
        stage.warns_of_start = False
    for hook in engine.model.make_neighbor_hooks():
        hook.skin = skin
        engine.register_hook(hook)
    return engine


class BlowUp:
    """A hook that puts NaN into the positions of one system at one step, as a simulation that blows up would."""

    frequency = 1
    stage = DynamicsStage.AFTER_PRE_UPDATE

    def __init__(self, system_id: int, step: int) -> None:
        self.system_id, self.step = system_id, step

    def __call__(self, ctx: Any, stage: Any) -> None:
        """Change positions in place."""
        if ctx.step_count == self.step:
            failing = (ctx.batch.system_id[:, 0] == self.system_id)[ctx.batch.batch_idx]
            ctx.batch.positions[failing] = float("nan")


def trajectory(
    make_engine: MakeEngine, systems: Sequence[AtomicData], n_steps: int, skin: float = 0.6, hooks: Sequence[Any] = ()
) -> Batch:
    """Run `systems` in one batch for `n_steps` and return the batch."""
    engine = with_neighbor_hooks(make_engine(argon_model()), skin)
    for hook in hooks:
        engine.register_hook(hook)
    return engine.run(Batch.from_data_list([system.clone() for system in systems]), n_steps)


def total_energy(batch: Batch) -> Tensor:
    """Potential plus kinetic energy of each system, [B], eV."""
    return (batch.energy + kinetic_energy(batch))[:, 0]


def conserved_energy(engine: BaseDynamics, batch: Batch) -> Tensor:
    """What the method conserves, eV [B]; the total energy if it does not say."""
    conserved = engine.conserved_energy(batch)
    return total_energy(batch).double() if conserved is None else conserved


def check_second_order(
    make_engine: Callable[[Any, float], BaseDynamics],
    dt: float = 16.0,
    systems: Sequence[AtomicData] | None = None,
    n_steps: int = 60,
) -> float:
    """Check that halving `dt` (fs) twice divides the fluctuation of what is conserved by four each time.

    Within 3.2 to 4.8; returns the mean of both.

    Parameters
    ----------
    make_engine
        ``(model, dt)`` to engine.
    dt
        The longest step, fs.
    systems
        What to run; four hot argon crystals unless given.
    n_steps
        Number of the longest steps.
    """
    systems = [argon_crystal(2, k) for k in range(4)] if systems is None else systems
    spreads = []
    for divisor in (1, 2, 4):
        engine = with_neighbor_hooks(make_engine(argon_model(), dt / divisor))
        batch = Batch.from_data_list([system.clone() for system in systems])
        energies = []
        for _ in range(n_steps):
            engine.run(batch, divisor)
            energies.append(conserved_energy(engine, batch).clone())
        spreads.append(float(torch.stack(energies).std(dim=0).mean()))
    ratios = [spreads[0] / spreads[1], spreads[1] / spreads[2]]
    told = " and ".join(f"{ratio:.2f}" for ratio in ratios)
    for ratio in ratios:
        assert 3.2 < ratio < 4.8, f"energy fluctuation falls by {told} when dt is halved; a second-order method has 4"
    return sum(ratios) / 2


def check_no_drift(
    make_engine: MakeEngine, n_steps: int = 1500, systems: Sequence[AtomicData] | None = None, most: float = 5e-6
) -> float:
    """Check that what is conserved does not drift; return the drift in eV per atom and ps.

    Parameters
    ----------
    make_engine
        ``(model)`` to engine.
    n_steps
        Length of the run.
    systems
        Equal systems; four hot argon crystals unless given.
    most
        Largest drift, eV per atom and ps.
    """
    systems = [argon_crystal(2, k) for k in range(4)] if systems is None else systems
    engine = with_neighbor_hooks(make_engine(argon_model()))
    batch = Batch.from_data_list([system.clone() for system in systems])
    energies, times = [], []
    for _ in range(100):
        engine.run(batch, n_steps // 100)
        energies.append(conserved_energy(engine, batch) / batch.num_nodes_per_graph)
        times.append(batch.time.reshape(-1).double() / 1000.0)
    energy, time = torch.stack(energies), torch.stack(times)
    time = time - time.mean(0)
    slopes = (time * energy).sum(0) / (time * time).sum(0)
    drift, error = float(slopes.mean()), float(slopes.std() / len(slopes) ** 0.5)
    assert abs(drift) < most, f"what is conserved drifts by {drift:.1e} ± {error:.1e} eV per atom and ps"
    return drift


def check_reversal(make_engine: MakeEngine, n_steps: int = 100, odd: Sequence[str] = ()) -> float:
    """Check that running forward, flipping velocities and running again returns to the start (1e-9 Å); return it.

    Parameters
    ----------
    make_engine
        ``(model)`` to engine.
    n_steps
        Of each of both runs.
    odd
        Names of state variables that turn with the velocities: those of thermostats and cells.
    """
    start = Batch.from_data_list([argon_crystal(2, k) for k in range(2)])
    batch, engine = start.clone(), with_neighbor_hooks(make_engine(argon_model()))
    engine.run(batch, n_steps)
    batch.velocities = -batch.velocities
    for name in odd:
        batch.state_rows(engine.key)[name].neg_()
    engine.run(batch, n_steps)
    error = max(float((batch[name] - start[name]).abs().max()) for name in ("positions", "cell"))
    assert error < 1e-9, f"positions miss the start by {error:.2e} Å after running forward and back"
    return error


def check_settings(
    make_engine: Callable[..., BaseDynamics], settings: Mapping[str, Sequence[Any]], n_steps: int = 20
) -> None:
    """Check that settings of each system in a batch act as in runs of one system each, bit for bit.

    Parameters
    ----------
    make_engine
        ``(model, **settings)`` to engine.
    settings
        Three values of each, which differ: numbers, or lists of numbers.
    n_steps
        Length of the run.
    """
    systems = [argon_crystal(2, 3), argon_crystal(3, 7), argon_crystal(2, 12, strain=0.02)]
    rows = {name: torch.tensor(values, dtype=torch.float64) for name, values in settings.items()}
    together = trajectory(partial(make_engine, **rows), systems, n_steps)
    for row, system in enumerate(systems):
        own = {name: float(values[row]) if values.ndim == 1 else values[row : row + 1] for name, values in rows.items()}
        alone = trajectory(partial(make_engine, **own), [system], n_steps)
        for name in (*FIELDS, "cell"):
            same = torch.equal(alone[name], together.get_data(row)[name].reshape(alone[name].shape))
            assert same, f"`{name}` of system {row} differs between settings in a batch and the same ones alone"


def check_batch_invariance(make_engine: MakeEngine, n_steps: int = 40) -> None:
    """Check that a system follows the same path, bit for bit, alone, in any slot, and beside one that fails."""
    systems = [
        argon_crystal(2, 3),
        argon_crystal(3, 7),
        small_system(make_engine, 9, 1),
        argon_crystal(2, 12, strain=0.02),
    ]
    failing = small_system(make_engine, 5, 99)
    alone = {int(s["system_id"]): trajectory(make_engine, [s], n_steps) for s in systems}
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [1, 3], [2, 0, 3]):
        for partner in ([], [failing]):
            members = [systems[k] for k in order]
            together = trajectory(make_engine, [*partner, *members], n_steps, hooks=[BlowUp(99, n_steps // 3)])
            failed = (together.failure_code[:, 0] > 0).tolist()
            assert failed == [True] * len(partner) + [False] * len(members), f"failed systems: {failed}"
            for row, system in enumerate(members, start=len(partner)):
                one, number = together.get_data(row), int(system["system_id"])
                for name in FIELDS:
                    same = _equal(one, alone[number].get_data(0), name)
                    assert same, f"`{name}` of system_id {number} differs alone and in slot {row}"


def check_thread_invariance(make_engine: MakeEngine, n_steps: int = 8) -> None:
    """Check that 1, 2 and 4 threads give the same bits, on systems large enough for the kernels to split their work."""
    systems = [argon_crystal(2, 3), argon_crystal(6, 4)]
    before = get_num_threads()
    found = []
    try:
        for threads in (1, 2, 4):
            set_num_threads(threads)
            found.append(trajectory(make_engine, systems, n_steps))
    finally:
        set_num_threads(before)
    for threads, other in ((2, found[1]), (4, found[2])):
        for name in FIELDS:
            assert _equal(found[0], other, name), f"`{name}` differs between 1 and {threads} threads"


def check_split_run(make_engine: MakeEngine, n_steps: int = 20) -> None:
    """Check that two runs of `n_steps` equal one of twice as many, bit for bit."""
    systems = [argon_crystal(2, 3), small_system(make_engine, 9, 1)]
    whole = trajectory(make_engine, systems, 2 * n_steps)
    engine = with_neighbor_hooks(make_engine(argon_model()))
    halves = Batch.from_data_list([system.clone() for system in systems])
    engine.run(halves, n_steps)
    engine.run(halves, n_steps)
    for name in FIELDS:
        assert _equal(whole, halves, name), f"`{name}` differs between run(2n) and run(n); run(n)"


def check_restart(make_engine: MakeEngine, n_steps: int = 20) -> None:
    """Check that a new engine with the saved state goes on bit for bit, on a pickled batch with state and without."""
    import pickle

    systems = [argon_crystal(2, 3), small_system(make_engine, 9, 1)]
    whole = trajectory(make_engine, systems, 2 * n_steps)
    engine = with_neighbor_hooks(make_engine(argon_model()))
    batch = Batch.from_data_list([system.clone() for system in systems])
    engine.run(batch, n_steps)
    saved = engine.state_dict()
    for bare in (False, True):
        again = with_neighbor_hooks(make_engine(argon_model()))
        again.load_state_dict(saved)
        moved = pickle.loads(pickle.dumps(batch))
        if bare:
            moved.drop_state_rows(moved.state_keys)
        again.run(moved, n_steps)
        for name in FIELDS:
            assert _equal(whole, moved, name), f"`{name}` differs between a whole run and a restarted one"


def check_finished_systems_stand_still(make_engine: MakeEngine, n_steps: int = 10) -> None:
    """Check that a system that is finished, or in another stage, does not change by one bit while others move."""
    engine = with_neighbor_hooks(make_engine(argon_model()))
    batch = Batch.from_data_list([argon_crystal(2, 3), argon_crystal(2, 4)])
    engine.run(batch, 1)
    before = batch.get_data(0).clone()
    other = batch.get_data(1).positions.clone()
    batch.status[0] = engine.exit_status
    engine.run(batch, n_steps)
    after = batch.get_data(0)
    for name in (*FIELDS, "step", "time"):
        assert _equal(before, after, name), f"`{name}` of a finished system changed"
    assert not torch.equal(other, batch.get_data(1).positions), "the other system did not move"
    _check_other_stages_stand_still(make_engine, n_steps)


def _check_other_stages_stand_still(make_engine: MakeEngine, n_steps: int) -> None:
    """The same for a system in a stage that moves nothing, in the batch of the engine, and for what is kept of it."""
    from athanor.dynamics.engine import BaseDynamics
    from athanor.dynamics.fused import FusedStage

    model = argon_model()
    engine = make_engine(model)
    engine.n_steps = engine.n_steps or 2**31
    fused = with_neighbor_hooks(FusedStage([(0, engine), (1, BaseDynamics(model))]))
    batch = Batch.from_data_list([argon_crystal(2, 3), argon_crystal(2, 4)])
    batch.status = torch.tensor([[1], [0]])
    fused.run(batch, 0)
    before = batch.clone()
    fused.run(batch, n_steps)
    for name in ("positions", "velocities", "cell"):
        same = torch.equal(before.get_data(0)[name], batch.get_data(0)[name])
        assert same, f"`{name}` of a system in another stage changed"
    kept = before.state_rows(engine.key)
    for name, rows in batch.state_rows(engine.key).items():
        first = slice(0, 1 if len(rows) == len(batch) else before.get_data(0).num_nodes)
        assert torch.equal(kept[name][first], rows[first]), f"state `{name}` of a system in another stage changed"
    assert not torch.equal(before.get_data(1).positions, batch.get_data(1).positions), "the other system did not move"


def check_newcomers(make_engine: MakeEngine, n_steps: int = 10) -> None:
    """Check that a system that joins in the middle of a run follows the same path, bit for bit, as it does alone."""
    newcomer = argon_crystal(3, 7)
    alone = trajectory(make_engine, [newcomer], n_steps)
    engine = with_neighbor_hooks(make_engine(argon_model()))
    batch = Batch.from_data_list([argon_crystal(2, 3), argon_crystal(2, 4, strain=0.02)])
    engine.run(batch, n_steps)
    batch.append_data([newcomer.clone()])
    engine.run(batch, n_steps)
    for name in FIELDS:
        assert _equal(alone.get_data(0), batch.get_data(2), name), f"`{name}` of a newcomer differs from that alone"


def check_fixed_atoms(make_engine: MakeEngine, n_steps: int = 10) -> None:
    """Check that atoms marked `fixed` keep their positions bit for bit, or their place in a cell that moves."""
    data = small_system(make_engine, 9, 1)
    data.fixed = torch.arange(data.num_nodes) < 3
    batch = trajectory(make_engine, [data], n_steps)
    before, after = data.positions, batch.positions
    if isinstance(make_engine(argon_model()), UnderPressure):
        before, after = (torch.linalg.solve(one["cell"][0].mT, one.positions.mT).mT for one in (data, batch))
        assert torch.allclose(before[:3], after[:3], rtol=0.0, atol=1e-12), "fixed atoms moved in their cell"
    else:
        assert torch.equal(before[:3], after[:3]), "fixed atoms moved"
    assert not torch.equal(data.positions[3:], batch.positions[3:]), "free atoms did not move"


def _equal(one: Any, other: Any, name: str) -> bool:
    """Whether a field has the same bits in both, if both have it."""
    return name not in one or name not in other or torch.equal(one[name], other[name])
