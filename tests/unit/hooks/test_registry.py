"""Registration, dispatch and life cycle of hooks."""

from __future__ import annotations

from enum import Enum

import pytest

from athanor.errors import ContractError, InputError
from athanor.hooks import CheckpointableHook, DynamicsStage, Hook, HookContext, HookRegistryMixin, HookStageEnum
from athanor.hooks.registry import BoundHook


class OtherStage(Enum):
    FIRST = 0


class Engine(HookRegistryMixin):
    _stage_type = DynamicsStage

    def __init__(self, hooks=None):
        self.replace_hooks(hooks)
        self.contexts = 0

    def make_context(self, stage, batch):
        self.contexts += 1
        return super().make_context(stage, batch)


class Recorder:
    """A hook that notes its calls in a shared list."""

    def __init__(self, log=None, name="hook", frequency=1, stage=DynamicsStage.AFTER_STEP):
        self.log = [] if log is None else log
        self.name, self.frequency, self.stage = name, frequency, stage

    def __call__(self, ctx, stage):
        self.log.append((self.name, stage))


class Resource(Recorder):
    """A hook that is entered and left."""

    def __enter__(self):
        self.log.append((self.name, "enter"))
        return self

    def __exit__(self, exc_type, exc, traceback):
        self.log.append((self.name, "exit", exc_type))
        return True  # asks to swallow the exception, in vain


class Closing(Recorder):
    def close(self):
        self.log.append((self.name, "close"))


class Everywhere(Recorder):
    """A hook of two stages."""

    def __init__(self, log, name="both"):
        super().__init__(log, name, stage=None)

    def _runs_on_stage(self, stage):
        return stage in (DynamicsStage.BEFORE_STEP, DynamicsStage.AFTER_STEP)


def test_stages_are_in_order_of_execution() -> None:
    assert [stage.value for stage in DynamicsStage] == list(range(9))
    assert DynamicsStage.BEFORE_COMPUTE.value == 3
    assert DynamicsStage.ON_CONVERGE.value == 8
    assert HookStageEnum is DynamicsStage


@pytest.mark.parametrize("missing", ["frequency", "stage", "__call__"])
def test_protocol_needs_all_three_members(missing: str) -> None:
    members = {"frequency": 1, "stage": None, "__call__": lambda self, ctx, stage: None}
    assert isinstance(type("Good", (), members)(), Hook)
    del members[missing]
    assert not isinstance(type("Bad", (), members)(), Hook)
    assert not isinstance(Recorder(), CheckpointableHook)


@pytest.mark.parametrize("frequency", [0, -1, 1.0, "1", None, True])
def test_frequency_must_be_a_positive_int(frequency) -> None:
    with pytest.raises(ValueError, match=r"`frequency` of Recorder is .* int of at least 1"):
        Engine().register_hook(Recorder(frequency=frequency))


def test_stage_argument_wins_and_is_written_to_the_hook() -> None:
    engine, hook = Engine(), Recorder(stage=DynamicsStage.AFTER_STEP)
    engine.register_hook(hook, stage=DynamicsStage.BEFORE_STEP)
    assert hook.stage is DynamicsStage.BEFORE_STEP
    engine.call_hooks(DynamicsStage.AFTER_STEP, None)
    assert hook.log == []
    engine.call_hooks(DynamicsStage.BEFORE_STEP, None)
    assert hook.log == [("hook", DynamicsStage.BEFORE_STEP)]


def test_default_stage_counts_when_nothing_else_is_given() -> None:
    hook = Recorder(stage=None)
    with pytest.raises(TypeError, match=r"Recorder has no stage. Register it with `register_hook\(hook, stage=...\)`"):
        Engine().register_hook(hook)
    hook.default_stage = DynamicsStage.BEFORE_COMPUTE
    engine = Engine([hook])
    assert hook.stage is None
    assert engine.has_hooks(DynamicsStage.BEFORE_COMPUTE)
    assert not engine.has_hooks(DynamicsStage.AFTER_STEP)


def test_stage_of_another_enumeration_is_refused() -> None:
    with pytest.raises(TypeError, match="is not a DynamicsStage"):
        Engine().register_hook(Recorder(stage=OtherStage.FIRST))

    class Two(Engine):
        _stage_type = (DynamicsStage, OtherStage)

    class Three(Engine):
        _stage_type = None

    for kind in (Two, Three):
        kind([Recorder(stage=OtherStage.FIRST)]).call_hooks(OtherStage.FIRST, None)
    with pytest.raises(ContractError, match=r"DynamicsStage \| OtherStage"):
        Two().register_hook(Recorder(stage="after"))


def test_members_that_must_be_callable() -> None:
    hook = Recorder()
    hook.on_register = 3
    with pytest.raises(TypeError, match="`on_register` of Recorder is a int; it must be callable"):
        Engine().register_hook(hook)
    with pytest.raises(TypeError, match="not callable"):
        Engine().register_hook(object())


def test_on_register_is_called_with_the_engine_before_the_hook_counts() -> None:
    seen = []
    hook = Recorder()
    hook.on_register = lambda engine: seen.append((engine, len(engine.hooks)))
    engine = Engine([hook])
    assert seen == [(engine, 0)]
    assert engine.hooks == [hook]


def test_order_is_that_of_registration_with_hooks_of_several_stages_between() -> None:
    log: list = []
    engine = Engine([Recorder(log, "a"), Everywhere(log), Recorder(log, "b")])
    engine.register_hook(Recorder(log, "late"), stage=DynamicsStage.BEFORE_STEP)
    engine.call_hooks(DynamicsStage.AFTER_STEP, None)
    assert [name for name, _ in log] == ["a", "both", "b"]
    log.clear()
    engine.call_hooks(DynamicsStage.BEFORE_STEP, None)
    assert [name for name, _ in log] == ["both", "late"]
    log.clear()
    engine.call_hooks(DynamicsStage.AFTER_COMPUTE, None)
    assert log == []


def test_frequency_counts_steps_and_is_due_at_step_0() -> None:
    hook = Recorder(frequency=3)
    engine = Engine([hook])
    called_at = []
    for engine.step_count in range(7):
        before = len(hook.log)
        engine.call_hooks(DynamicsStage.AFTER_STEP, None)
        if len(hook.log) > before:
            called_at.append(engine.step_count)
    assert called_at == [0, 3, 6]


def test_a_context_is_built_once_a_stage_and_only_if_a_hook_is_due() -> None:
    engine = Engine([Recorder(frequency=2), Recorder(frequency=4), Everywhere([])])
    engine.step_count = 1
    engine.call_hooks(DynamicsStage.BEFORE_COMPUTE, None)
    assert engine.contexts == 0
    engine.step_count = 4
    engine.call_hooks(DynamicsStage.AFTER_STEP, None)
    assert engine.contexts == 1


def test_members_are_probed_once() -> None:
    """The twin probes in the loop."""

    class Probed(Recorder):
        probes = 0

        def __getattribute__(self, name):
            if name in ("frequency", "stage", "_runs_on_stage", "default_stage", "raises_on_failure"):
                type(self).probes += 1
            return super().__getattribute__(name)

    hook = Probed()
    engine = Engine([hook])
    after_registration = Probed.probes
    for _ in range(5):
        engine.call_hooks(DynamicsStage.AFTER_STEP, None)
    assert len(hook.log) == 5
    assert Probed.probes == after_registration
    for _ in range(5):  # what a registry that probes in the loop would do
        hook.frequency
    assert Probed.probes > after_registration


def test_default_context_holds_batch_model_and_engine() -> None:
    seen = []
    hook = Recorder()
    hook.__class__ = type("Seeing", (Recorder,), {"__call__": lambda self, ctx, stage: seen.append(ctx)})
    engine = Engine([hook])
    engine.model = "model"
    engine.call_hooks(DynamicsStage.AFTER_STEP, "batch")
    assert isinstance(seen[0], HookContext)
    assert (seen[0].batch, seen[0].model, seen[0].workflow, seen[0].global_rank) == ("batch", "model", engine, 0)


def test_raises_on_failure_is_known_to_the_registry() -> None:
    assert not Engine([Recorder()]).hooks_raise_on_failure
    hook = Recorder()
    hook.raises_on_failure = True
    assert Engine([Recorder(), hook]).hooks_raise_on_failure


def test_each_distinct_hook_is_entered_and_left_once_over_all_registries() -> None:
    log: list = []
    shared, own, closing = Resource(log, "shared"), Resource(log, "own"), Closing(log, "closing")
    first, second = Engine([shared, closing]), Engine([own, shared])
    first.register_hook(shared, stage=DynamicsStage.BEFORE_STEP)
    first.open_hooks(second)
    with pytest.raises(InputError, match="open already"):
        first.open_hooks()
    first.close_hooks()
    first.close_hooks()
    assert log == [
        ("shared", "enter"),
        ("own", "enter"),
        ("own", "exit", None),
        ("closing", "close"),
        ("shared", "exit", None),
    ]


def test_a_running_exception_is_handed_on_and_not_swallowed() -> None:
    log: list = []
    engine = Engine([Resource(log, "a")])
    engine.open_hooks()
    error = RuntimeError("boom")
    engine.close_hooks(RuntimeError, error, None)
    assert log[-1] == ("a", "exit", RuntimeError)
    engine.open_hooks()  # may be opened again
    engine.close_hooks()


def test_all_hooks_are_closed_even_if_one_fails() -> None:
    log: list = []

    class Failing(Recorder):
        def close(self):
            raise OSError("disk full")

    engine = Engine([Resource(log, "a"), Failing(log, "b")])
    engine.open_hooks()
    with pytest.raises(OSError, match="disk full"):
        engine.close_hooks()
    assert log[-1] == ("a", "exit", OSError)

    class NotOpening(Recorder):
        def __enter__(self):
            raise OSError("no such file")

    log.clear()
    engine = Engine([Resource(log, "a"), NotOpening(log, "b")])
    with pytest.raises(OSError, match="no such file"):
        engine.open_hooks()
    assert log == [("a", "enter"), ("a", "exit", OSError)]
    engine.close_hooks()


def test_an_engine_without_hooks_costs_nothing() -> None:
    class Bare(HookRegistryMixin):
        pass

    bare = Bare()
    bare.call_hooks(DynamicsStage.AFTER_STEP, None)
    assert not bare.has_hooks(DynamicsStage.AFTER_STEP)
    bare.register_hook(Recorder())
    assert bare.has_hooks(DynamicsStage.AFTER_STEP)
    assert not Bare().has_hooks(DynamicsStage.AFTER_STEP), "hooks of one engine are not those of another"
    assert isinstance(bare._hooks_at[DynamicsStage.AFTER_STEP][0], BoundHook)


def test_the_list_of_hooks_registers_what_is_put_into_it() -> None:
    log: list = []
    engine = Engine([Recorder(log, "a")])
    engine.hooks.append(Recorder(log, "b"))
    engine.hooks.insert(0, Recorder(log, "first"))
    engine.hooks += [Recorder(log, "last")]
    engine.call_hooks(DynamicsStage.AFTER_STEP, None)
    assert [name for name, _ in log] == ["first", "a", "b", "last"]
    log.clear()
    del engine.hooks[1]
    engine.hooks.remove(engine.hooks[-1])
    engine.call_hooks(DynamicsStage.AFTER_STEP, None)
    assert [name for name, _ in log] == ["first", "b"]
    assert [hook.name for hook in engine.hooks] == ["first", "b"]
    assert repr(engine.hooks) == repr(list(engine.hooks))
    log.clear()
    engine.hooks = [Recorder(log, "only")]
    engine.call_hooks(DynamicsStage.AFTER_STEP, None)
    assert [name for name, _ in log] == ["only"]


def test_what_is_put_into_the_list_is_checked_and_what_is_there_keeps_its_stage() -> None:
    log: list = []
    hook = Recorder(log, "both")
    engine = Engine([hook])
    engine.register_hook(hook, stage=DynamicsStage.BEFORE_STEP)
    with pytest.raises(TypeError, match="not callable"):
        engine.hooks.append(object())
    with pytest.raises(ValueError, match="`frequency` of Recorder is 0"):
        engine.hooks = [Recorder(frequency=0)]
    with pytest.raises(TypeError, match="`hooks` is a int"):
        engine.hooks = 3
    assert engine.hooks == [hook, hook]
    engine.hooks.append(Recorder(log, "late"))
    engine.call_hooks(DynamicsStage.AFTER_STEP, None)
    engine.call_hooks(DynamicsStage.BEFORE_STEP, None)
    assert [name for name, _ in log] == ["both", "late", "both"]


def test_hooks_of_one_engine_are_not_those_of_another() -> None:
    first, second = Engine(), Engine()
    first.hooks.append(Recorder())
    assert len(first.hooks) == 1
    assert len(second.hooks) == 0
