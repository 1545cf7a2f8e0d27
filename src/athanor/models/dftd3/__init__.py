"""The D3 dispersion correction behind the common interface.

`wrapper` is the model, `functionals` holds the published damping parameters, `tables` reads the reference data.
"""

from athanor.models.dftd3.tables import extract_dftd3_parameters, load_dftd3_params, save_dftd3_parameters
from athanor.models.dftd3.wrapper import DFTD3ModelWrapper

__all__ = ["DFTD3ModelWrapper", "extract_dftd3_parameters", "load_dftd3_params", "save_dftd3_parameters"]
