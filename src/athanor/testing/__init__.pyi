# Written by tests/architecture/door_stubs.py from athanor/_doors.py and the __init__.py beside it.

from athanor.testing.model_contract import check_model as check_model
from athanor.testing.model_kit.report import ModelReport as ModelReport
from athanor.testing.model_kit.report import Row as Row
from athanor.testing.model_kit.report import Verdict as Verdict
