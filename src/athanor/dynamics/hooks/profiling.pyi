# Written by tests/architecture/door_stubs.py from athanor/_doors.py and the __init__.py beside it.

from athanor.hooks.timing import StageTimingHook as StageTimingHook
from athanor.hooks.torch_profiler import TorchProfilerHook as TorchProfilerHook
