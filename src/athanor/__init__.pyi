# Written by tests/architecture/door_stubs.py from athanor/_doors.py and the __init__.py beside it.

from athanor import data as data
from athanor import dynamics as dynamics
from athanor import errors as errors
from athanor import hooks as hooks
from athanor import models as models
from athanor import neighbors as neighbors
from athanor import testing as testing
from athanor import units as units
from athanor._runtime import set_num_threads as set_num_threads
from athanor.data.atomic_data import AtomicData as AtomicData
from athanor.data.batch import Batch as Batch
from athanor.workflows.calculator import AthanorCalculator as AthanorCalculator
from athanor.workflows.calculator import calculator as calculator
from athanor.workflows.compare import compare as compare
from athanor.workflows.evaluate import evaluate as evaluate
from athanor.workflows.export import export as export
from athanor.workflows.md import md as md
from athanor.workflows.plot import plot as plot
from athanor.workflows.relax import relax as relax
from athanor.workflows.saved_run import open as open
from athanor.workflows.select import select as select

__version__: str
