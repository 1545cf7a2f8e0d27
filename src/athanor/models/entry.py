"""ModelEntry: one row of the list of models, known before anything is imported."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from athanor._optional import OptionalDependency

if TYPE_CHECKING:
    from athanor.models.mixin import BaseModelMixin


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """One row of the list of models.

    Parameters
    ----------
    name
        What `get` takes.
    kind
        ``"pair potential"``, ``"many-body potential"``, ``"electrostatics"``, ``"dispersion"``, ``"machine-learned"``,
        ``"several models"``, ``"demo"`` or ``"third party"``.
    home
        ``module:attribute`` that builds the wrapper.
    num_elements
        How many elements it covers; ``None`` if it depends on the arguments or is unknown.
    licence
        Terms of code and parameters together.
    summary
        One line.
    requires
        Optional package it needs.
    weights
        Where the parameters come from: ``"shipped"`` with the package, ``"downloaded"`` by it, ``"yours"`` for a file
        of the user's; empty if it has none.
    training_set
        What they were fitted to.
    citation, url
        DOI or text to cite, home page.
    inputs
        What a system may say beside its atoms: ``"charge"``, ``"spin"``.
    kilobytes_per_atom
        Memory of an evaluation with forces for each atom of a dense system, kB, rounded up; from which the size of
        batches follows. None if it depends on the parameters or is unknown. Where a CPU evaluates a batch in blocks of
        systems, many small ones need less: it is for one large system, and for a GPU.
    most_atoms
        Atoms beyond which a larger batch is not faster; None where that was not seen.
    arguments
        Arguments of what builds the wrapper that make it this model, such as the name of its parameters; `get` does not
        take them.
    """

    name: str
    kind: str
    home: str
    num_elements: int | None = None
    licence: str = ""
    summary: str = ""
    requires: OptionalDependency | None = None
    weights: Literal["", "shipped", "downloaded", "yours"] = ""
    training_set: str = ""
    citation: str = ""
    url: str = ""
    inputs: tuple[str, ...] = ()
    kilobytes_per_atom: int | None = None
    most_atoms: int | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def installed(self) -> bool:
        """Whether everything it needs can be imported; looks, does not import."""
        return self.requires is None or self.requires.is_available()

    @property
    def install(self) -> str:
        """Command that brings what is needed; empty if nothing is."""
        return "" if self.requires is None else f'pip install "{self.requires.install_target}"'

    def load(self) -> Callable[..., BaseModelMixin]:
        """Import and return what builds the wrapper."""
        if self.requires is not None:
            self.requires.load(needed_by=self.name)
        module, _, path = self.home.partition(":")
        target: Any = importlib.import_module(module)
        for part in path.split(".") if path else ():
            target = getattr(target, part)
        return _with(target, self.arguments) if self.arguments else target


def _with(builder: Callable[..., BaseModelMixin], arguments: Mapping[str, Any]) -> Callable[..., BaseModelMixin]:
    """Return `builder` with `arguments` settled: its signature has them no more."""
    settled: Any = partial(builder, **arguments)
    signature = inspect.signature(builder)
    others = [row.replace(kind=row.KEYWORD_ONLY) for name, row in signature.parameters.items() if name not in arguments]
    settled.__signature__ = signature.replace(parameters=others)
    return settled
