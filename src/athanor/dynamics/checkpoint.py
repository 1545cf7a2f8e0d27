"""A run as a tree of plain values and tensors, between two of its steps, and how it goes on from there.

The tree holds the batch with all that rides on it, what engines, samplers and hooks remember, how far sinks and logs
were, and what decides about bits: versions, device, model, engines and their settings. It is a function of the run
alone: names by which rows of the batch are found, which are new in every process, stand in it as numbers.
"""

from __future__ import annotations

import hashlib
import platform
import re
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

import athanor
from athanor import _runtime
from athanor.data._followers import known_keys, new_name
from athanor.data.batch import Batch
from athanor.dynamics.state import is_schedule
from athanor.errors import AthanorError, AthanorWarning, InputError, StorageError, in_words
from athanor.io.checkpoint import CheckpointFolder
from athanor.models.digest import model_digest
from athanor.sinks.base import DataSink

if TYPE_CHECKING:
    from athanor.dynamics.contract import Owner

Tree = dict[str, Any]
_NUMBERED = re.compile(r"(athanor-key:[0-9]+)(/.*)?")
_NO_SETTINGS = ("step_count", "done", "key", "current_hook_stage", "active", "device_type", "n_steps")
"""Attributes of an engine that change during a run, or do not decide what happens in it."""
_SHOWN = 8


# -- saving ----------------------------------------------------------------------------------------------------------


def tree_of_run(engine: Owner, batch: Batch, about: Tree, extra: Any = None, left: Sequence[Batch] = ()) -> Tree:
    """Return the tree of a run between two steps. Sinks and logs are flushed.

    Parameters
    ----------
    engine
        The engine that runs.
    batch
        All of its systems, as they are now.
    about
        What `about_run` says.
    extra
        A tree of the caller's, kept beside.
    left
        Systems that have left the run, with all that rides on them.
    """
    keys = _Keys()
    sinks = [sink.state_dict() for sink in sinks_of(engine)]
    state = _without_rows(engine.state_dict())
    waiting = {name: state.pop(name) for name in ("in_flight",) if name in state}  # last: the others' keys have their
    numbered = keys.numbered(state)  # numbers then, which are the same in every checkpoint of a run
    hooks = [(type(hook).__name__, _without_riding(hook.state_dict(), batch)) for hook in _with_memory(engine)]
    hooks = [(name, keys.numbered(state)) for name, state in hooks]
    return {
        "about": about,
        "steps": engine._driver.done,
        "engine": numbered | keys.numbered(waiting),
        "hooks": hooks,
        "sinks": sinks,
        "batch": keys.numbered_rows(batch.state_dict()),
        "left": [keys.numbered_rows(some.state_dict()) for some in left],
        "extra": extra,
    }


def about_run(engine: Owner, batch: Batch, digest: str) -> Tree:
    """Return what decides about the bits of a run, beside its state; `digest` is that of its model before the run."""
    device = batch.device
    card = engine.model.model_card
    stages = list(getattr(engine, "sub_stages", ()))
    return {
        "athanor": athanor.__version__,
        "torch": str(torch.__version__),
        "machine": platform.machine(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "dtype": str(batch.dtype),
        "model": {"class": type(engine.model).__name__, "name": card.name, "digest": digest},
        "engine": _settings_of(engine, counts_steps=engine.inflight_mode and not stages),
        "stages": {str(code): _settings_of(stage, counts_steps=True) for code, stage in stages},
    }


def _settings_of(engine: Owner, *, counts_steps: bool) -> dict[str, str]:
    """Return the class of an engine and its settings, in words."""
    criterion = repr(engine.convergence_hook)  # of somebody's own class it may say no more than an address
    found = {"class": type(engine).__name__}
    found["convergence_hook"] = type(engine.convergence_hook).__name__ if " at 0x" in criterion else criterion
    if counts_steps:
        found["n_steps"] = repr(engine.n_steps)
    if engine.sampler is not None:
        found["sampler"] = repr(engine.sampler)
    for name, value in sorted(vars(engine).items()):
        if name not in _NO_SETTINGS and not name.startswith("_"):
            words = _in_words(value)
            if words is not None:
                found[name] = words
    return found


def _in_words(value: Any) -> str | None:
    """Return a setting as text, tensors by their digest; None if it is an object, or not set."""
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} {hashlib.sha256(repr(value.tolist()).encode()).hexdigest()[:16]}"
    if is_schedule(value):
        return ", ".join(f"{_in_words(each)} at {time!r} fs" for time, each in value.points) + f", {value.shape}"
    if isinstance(value, tuple):
        words = [_in_words(each) for each in value]
        return None if None in words else f"({', '.join(map(str, words))})"
    return repr(value) if isinstance(value, bool | int | float | str) else None


def _without_rows(state: Tree) -> Tree:
    """Return the state of an engine without rows that ride on the batch, which is saved beside it."""
    state = {**state, "state": None, "run": None, "older": {**state["older"], "rows": []}}
    if "stages" in state:
        state["stages"] = [_without_rows(stage) for stage in state["stages"]]
    return state


def _without_riding(state: Any, batch: Batch) -> Any:
    """Return the state of a hook without rows that ride on the batch, which is saved beside it."""
    if not isinstance(state, dict):
        return state
    if state.keys() == {"key", "rows"} and batch.known_to(state["key"]) is not None:
        return {**state, "rows": None}
    return {name: _without_riding(each, batch) for name, each in state.items()}


def _with_memory(engine: Owner) -> list[Any]:
    """Return the hooks of a run that have a state, in order."""
    return [hook for hook in engine._driver.hooks if hasattr(hook, "state_dict") and hasattr(hook, "load_state_dict")]


def sinks_of(engine: Owner) -> list[DataSink]:
    """Return the sinks that a run writes to, each once: its own, then those of its hooks."""
    hooks = [getattr(hook, "sink", None) for hook in engine._driver.hooks]
    every = [*engine.sinks, *engine.failure_sinks, *(sink for sink in hooks if isinstance(sink, DataSink))]
    return list({id(sink): sink for sink in every}.values())


class _Keys:
    """Numbers the keys of state rows in the order in which they are met."""

    def __init__(self) -> None:
        self._known = known_keys()
        self._numbers: dict[str, str] = {}

    def numbered(self, tree: Any) -> Any:
        """Return a tree with a number in place of every key."""
        return _renamed(tree, self._number)

    def _number(self, text: str) -> str:
        """Return a text, numbered if it is a key, or begins with one as names of what is kept of a row do."""
        key, slash, rest = text.partition("/")
        if key not in self._known:
            return text
        return self._numbers.setdefault(key, f"athanor-key:{len(self._numbers)}") + slash + rest

    def numbered_rows(self, tree: Tree) -> Tree:
        """Return the tree of a batch with numbered keys, without rows of those that are not in this run."""
        levels = {}
        for name, level in tree["levels"].items():
            rows = [(self._numbers[key], row, tensor) for key, row, tensor in level["state"] if key in self._numbers]
            rows = [(key, self._number(row), tensor) for key, row, tensor in rows]
            levels[name] = {**level, "state": sorted(rows, key=lambda row: row[0])}
        return {**tree, "levels": levels}


def _with_new_keys(tree: Any, made: dict[str, str]) -> Any:
    """Return a tree with new keys in place of their numbers, the same for the same, as in `made`."""

    def name(text: str) -> str:
        found = _NUMBERED.fullmatch(text)
        return made.setdefault(found[1], new_name("resumed")) + (found[2] or "") if found else text

    return _renamed(tree, name)


def _renamed(tree: Any, rename: Callable[[str], str]) -> Any:
    if isinstance(tree, str):
        return rename(tree)
    if isinstance(tree, dict):
        return {key: _renamed(value, rename) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        renamed = [_renamed(value, rename) for value in tree]
        return renamed if isinstance(tree, list) else tuple(renamed)
    return tree


# -- going on --------------------------------------------------------------------------------------------------------


class SavedCheckpoint(NamedTuple):
    """A checkpoint that was read: `restore` makes an engine go on from it.

    Parameters
    ----------
    number
        Its number in the folder.
    path
        Where it is.
    about
        What decides about the bits of the run: versions, device, dtype, model, engines and their settings.
    steps
        Steps that the run had done.
    extra
        What the `extra` of the `Checkpoint` hook returned.
    tree
        All of it.
    newest
        Number of the newest checkpoint that was there, whole or not.
    keys
        The keys of rows, by their numbers, once it was restored.
    """

    number: int
    path: Path
    about: Tree
    steps: int
    extra: Any
    tree: Tree
    newest: int
    keys: dict[str, str]

    @classmethod
    def load(cls, folder: Any, number: int | None = None) -> SavedCheckpoint:
        """Read the newest checkpoint of a folder that is whole, or the one of a number.

        Raises
        ------
        MissingFileError
            If there is none.
        StorageError
            If none is whole: which file, and what was found.

        Warns
        -----
        AthanorWarning
            Of damaged ones that are passed over.
        """
        found = CheckpointFolder(folder).load(number)
        tree = found.tree
        if not _is_of_a_run(tree):
            raise StorageError(f"`{found.path}` is a checkpoint of something else, and not of a run.")
        return cls(found.number, found.path, tree["about"], tree["steps"], tree.get("extra"), tree, found.newest, {})

    def restore(self, engine: Owner, *, allow: bool = False, may_differ: Collection[str] = ()) -> Batch:
        """Make `engine` go on from here, see `BaseDynamics.resume`. Later checkpoints of the folder are removed.

        What is named in `may_differ`, such as ``stages.0.n_steps``, need not be what it was.

        Raises
        ------
        InputError
            If the engine is not the one that was saved, or something differs that decides about bits.
        StorageError
            If another run has the folder, or an output is not what it was.
        """
        self.keys.clear()
        tree = _with_new_keys({name: self.tree[name] for name in ("engine", "hooks", "batch")}, self.keys)
        try:
            batch = Batch.from_state_dict(tree["batch"], engine.device)
        except InputError as error:
            raise StorageError(f"`{self.path}` can not be used: {in_words(error)}") from error
        _check_same(self.path, self.about, about_run(engine, batch, model_digest(engine.model)), allow, may_differ)
        hooks, sinks = _with_memory(engine), sinks_of(engine)
        self._check_collaborators(hooks, sinks)
        mine = [hook for hook in engine._driver.hooks if isinstance(getattr(hook, "folder", None), CheckpointFolder)]
        mine = [hook for hook in mine if hook.folder.path == self.path.parent]
        folder = mine[0].folder if mine else CheckpointFolder(self.path.parent)
        folder.acquire()
        try:
            if max(folder.numbers(), default=0) > self.newest:
                raise StorageError(
                    f"`{folder.path}` was written to by another run since this checkpoint was read. Load the newest."
                )
            folder.drop_after(self.number)
            self._hand_out(engine, hooks, sinks, tree, batch)
        except BaseException:
            folder.release()
            raise
        for hook in mine:
            hook.go_on(self.steps, self._parts)
        engine.resumed_folder = None if mine else folder
        return batch

    def left(self, engine: Owner) -> list[Batch]:
        """Return the systems that had left, with all that rode on them, for an engine that was restored from here.

        Each is there once, as it left last: who was finished when a run ended leaves again when that is resumed.

        Raises
        ------
        StorageError
            If a part of the checkpoint is missing, damaged, or something else.
        """
        folder, found = CheckpointFolder(self.path.parent), []
        for number in self._parts:
            part = _with_new_keys(folder.load_part(number), self.keys)
            try:
                found += [Batch.from_state_dict(tree, engine.device) for tree in part["left"]]
            except (InputError, LookupError, TypeError) as error:
                raise StorageError(f"Part {number} of `{folder.path}` can not be used: {in_words(error)}") from error
        last = {one: place for place, some in enumerate(found) for one in some.system_id.reshape(-1).tolist()}
        newest = [
            [row for row, one in enumerate(some.system_id.reshape(-1).tolist()) if last[one] == place]
            for place, some in enumerate(found)
        ]
        return [
            some if len(rows) == len(some) else some.index_select(rows)
            for some, rows in zip(found, newest, strict=True)
            if rows
        ]

    @property
    def _parts(self) -> list[int]:
        """Numbers of the parts that hold the systems which have left."""
        parts = self.tree.get("left", [])
        return [number for number in parts if type(number) is int] if isinstance(parts, list) else []

    def _check_collaborators(self, hooks: list[Any], sinks: list[DataSink]) -> None:
        """Raise InputError unless there are as many hooks with memory and sinks as were saved, of the same classes."""
        saved, there = [name for name, _ in self.tree["hooks"]], [type(hook).__name__ for hook in hooks]
        if saved != there:
            raise InputError(
                f"`{self.path}` holds the memory of the hooks {', '.join(saved) or 'none'}; this engine has "
                f"{', '.join(there) or 'none'}. Register the same hooks in the same order."
            )
        if len(sinks) != len(self.tree["sinks"]):
            raise InputError(
                f"`{self.path}` was written by a run with {len(self.tree['sinks'])} sinks; this engine and its hooks "
                f"have {len(sinks)}. Give it the same ones."
            )

    def _hand_out(self, engine: Owner, hooks: list[Any], sinks: list[DataSink], tree: Tree, batch: Batch) -> None:
        """Give everybody back what was theirs; outputs are cut back last."""
        try:
            engine.load_state_dict(tree["engine"])
            if tree["batch"]["fresh"] is not None:
                batch.mark_results_fresh(engine._driver.results_source, tree["batch"]["fresh"])
            for hook, (_, state) in zip(hooks, tree["hooks"], strict=True):
                hook.load_state_dict(state)
            for sink, state in zip(sinks, self.tree["sinks"], strict=True):
                sink.load_state_dict(state)
            engine._driver.resumed = (batch, int(self.steps))
        except (AthanorError, Warning):
            raise
        except Exception as error:  # a tree that somebody else wrote may be anything
            raise StorageError(f"`{self.path}` can not be used: {in_words(error)}.") from error
        if engine.inflight_mode:
            engine.active_batch = batch


def _is_of_a_run(tree: Any) -> bool:
    """Whether a tree is what `tree_of_run` returns, as far as it can be told from outside."""
    kinds = {"about": dict, "steps": int, "engine": dict, "hooks": list, "sinks": list, "batch": dict}
    if not isinstance(tree, dict) or not all(isinstance(tree.get(name), kind) for name, kind in kinds.items()):
        return False
    of_hooks = [isinstance(hook, tuple) and [type(each) for each in hook] == [str, dict] for hook in tree["hooks"]]
    return all(of_hooks) and all(isinstance(sink, dict) for sink in tree["sinks"])


def _check_same(path: Path, saved: Tree, now: Tree, allow: bool, may_differ: Collection[str]) -> None:
    """Raise, or warn if it is allowed, where what decides about bits is not what it was."""
    found = [text for where, text in _differences(saved, now, "") if where not in may_differ]
    if not found:
        return
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    text = f"`{path}` was written by another job: {'; '.join(found[:_SHOWN])}{more}."
    if not allow:
        raise InputError(f"{text} The run would not end with the same bits. `allow=True` goes on all the same.")
    warnings.warn(
        AthanorWarning(f"{text} The run goes on, with the state of the checkpoint."),
        stacklevel=_runtime.level_of_caller(),
    )


def _differences(saved: Any, now: Any, where: str) -> Iterator[tuple[str, str]]:
    """Yield what differs: where, and in words."""
    if isinstance(saved, dict) and isinstance(now, dict):
        for key in dict.fromkeys((*saved, *now)):
            yield from _differences(saved.get(key), now.get(key), f"{where}.{key}".lstrip("."))
    elif saved != now:
        yield where, f"`{where}` was {saved}, and is {now}"
