"""Every usual mistake with hooks and engines, one row each; and what becomes of a system that fails in a run."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from athanor.data import AtomicData, Batch
from athanor.dynamics import (
    FIRE,
    NVE,
    ConvergenceHook,
    DemoDynamics,
    DynamicsStage,
    FailureCode,
    FIREVariableCell,
    FusedStage,
    NVTLangevin,
    explain_failure,
)
from athanor.dynamics.hooks import LoggingHook, NaNDetectorHook, SnapshotHook
from athanor.errors import (
    ArgumentError,
    ContractError,
    InputError,
    MissingFieldError,
    ModelOutputError,
    NotAvailableError,
    SimulationError,
)
from athanor.hooks import WrapPeriodicHook

from .mistakes import Charged, Mistake, argon, batch, check, crystal, lennard_jones, table

STEP = DynamicsStage.AFTER_STEP
MODEL = lennard_jones()


class Hook:
    """What a user writes, less `stage`."""

    frequency = 1

    def __init__(self, **members: Any) -> None:
        self.__dict__.update(members)

    def __call__(self, ctx: Any, stage: Any) -> None:
        """Nothing."""


class Deaf(Hook):
    def __call__(self) -> None:  # type: ignore[override]
        """Takes nothing."""


def register(hook: Any, stage: Any = None) -> None:
    NVE(MODEL, dt=1.0).register_hook(hook, stage)


HOOKS = [
    ("no stage", lambda: register(Hook()), ContractError, r"Hook has no stage. .*`register_hook\(hook, stage=...\)"),
    ("stage in words", lambda: register(Hook(), "after_step"), ContractError, "'after_step' .*Use `DynamicsStage.AFTE"),
    ("frequency 0", lambda: register(Hook(frequency=0), STEP), InputError, "`frequency` of Hook is 0; .*at least 1"),
    ("frequency -1", lambda: register(Hook(frequency=-1), STEP), InputError, "`frequency` of Hook is -1"),
    ("frequency 1.5", lambda: register(Hook(frequency=1.5), STEP), InputError, "`frequency` of Hook is 1.5; .*int"),
    ("function", lambda: register(print, STEP), ContractError, "has no `frequency`. Set it to the number of steps"),
    ("class", lambda: register(NaNDetectorHook), ContractError, r"NaNDetectorHook is a class; register an object"),
    ("list", lambda: register([Hook()]), ContractError, "list is not callable.*Register each hook"),
    ("not a list", lambda: NVE(MODEL, dt=1.0, hooks=Hook()), ContractError, r"`hooks` is a Hook; .*`hooks=\[hook\]`"),
    ("no arguments", lambda: register(Deaf(), STEP), ContractError, r"called as `hook\(ctx, stage\)`: too many"),
    ("wrap", lambda: WrapPeriodicHook(0), InputError, "`frequency` is 0; give a whole number of at least 1"),
    ("path as sink", lambda: SnapshotHook("frames.zarr"), ContractError, "`sink` is a str; pass a sink, .*ZarrData"),
    ("log nowhere", lambda: LoggingHook("csv"), InputError, "needs `log_path`. Pass where to write"),
    ("log to JSON", lambda: LoggingHook("json"), InputError, "'json'` is unknown. Use one of 'csv'"),
    ("log a number", lambda: LoggingHook("csv", custom_scalars={"x": 3}), ContractError, r"scalars\['x'\]` is a int;"),
]


def run(engine: Any, systems: Any = None, n_steps: Any = 1) -> Any:
    return engine(hooks=MODEL.make_neighbor_hooks()).run(batch() if systems is None else systems, n_steps)


def nve(**values: Any) -> Callable[..., NVE]:
    return lambda **more: NVE(MODEL, **{"dt": 1.0, "keep_velocities": True, **values, **more})


def langevin(**values: Any) -> NVTLangevin:
    return NVTLangevin(MODEL, **{"dt": 1.0, "temperature": 300.0, "friction": 0.01, **values})


def fire(**values: Any) -> FIRE:
    return FIRE(MODEL, **{"dt": 0.1, **values})


def squeezed(pressure: Any) -> Callable[..., FIREVariableCell]:
    return lambda **more: FIREVariableCell(MODEL, dt=0.1, pressure=pressure, **more)


def fused() -> FusedStage:
    return fire(n_steps=1) + NVE(MODEL, dt=1.0, n_steps=1)


def with_ids(*ids: int) -> Batch:
    return Batch.from_data_list([crystal(system_id=torch.tensor([[number]])) for number in ids])


def with_status(status: int) -> Batch:
    found = batch()
    found.status = torch.full((2, 1), status)
    return found


def returning(output: Any) -> Any:
    tagged = [crystal(tags=torch.zeros(3, dtype=int)) for _ in range(2)]
    return NVE(Charged(output, "tags"), dt=1.0, keep_velocities=True).run(Batch.from_data_list(tagged), 1)


ENGINES = [
    ("dt 0", nve(dt=0), InputError, "`dt` is 0; it must be finite and positive, in fs"),
    ("dt < 0", nve(dt=-1.0), InputError, "`dt` is -1.0; it must be finite and positive"),
    ("dt NaN", nve(dt=math.nan), InputError, "`dt` is nan; it must be finite, in fs"),
    ("dt infinite", nve(dt=math.inf), InputError, "`dt` is inf; it must be finite"),
    ("dt with unit", nve(dt="1 fs"), ArgumentError, "`dt` is '1 fs'; pass a number in fs, or a tensor with one for ea"),
    ("dt of a list", nve(dt=[1.0, 2.0]), ArgumentError, r"`dt` is \[1.0, 2.0\]; pass a number"),
    ("dt of three", lambda: run(nve(dt=torch.ones(3))), InputError, "`dt` has leading size 3; the batch has 2 systems"),
    ("dt of a matrix", lambda: run(nve(dt=torch.ones(2, 2))), InputError, r"`dt` has shape \(2, 2\)"),
    ("dt of FIRE", lambda: fire(dt="small"), ArgumentError, "`dt` is 'small'; pass a number in internal time"),
    ("dt of the demo", lambda: DemoDynamics(MODEL, 3, dt=None), ArgumentError, "`dt` is None; pass a number"),
    ("temperature < 0", lambda: langevin(temperature=-1), InputError, "`temperature` is -1; .*zero or positive, in K"),
    ("temperature NaN", lambda: langevin(temperature=math.nan), InputError, "`temperature` is nan"),
    ("temperature", lambda: langevin(temperature="300 K"), ArgumentError, "`temperature` is '300 K'; pass a number in"),
    ("friction < 0", lambda: langevin(friction=-0.1), InputError, "`friction` is -0.1; .*zero or positive, in 1/fs"),
    ("seed", lambda: langevin(random_seed=1.5), InputError, "`random_seed` is 1.5; give a whole number"),
    ("pressure NaN", squeezed(math.nan), InputError, "`pressure` is nan; it must be finite, in eV/Å³ .*units.GPa"),
    ("pressure in words", squeezed("1 GPa"), ArgumentError, "`pressure` is '1 GPa'; pass a number in eV/Å³"),
    ("pressure in GPa", squeezed(10), InputError, "`pressure` is 10 eV/Å³, which is 1,602 GPa; .*at most 1,000"),
    ("pressures in GPa", squeezed(torch.tensor([0.5, -30.0])), InputError, r"is \[0.5, -30.0\] eV/Å³, .* 4,807 GPa"),
    ("pressure 3x3", lambda: run(squeezed(torch.eye(3))), InputError, "`pressure` has leading size 3; .*2 systems"),
    ("pressure of 6", lambda: run(squeezed(torch.zeros(1, 6))), InputError, r"`pressure` has shape \(1, 6\); it is on"),
    ("FIRE", lambda: fire(f_dec=2.0), InputError, "`f_dec` is 2.0; it must be at most 1"),
    ("no n_steps", lambda: NVE(MODEL, dt=1.0).run(batch()), InputError, "NVE.run needs `n_steps`; pass it here or to"),
    ("n_steps < 0", lambda: run(nve(), n_steps=-1), InputError, "`n_steps` is -1; give a whole number of at least 0"),
    ("n_steps 1.5", nve(n_steps=1.5), InputError, "`n_steps` is 1.5; give a whole number"),
    ("model by name", lambda: NVE("lj", dt=1.0), ContractError, r"`model` is a str; .*athanor.models.get\('lj', ...\)"),
    ("model class", lambda: NVE(Charged, dt=1.0), ContractError, r"Charged is a class: pass an object, `Charged\("),
    ("any module", lambda: NVE(nn.Linear(1, 1), dt=1.0), ContractError, "`model` is a Linear; .*BaseModelMixin"),
    ("keyword", nve(timestap=1), ArgumentError, "keyword argument `timestap`. It takes model, dt"),
    ("misspelt", nve(n_step=1), ArgumentError, "keyword argument `n_step`. Did you mean `n_steps`"),
    ("later", nve(prior_rank=0), InputError, "does not take `prior_rank` in this version"),
    ("sampler", nve(sampler=[]), ContractError, r"`sampler` of NVE is a list; pass `SizeAwareSampler\("),
    ("on_error", nve(on_error="ignore"), InputError, '`on_error` is \'ignore\'; use "quarantine", "retry" or "raise"'),
    ("convergence", nve(convergence_hook=0.05), ArgumentError, r"is a float. .*`ConvergenceHook.from_fmax\(0.05\)"),
    ("its keys", nve(convergence_hook={"smax": 1}), ArgumentError, "has the key `smax`; ConvergenceHook takes criteri"),
    ("fmax NaN", lambda: ConvergenceHook.from_fmax(math.nan), InputError, "`fmax` is nan; it must be finite, in eV/Å"),
    ("fmax < 0", lambda: ConvergenceHook.from_fmax(-1), InputError, "`fmax` is -1; .*zero or positive"),
    ("no criterion", lambda: ConvergenceHook([]), InputError, "`criteria` is empty; give at least one"),
    ("never looked", lambda: ConvergenceHook(frequency=0), InputError, "`frequency` is 0"),
    ("structure", lambda: run(nve(), argon()), ContractError, r"NVE runs a Batch; this is a AtomicData. .*from_data_l"),
    ("engine + model", lambda: NVE(MODEL, dt=1.0) + MODEL, ContractError, "NVE .* LennardJ.*Pass the model to the con"),
    ("engine + number", lambda: sum([NVE(MODEL, dt=1.0)]), ContractError, r"NVE \+ int: only engines are added"),
    ("engine | engine", lambda: NVE(MODEL, dt=1.0) | fire(), NotAvailableError, "not part of this version. `first . s"),
    ("two models", lambda: fire(n_steps=1) + NVE(lennard_jones(), dt=1.0), InputError, "another model object than sta"),
    ("one twice", lambda: (one := fire(n_steps=1)) + one, InputError, "one engine stands in two stages"),
    ("endless", lambda: NVE(MODEL, dt=1.0) + fire(), InputError, r"stage 0 \(NVE\) can never be left. Give it"),
    ("no pairs", lambda: FusedStage([fire()]), ArgumentError, r"holds a FIRE; .*`\[\(0, relax\), \(1, heat\)\]`"),
    ("lost status", lambda: run(lambda **k: fused(), with_status(-3)), InputError, r"`status` of system_id 0 .*is -3;"),
    (
        "no list",
        lambda: nve()().run(batch(), 1),
        MissingFieldError,
        "no neighbour list.*make_neighbor_hook",
    ),
    ("no stress", lambda: FIREVariableCell(Charged(), dt=0.1).run(batch(), 1), InputError, "needs `stress`, which Cha"),
    ("no cell", lambda: run(squeezed(0.0), Batch.from_data_list([argon()])), InputError, "needs a `cell`; none .*Use"),
    ("one id", lambda: run(nve(), with_ids(3, 7, 3)), InputError, "`system_id` 3 stands at the indices 0, 2 .*= None"),
    ("returns None", lambda: returning(None), ModelOutputError, "Charged returned a NoneType; return a dictionary"),
    ("no forces", lambda: returning({}), ModelOutputError, "did not return `forces`, which this run needs"),
    ("transposed", lambda: returning({"forces": torch.zeros(3, 6)}), ModelOutputError, r"\(3, 6\); expected \(6, 3\)"),
]


@table(HOOKS)
def test_mistakes_with_hooks(mistake: Mistake) -> None:
    check(mistake)


@table(ENGINES)
def test_mistakes_with_engines(mistake: Mistake) -> None:
    check(mistake)


def test_what_runs_but_is_not_meant_is_told_once() -> None:
    with pytest.warns(UserWarning, match=r"`friction=10` is given in 1/fs and damps .*0.1 fs.*0.001 to 0.05"):
        langevin(friction=10.0)
    finished = with_status(1)
    before = finished.positions.clone()
    with pytest.warns(UserWarning, match=r"NVE.run moves nothing: 2 of 2 .*`exit_status` = 1.*`batch.status = None`"):
        run(nve(), finished)
    assert torch.equal(finished.positions, before)
    finished.status = None
    assert run(nve(), finished, 3).step.flatten().tolist() == [3, 3]


# one bad system among good ones: set aside with its reason, and the others keep their bits
def on_top(gap: float) -> AtomicData:
    positions = argon().positions.clone()
    positions[2] = positions[1] + torch.tensor([gap, 0.0, 0.0], dtype=torch.float64)
    return argon(positions=positions)


FAILING = [
    ("coincident", on_top(0.0), FailureCode.ATOMS_TOO_CLOSE, "closest pair 0.00 Å, atoms 1 and 2"),
    ("on top", on_top(1e-30), FailureCode.ATOMS_TOO_CLOSE, "closest pair 0.00 Å, atoms 1 and 2"),
    ("element", argon(atomic_numbers=torch.tensor([18, 18, 54, 18])), FailureCode.ELEMENT_NOT_KNOWN, r"Xe \(Z = 54\),"),
]


@pytest.mark.parametrize(("bad", "code", "words"), [row[1:] for row in FAILING], ids=[row[0] for row in FAILING])
def test_a_failing_system_is_named_and_leaves_the_others_alone(bad: AtomicData, code: FailureCode, words: str) -> None:
    model = lennard_jones()
    model.model_card = dataclasses.replace(model.model_card, elements=frozenset({18}))

    def go(*systems: AtomicData, on_error: str = "quarantine") -> Batch:
        engine = NVE(model, dt=2.0, hooks=model.make_neighbor_hooks(), on_error=on_error, keep_velocities=True)
        return engine.run(Batch.from_data_list(systems), 5)

    good = [argon(5), argon(3)]
    found, alone = go(good[0], bad, good[1]), go(*good)
    assert found.failure_code.flatten().tolist() == [0, code, 0]
    assert found.step.flatten().tolist() == [5, 0, 5]
    assert words.replace("\\", "") in explain_failure(found, 1, model)
    assert torch.equal(found.get_data(1).positions, bad.positions)
    for place, mate in ((0, 0), (2, 1)):
        for name in ("positions", "velocities", "forces", "energy"):
            assert torch.equal(found.get_data(place)[name], alone.get_data(mate)[name]), name
    with pytest.raises(SimulationError, match=rf"system_id 1 \(index 1\): .*{words}"):
        go(good[0], bad, on_error="raise")
