"""Names of models: `get` builds one by name, `available` lists what there is.

Other packages add theirs through the entry-point group ``athanor.models``: an entry point is a class or function that
returns a wrapper. Nothing is imported until a model is asked for.
"""

from __future__ import annotations

import importlib
import inspect
import operator
from dataclasses import dataclass, field
from functools import partial, reduce
from importlib import metadata
from typing import TYPE_CHECKING, Any

from athanor._optional import OptionalDependency
from athanor._values import check_keywords, did_you_mean, keywords_of, unknown_keyword
from athanor.errors import ArgumentError, ContractError, InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from athanor.models.mixin import BaseModelMixin

ENTRY_POINT_GROUP = "athanor.models"


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """One row of the list of models.

    Parameters
    ----------
    name
        What `get` takes.
    kind
        ``"pair potential"``, ``"electrostatics"``, ``"dispersion"``, ``"machine-learned"``, ``"several models"``,
        ``"demo"`` or ``"third party"``.
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


BUILT_IN: dict[str, ModelEntry] = {
    entry.name: entry
    for entry in (
        *(
            ModelEntry(
                name=name,
                kind="machine-learned",
                home="athanor.models.chgnet:CHGNetWrapper.from_checkpoint",
                num_elements=89,
                licence="BSD-3-Clause, modified",
                summary=f"{summary}, with magnetic moments",
                requires=OptionalDependency.CHGNET,
                arguments=arguments,
            )
            for name, summary, arguments in (
                ("chgnet", "CHGNet 0.3.0 (PBE): universal potential for inorganic crystals", {}),
                ("chgnet-0.2.0", "CHGNet 0.2.0 (PBE): the parameters before 0.3.0", {"name": "0.2.0"}),
                ("chgnet-r2scan", "CHGNet fine-tuned to r2SCAN", {"name": "r2scan"}),
            )
        ),
        ModelEntry(
            name="mace",
            kind="machine-learned",
            home="athanor.models.mace:MACEWrapper.from_checkpoint",
            licence="MIT, parameters under terms of their own",
            summary="MACE: checkpoint_path is your file or a published name; trust=true, for its files are pickles",
            requires=OptionalDependency.MACE,
        ),
        ModelEntry(
            name="lennard-jones",
            kind="pair potential",
            home="athanor.models.lj:LennardJonesModelWrapper",
            licence="Apache-2.0",
            summary="Lennard-Jones with your parameters: epsilon (eV), sigma (Å), cutoff (Å)",
        ),
        ModelEntry(
            name="ewald",
            kind="electrostatics",
            home="athanor.models.ewald:EwaldModelWrapper",
            licence="Apache-2.0",
            summary="Ewald sum of charges to an asked accuracy: cutoff (Å), charges by element, or of the files",
        ),
        ModelEntry(
            name="pme",
            kind="electrostatics",
            home="athanor.models.pme:PMEModelWrapper",
            licence="Apache-2.0",
            summary="The Ewald sum on a mesh, for more than some three hundred atoms: cutoff (Å), charges",
        ),
        ModelEntry(
            name="dsf",
            kind="electrostatics",
            home="athanor.models.dsf:DSFModelWrapper",
            licence="Apache-2.0",
            summary="Charges within a cutoff, by the damped shifted force: cutoff (Å), charges",
        ),
        ModelEntry(
            name="qeq",
            kind="electrostatics",
            home="athanor.models.qeq:QEqModelWrapper",
            licence="Apache-2.0",
            summary="Charge equilibration: electronegativity (eV/e), hardness (eV/e²), width (Å), cutoff (Å)",
        ),
        ModelEntry(
            name="d3",
            kind="dispersion",
            home="athanor.models.dftd3:DFTD3ModelWrapper.from_functional",
            num_elements=94,
            licence="Apache-2.0",
            summary="D3 dispersion to add to a potential that was fitted without: functional (PBE), damping (bj)",
        ),
        ModelEntry(
            name="d4",
            kind="dispersion",
            home="athanor.models.dftd4:DFTD4ModelWrapper",
            num_elements=103,
            licence="LGPL-3.0-or-later",
            summary="D4 dispersion by its library, one system at a time: functional (PBE)",
            requires=OptionalDependency.DFTD4,
        ),
        ModelEntry(
            name="committee",
            kind="several models",
            home="athanor.models.committee:CommitteeModelWrapper.from_members",
            licence="those of its members",
            summary="mean of several models and how far they disagree: members, a list of models",
        ),
        ModelEntry(
            name="demo",
            kind="demo",
            home="athanor.models.demo:build_demo_model",
            num_elements=99,
            licence="Apache-2.0",
            summary="small random network for tests and tutorials; its numbers mean nothing",
        ),
    )
}
ALIASES: dict[str, str] = {"lj": "lennard-jones", "chgnet-0.3.0": "chgnet", "dftd3": "d3", "dftd4": "d4"}
_OF_ALL = frozenset({"device", "dtype"})
"""Options that every model of a sum gets which takes them."""


def _entry_points() -> dict[str, ModelEntry]:
    rows = {}
    for point in metadata.entry_points(group=ENTRY_POINT_GROUP):
        package = point.dist.name if point.dist is not None else ""
        summary = f"from {package}" if package else ""
        rows[point.name] = ModelEntry(point.name, "third party", point.value, summary=summary)
    return rows


def available() -> list[ModelEntry]:
    """Return every model that `get` knows: ours first, then those of other packages by name."""
    others = _entry_points()
    return [*BUILT_IN.values(), *(others[name] for name in sorted(others) if name not in BUILT_IN)]


def find(name: str) -> ModelEntry:
    """Return the row of a model; upper case and underscores are as good.

    Raises
    ------
    InputError
        If there is no such model; the text has the nearest name and all others.
    """
    wanted = name.strip().lower().replace("_", "-")
    entry = BUILT_IN.get(ALIASES.get(wanted, wanted))
    if entry is None:
        others = _entry_points()
        entry = others.get(name) or {key.lower().replace("_", "-"): row for key, row in others.items()}.get(wanted)
    if entry is None:
        names = [row.name for row in available()]
        hint = did_you_mean(wanted, [*names, *ALIASES])
        raise InputError(f"There is no model `{name.strip()}`.{hint} There are {', '.join(names)}.")
    return entry


def terms(name: str, options: Mapping[str, Any]) -> list[tuple[ModelEntry, dict[str, Any]]]:
    """Return the models that a name such as ``"chgnet + lennard-jones"`` adds up, each with its options.

    Parameters
    ----------
    name
        Names joined by ``+``, or one.
    options
        An option goes to the model that takes it, ``device`` and ``dtype`` to all that do; ``MODEL.OPTION`` says which
        one is meant.

    Raises
    ------
    InputError
        If there is no such model; `ArgumentError` if no model of a sum, or more than one, takes an option.
    """
    if not isinstance(name, str):
        raise ArgumentError(f'`name` is a {type(name).__name__}; pass the name of a model, such as "lennard-jones".')
    parts = [part.strip() for part in name.split("+")]
    if len(parts) > 1 and not all(parts):
        raise InputError(
            f'`{name.strip()}` lacks a model beside a plus sign; write for example "chgnet + lennard-jones".'
        )
    entries = [find(part) for part in parts]
    if len(entries) == 1:
        return [(entries[0], dict(options))]
    given: list[dict[str, Any]] = [{} for _ in entries]
    for key, value in options.items():
        for place in _takers(entries, key):
            given[place][key.rpartition(".")[2]] = value
    return list(zip(entries, given, strict=True))


def _takers(entries: Sequence[ModelEntry], key: str) -> list[int]:
    """Return the places of the models of a sum that an option is for."""
    model, _, option = key.rpartition(".")
    named = [place for place, entry in enumerate(entries) if not model or find(model) is entry]
    takers = [place for place in named if option in keywords_of(entries[place].load())[0]]
    if len(takers) == 1 or (takers and option in _OF_ALL):
        return takers
    names = [entries[place].name for place in takers or named]
    if takers and len(set(names)) == 1:
        raise ArgumentError(
            f"`{key}` may be for each of {len(names)} {names[0]}. List them with their options in a job."
        )
    if takers:
        hint = " or ".join(f"`{name}.{option}`" for name in names)
        raise ArgumentError(f"`{option}` is an option of {' and '.join(names)}. Write {hint}.")
    known = {option for entry in entries for option in keywords_of(entry.load())[0]}
    raise unknown_keyword(key, sorted(known), f"model `{' + '.join(entry.name for entry in entries)}`")


def get(name: str, /, **kwargs: Any) -> BaseModelMixin:
    """Build a model by name.

    Parameters
    ----------
    name
        As `available` lists it, for example ``"chgnet"``; upper case and underscores are as good. ``"a + b"`` is a
        sum, see `terms`.
    **kwargs
        Arguments of the model, for example ``epsilon=0.0104, sigma=3.4, cutoff=8.5``.

    Raises
    ------
    InputError
        If there is no such model; the text lists the names. `ArgumentError`, a `TypeError`, if an argument is missing
        or unknown.
    OptionalDependencyError
        If its package is not installed; the text names the command that installs it.

    Examples
    --------
    >>> import athanor.models
    >>> model = athanor.models.get("lennard-jones", epsilon=0.0104, sigma=3.4, cutoff=8.5)
    """
    for entry, options in (parts := terms(name, kwargs)):
        check_keywords(entry.load(), options, f"model `{entry.name}`")
    return total(build(entry, options) for entry, options in parts)


def from_description(described: Any, common: Mapping[str, Any] | None = None) -> BaseModelMixin:
    """Build a model that is a part of another one.

    Parameters
    ----------
    described
        A name, a mapping of a name and arguments, a list of these for a sum, or a wrapped model, which is returned.
    common
        Options for every model that takes them and is not given others.

    Raises
    ------
    InputError
        If it is none of these; else as `get`.
    """
    from athanor.models.mixin import BaseModelMixin

    if isinstance(described, BaseModelMixin):
        return described
    if isinstance(described, list | tuple) and described:
        return total(from_description(term, common) for term in described)
    options = dict(described) if isinstance(described, dict) else {"name": described}
    name = options.pop("name", None)
    if not isinstance(name, str):
        raise InputError(
            f"{described!r} names no model; write a name such as chgnet, or a mapping such as "
            f"{{name: lennard-jones, epsilon: 0.0104, sigma: 3.4, cutoff: 8.5}}."
        )
    if "options" in options:  # CHGNet's argument is called `name`
        options = options["options"]
    models = []
    for entry, own in terms(name, options):
        check_keywords(entry.load(), own, f"model `{entry.name}`", "option")
        known = keywords_of(entry.load())[0]
        models.append(build(entry, {key: value for key, value in (common or {}).items() if key in known} | own))
    return total(models)


def total(models: Iterable[BaseModelMixin]) -> BaseModelMixin:
    """Return the sum of models; of one, itself."""
    return reduce(operator.add, models)


def build(entry: ModelEntry, options: Mapping[str, Any]) -> BaseModelMixin:
    """Build the model of one row.

    Raises
    ------
    ContractError
        If it is no wrapped model.
    InputError
        If an option makes no sense, such as a dtype that is none.
    """
    from athanor.models.mixin import BaseModelMixin

    model = entry.load()(**_with_dtype(options))
    if not isinstance(model, BaseModelMixin):
        raise ContractError(
            f"{entry.home} returned a {type(model).__name__} for model `{entry.name}`; it must return a BaseModelMixin."
        )
    return model


def _with_dtype(options: Mapping[str, Any]) -> dict[str, Any]:
    """Read a dtype by its name, the only way to write one in a job."""
    name = options.get("dtype")
    if not isinstance(name, str):
        return dict(options)
    if name not in ("float32", "float64"):
        raise InputError(f"`dtype` is {name!r}; use float32 or float64.")
    import torch  # here, so that names load without it

    return {**options, "dtype": getattr(torch, name)}
