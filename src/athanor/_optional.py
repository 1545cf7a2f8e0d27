"""One guard for packages that athanor can use but does not need.

An optional package is imported where it is used, through `OptionalDependency.load`, and its absence names the command
that brings it.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from functools import cached_property
from types import ModuleType
from typing import NamedTuple

from athanor.errors import OptionalDependencyError


class _Package(NamedTuple):
    import_name: str
    install_target: str


_UNSAFE_LOADING = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"
"""Environment variable by which `torch.load` runs whatever a file says, unless its caller forbids it."""


@contextmanager
def _loading_of_files_kept_safe() -> Iterator[None]:
    """Put back the variable that ``import mace`` sets for the whole process."""
    before = os.environ.get(_UNSAFE_LOADING)
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(_UNSAFE_LOADING, None)
        else:
            os.environ[_UNSAFE_LOADING] = before


class OptionalDependency(Enum):
    """The optional packages: what is imported, and what to install."""

    ASE = _Package("ase", "ase")
    PYMATGEN = _Package("pymatgen", "athanor-md[pymatgen]")
    CHGNET = _Package("chgnet", "athanor-md[chgnet]")
    DFTD4 = _Package("dftd4", "athanor-md[d4]")
    MATPLOTLIB = _Package("matplotlib", "athanor-md[plot]")
    PANDAS = _Package("pandas", "pandas")
    MACE = _Package("mace", "athanor-md[mace]")
    CUEQUIVARIANCE = _Package("cuequivariance_torch", "cuequivariance-torch")
    CUEQUIVARIANCE_OPS = _Package("cuequivariance_ops_torch", "cuequivariance-ops-torch-cu12")
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
        """Import the package (or ``package.submodule``) and return it; `torch.load` is afterwards as safe as before.

        Raises
        ------
        OptionalDependencyError
            If the package is not installed; the text names the command that installs it.
        """
        name = f"{self.import_name}.{submodule}" if submodule else self.import_name
        try:
            with _loading_of_files_kept_safe():
                return importlib.import_module(name)
        except ImportError as error:
            who = f"{needed_by} needs" if needed_by else "This needs"
            raise OptionalDependencyError(
                f"{who} the package {self.import_name}, which can not be imported ({error}). "
                f'Run `pip install "{self.install_target}"`.'
            ) from error
