"""From a description to objects: model, engines, hooks, and the systems as a batch holds them."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Sequence
from typing import Any

import torch
from pydantic import ValidationError

from athanor._values import check_keywords, keywords_of
from athanor.data.atomic_data import AtomicData
from athanor.data.batch import Batch
from athanor.dynamics import ConvergenceHook, FusedStage, Schedule
from athanor.dynamics.evaluate import compute_apart, is_of_model
from athanor.dynamics.hooks import StopAboveHook
from athanor.errors import AthanorError, AthanorWarning, InputError
from athanor.models import registry
from athanor.models.entry import ModelEntry
from athanor.workflows.courses import Course
from athanor.workflows.earlier_runs import progress_of
from athanor.workflows.methods import RELAX, load
from athanor.workflows.problems import describe_problems
from athanor.workflows.spec import DEFAULT_MODEL, CalculationSpec, ModelSpec, RunSpec
from athanor.workflows.stages import StageSpec
from athanor.workflows.structures import System, describe_system, not_finite
from athanor.workflows.track import StressHook, Tracker

SKIN = 0.5
"""Å added to the cutoff of the neighbour list, unless the model asks for a skin of its own."""


def choose_model(spec: CalculationSpec, systems: Sequence[System]) -> tuple[ModelSpec, list[System]]:
    """Return the model of the run, named or the default, and the systems, set aside those that the default is not for.

    The default is for crystals; for a molecule somebody has to name a model.
    """
    if spec.model is not None:
        return spec.model, list(systems)
    problem = (
        f"it is not periodic, and the default model {DEFAULT_MODEL} is for crystals. Name a model with --model (see "
        f"`athanor models`), or give it a cell."
    )
    return ModelSpec(name=DEFAULT_MODEL), [
        system if system.problem or system.is_periodic else system.set_aside(problem) for system in systems
    ]


def build_model(spec: ModelSpec) -> Any:
    """Build a model by name.

    Raises
    ------
    InputError
        If the name or an argument is wrong.
    OptionalDependencyError
        If a package is missing; the text names the command that installs it.
    """
    if spec.terms:
        return registry.total(build_model(term) for term in spec.terms)
    return registry.total(_build_term(entry, options) for entry, options in registry.terms(spec.name, spec.options))


def trusted(spec: ModelSpec) -> ModelSpec:
    """Return the description of a model, or of a sum, whose files may run code; see `athanor.models.tensor_file`.

    Raises
    ------
    InputError
        If there is no such model.
    """
    if spec.terms:
        return spec.model_copy(update={"terms": tuple(map(trusted, spec.terms))})
    entries = [entry for entry, _ in registry.terms(spec.name, {})]
    if not any("trust" in keywords_of(entry.load())[0] for entry in entries):
        return spec  # it reads no file
    return spec.model_copy(update={"options": {**spec.options, "trust": True}})


def _build_term(entry: ModelEntry, options: dict[str, Any]) -> Any:
    """Build one model, with errors that say how its options are written in a job and on the command line."""
    called = f"model {entry.name!r}"
    advice = f"Write `--model-option KEY=VALUE`, or `model: {{name: {entry.name}, KEY: VALUE}}` in a job."
    check_keywords(entry.load(), options, called, "option", advice)
    try:
        return registry.build(entry, options)
    except InputError as error:
        raise InputError(f"{called}: {error}") from error
    except AthanorError:
        raise
    except ValidationError as error:  # of the configurations that a model makes of its arguments
        raise InputError(f"{called}: {describe_problems(error)}") from error
    except (TypeError, RuntimeError) as error:  # torch's, for a device or a dtype that is none
        first_line = str(error).partition("\n")[0]
        raise InputError(f"{called} does not take {options}: {first_line}") from error


def check_stages(spec: RunSpec, systems: Sequence[System], model: Any) -> None:
    """Refuse stages that ask a model or an optimizer for what it does not do.

    Raises
    ------
    InputError
        If a stage needs stress of a model that computes none, or an optimizer that moves atoms only is to move a cell;
        the text says what to do.
    """
    periodic = next((i for i, system in enumerate(systems) if system.is_periodic and not system.problem), None)
    if periodic is None:
        return
    where = describe_system(periodic, systems[periodic])
    for stage in spec.stages:
        method = stage.method
        moves_cell = method.kind is RELAX and not stage.fixed_cell
        other = "Keep cells with `--fixed-cell` (`fixed_cell: true` in a job), or choose" if moves_cell else "Choose"
        if moves_cell and not method.cell_engine:
            raise InputError(f"optimizer `{method.name}` does not move the cell of {where}. {other} another optimizer.")
        needs = load(method.cell_engine if moves_cell else method.engine).__needs_keys__
        if "stress" in needs and "stress" not in model.model_config.outputs:
            name = model.model_card.name or type(model).__name__
            what = "the relaxation of the cell" if moves_cell else f"{method.kind.chooser} `{method.name}`"
            raise InputError(f"{name} computes no stress, which {what} of {where} needs. {other} another model.")


def convert(system: System, dtype: str, *, reads: Collection[str] = frozenset(), moves: bool = True) -> AtomicData:
    """Convert a system; its id is that of the run, whatever batch it will be in.

    Parameters
    ----------
    system
        What to convert.
    dtype
        ``"float64"`` or ``"float32"``.
    reads
        Fields that the model reads; labels that make no sense are left out where it does not.
    moves
        Whether anything will move: else momenta and constraints do not matter.

    Raises
    ------
    InputError
        If it can not be converted; the text says why.
    """
    problem, state = not_finite(system.atoms, "momenta") if moves else "", getattr(torch, dtype)
    if problem:
        raise InputError(problem)
    try:
        return AtomicData.from_atoms(_without_notes(system.atoms, LABELS, moves), dtype=state, system_id=system.id)
    except Exception:
        read = {name for name, fields in LABELS.items() if fields & set(reads)}
        return AtomicData.from_atoms(_without_notes(system.atoms, read, moves), dtype=state, system_id=system.id)


LABELS = {
    "charge": {"charge"},
    "spin": {"spin"},
    "initial_charges": {"charges", "charge"},
    "initial_magmoms": {"magmoms", "spin"},
}
"""What ASE calls labels of charge and spin, and the fields that are made of each."""


def _without_notes(atoms: Any, labels: Collection[str], moves: bool) -> Any:
    """Atoms with the `labels` and without other notes of their file, which differ from system to system.

    What only matters to what `moves`, momenta and constraints, is left out of what does not. What comes from an earlier
    run keeps its lifetime `step` and `time`: noise is keyed by the step, and a run that goes on must not draw the same
    noise again.
    """
    plain = atoms.copy()
    plain.info = {key: value for key, value in atoms.info.items() if key in labels} | progress_of(atoms)
    plain.calc = None
    known = {"numbers", "positions", "masses", "tags", *labels} | ({"momenta"} if moves else set())
    for name in set(plain.arrays) - known:
        del plain.arrays[name]
    if not moves:
        plain.set_constraint()
    return plain


def build_stages(spec: RunSpec, model: Any, batch: Batch, **in_flight: Any) -> tuple[FusedStage, Tracker, list[Any]]:
    """Return the stages of a run, ready for the systems of `batch`, what follows each through them, and their engines.

    Neighbour lists and the tracker are registered, and what has the stress computed that dynamics does without.
    `in_flight` is what a run needs whose systems come and go, see `athanor.dynamics.BaseDynamics`.
    """
    engines = [_build_engine(stage, spec, model, batch) for stage in spec.stages]
    chances: dict[str, Any] = {"on_error": spec.on_error, "max_retries": spec.max_retries}
    fused = FusedStage(list(enumerate(engines)), **chances, **in_flight)
    stopper = StopAboveHook(spec.stop_above) if spec.stop_above else None
    tracker = Tracker(spec.stages, engines, fused.failure_notes, spec.every, stopper)
    # who is stopped in a step has left when the tracker looks
    hooks = [*build_neighbor_hooks(model), *([stopper] if stopper else []), tracker]
    if gives_stress(model, batch):
        hooks.append(StressHook(tracker, spec.every))
    for hook in hooks:
        fused.register_hook(hook)
    return fused, tracker, engines


def gives_stress(model: Any, batch: Batch) -> bool:
    """Whether a model computes the stress of some system of a batch."""
    return "stress" in model.model_config.outputs and "cell" in batch


def complete_stress(model: Any, batch: Batch) -> None:
    """Compute the stress of healthy systems that have none where they ended, in place.

    Parameters
    ----------
    model
        A wrapped model.
    batch
        After a run, with its pair lists.
    """
    if not gives_stress(model, batch):
        return
    healthy = (batch.failure_code[:, 0] == 0) & batch.energy[:, 0].isfinite() & batch.has_cell
    if "stress" in batch:
        healthy &= batch.stress.isnan().flatten(1).any(dim=1)
    if bool(healthy.any()):
        try:
            found = compute_apart(model, batch[healthy], frozenset({"stress"}))["stress"]
        except Exception as error:
            if is_of_model(error):  # they have run to their end; what the model can not say of it stays unknown
                return
            raise
        if "stress" not in batch:
            batch.stress = torch.full_like(batch.cell, torch.nan)
        batch.stress[healthy] = found.to(batch.stress.dtype)


def _build_engine(stage: StageSpec, spec: RunSpec, model: Any, batch: Batch) -> Any:
    """Make the engine of a stage as the table says: by its home, with the settings that it has keywords for."""
    method, home = stage.method, stage.method.engine
    keywords = {name: setting.keyword for name, setting in method.all_settings().items() if setting.keyword}
    given = {keyword: _as_engines_take_it(getattr(stage, name), stage) for name, keyword in keywords.items()}
    given |= method.constants
    given["random_seed"] = spec.seed
    if method.kind is RELAX and (stage.fixed_cell or "cell" not in batch):
        given["convergence_hook"] = ConvergenceHook.from_fmax(stage.fmax)
    elif method.kind is RELAX:
        home, given["pressure"] = method.cell_engine, stage.pressure
        given["convergence_hook"] = ConvergenceHook.from_fmax_and_smax(stage.fmax, stage.smax)
    with warnings.catch_warnings():
        for topic in method.advice:  # which `advise` says once for all batches
            warnings.filterwarnings("ignore", rf".*silence=\['{topic}'\]", AthanorWarning)
        engine = load(home)(model, **given)
    engine.warns_of_start = False  # which `advise` says, too
    return engine


def _as_engines_take_it(value: Any, stage: StageSpec) -> Any:
    return Schedule(value.within(stage.steps * stage.timestep)) if isinstance(value, Course) else value


def build_neighbor_hooks(model: Any) -> list[Any]:
    """Return the model's neighbour-list hooks, with a skin."""
    hooks = model.make_neighbor_hooks()
    for hook in hooks:
        if hook.skin <= 0.0:
            hook.skin = SKIN
    return list(hooks)
