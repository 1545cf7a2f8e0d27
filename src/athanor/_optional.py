"""One guard for packages that athanor can use but does not need.

An optional package is imported where it is used, through `OptionalDependency.load`, and its absence names the command
that brings it.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import random
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from functools import cached_property
from types import ModuleType
from typing import NamedTuple

from athanor.errors import OptionalDependencyError


class _Package(NamedTuple):
    import_name: str
    install_target: str


@contextmanager
def process_left_alone() -> Iterator[None]:
    """Put back what packages change for the whole process when they are imported or build a network.

    Environment variables (``import mace`` switches off what keeps `torch.load` from running code in files), filters of
    warnings, handlers of the root logger, the default dtype of torch, its number of threads, precision of
    products and how it prints, and the state of random number generators. What is printed meanwhile goes to the
    standard error.
    """
    import logging

    environment = dict(os.environ)
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    python_state = random.getstate()
    of_libraries = [_numpy_left_alone(), _torch_left_alone()]
    try:
        with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
            yield
    finally:
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ.update(environment)
        root.handlers[:] = handlers
        root.setLevel(level)
        random.setstate(python_state)
        for put_back in of_libraries:
            put_back()


def _numpy_left_alone() -> Callable[[], None]:
    import numpy as np

    state = np.random.get_state()
    return lambda: np.random.set_state(state)


def _torch_left_alone() -> Callable[[], None]:
    import torch

    dtype, state, threads = torch.get_default_dtype(), torch.get_rng_state(), torch.get_num_threads()
    precision, gradients = torch.get_float32_matmul_precision(), torch.is_grad_enabled()
    printing = torch._tensor_str.get_printoptions()

    def put_back() -> None:
        torch.set_default_dtype(dtype)
        torch.set_rng_state(state)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)
        torch.set_grad_enabled(gradients)
        torch.set_printoptions(**printing)

    return put_back


class OptionalDependency(Enum):
    """The optional packages: what is imported, and what to install."""

    ASE = _Package("ase", "ase")
    PYMATGEN = _Package("pymatgen", "athanor-md[pymatgen]")
    CHGNET = _Package("chgnet", "athanor-md[chgnet]")
    SEVENN = _Package("sevenn", "athanor-md[sevennet]")
    E3NN = _Package("e3nn", "e3nn")
    SO3KRATES = _Package("so3krates_torch", "athanor-md[so3lr]")
    DIEP = _Package("diep", "athanor-md[diep]")
    DFTD4 = _Package("dftd4", "athanor-md[d4]")
    MATPLOTLIB = _Package("matplotlib", "athanor-md[plot]")
    MDANALYSIS = _Package("MDAnalysis", "athanor-md[export]")
    H5PY = _Package("h5py", "athanor-md[export]")
    PANDAS = _Package("pandas", "pandas")
    MACE = _Package("mace", "athanor-md[mace]")
    ORB = _Package("orb_models", "athanor-md[orb]")
    MATTERSIM = _Package("mattersim", "athanor-md[mattersim]")
    CUEQUIVARIANCE = _Package("cuequivariance_torch", "cuequivariance-torch")
    CUEQUIVARIANCE_OPS = _Package("cuequivariance_ops_torch", "cuequivariance-ops-torch-cu12")
    AIMNET = _Package("aimnet", "athanor-md[aimnet2]")
    NEQUIP = _Package("nequip", "athanor-md[nequip]")
    UMA = _Package("fairchem.core", "athanor-md[uma]")
    METATOMIC = _Package("metatomic.torch", "athanor-md[metatomic]")
    METATENSOR = _Package("metatensor.torch", "athanor-md[metatomic]")
    TENSORBOARD = _Package("tensorboard", "athanor-md[tensorboard]")

    @property
    def import_name(self) -> str:
        """Name that ``import`` takes."""
        return self.value.import_name

    @property
    def install_target(self) -> str:
        """What ``pip install`` takes."""
        return self.value.install_target

    @cached_property
    def _spec_found(self) -> bool:
        try:
            return importlib.util.find_spec(self.import_name) is not None
        except ModuleNotFoundError:
            return False

    def is_available(self) -> bool:
        """Whether the package can be imported; looked up once."""
        return self._spec_found

    def load(self, submodule: str = "", *, needed_by: str = "") -> ModuleType:
        """Import the package (or ``package.submodule``) and return it; the process is left as it was.

        Raises
        ------
        OptionalDependencyError
            If the package is not installed; the text names the command that installs it.
        """
        name = f"{self.import_name}.{submodule}" if submodule else self.import_name
        try:
            # what is loaded already changes nothing, and is asked for with each structure
            with contextlib.nullcontext() if sys.modules.get(name) else process_left_alone():
                return importlib.import_module(name)
        except ImportError as error:
            who = f"{needed_by} needs" if needed_by else "This needs"
            raise OptionalDependencyError(
                f"{who} the package {self.import_name}, which can not be imported ({error}). "
                f'Run `pip install "{self.install_target}"`.'
            ) from error
