"""Names of models: `get` builds one by name, `available` lists what there is.

Other packages add theirs through the entry-point group ``athanor.models``: an entry point is a class or function that
returns a wrapper. Nothing is imported until a model is asked for. A name of ours stays ours, unless the package that
the model is made of brings a wrapper of its own: that one knows its network best.
"""

from __future__ import annotations

import operator
from dataclasses import replace
from functools import reduce
from importlib import metadata
from typing import TYPE_CHECKING, Any

from athanor._values import check_keywords, did_you_mean, keywords_of, unknown_keyword
from athanor.errors import ArgumentError, ContractError, InputError
from athanor.models.catalogue import ALIASES, BUILT_IN
from athanor.models.entry import ModelEntry

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from athanor.models.mixin import BaseModelMixin

ENTRY_POINT_GROUP = "athanor.models"


_OF_ALL = frozenset({"device", "dtype", "trust"})
"""Options that every model of a sum gets which takes them."""
_ORIGIN = ("licence", "training_set", "citation", "url")
"""Facts about parameters that row and card both have."""


def _entry_points() -> dict[str, ModelEntry]:
    rows = {}
    for point in metadata.entry_points(group=ENTRY_POINT_GROUP):
        package = point.dist.name if point.dist is not None else ""
        summary = f"from {package}" if package else ""
        rows[point.name] = ModelEntry(point.name, "third party", point.value, summary=summary)
    return rows


def _provided(entry: ModelEntry) -> ModelEntry:
    """Return the row of the wrapper that the package of a model provides itself, or the row as it is."""
    if entry.requires is not None:
        for point in metadata.entry_points(group=ENTRY_POINT_GROUP, name=entry.name):
            if point.value.partition(".")[0].partition(":")[0] == entry.requires.import_name:
                return replace(entry, home=point.value, arguments={}, summary=f"{entry.summary}; by its own wrapper")
    return entry


def available() -> list[ModelEntry]:
    """Return every model that `get` knows: ours first, then those of other packages by name."""
    others = _entry_points()
    return [*map(_provided, BUILT_IN.values()), *(others[name] for name in sorted(others) if name not in BUILT_IN)]


def find(name: str) -> ModelEntry:
    """Return the row of a model; upper case and underscores are as good.

    Raises
    ------
    InputError
        If there is no such model; the text has the nearest name, and all that can be used.
    """
    wanted = name.strip().lower().replace("_", "-")
    entry = BUILT_IN.get(ALIASES.get(wanted, wanted))
    if entry is not None:
        entry = _provided(entry)
    else:
        others = _entry_points()
        entry = others.get(name) or {key.lower().replace("_", "-"): row for key, row in others.items()}.get(wanted)
    if entry is None:
        rows = available()
        hint = did_you_mean(wanted, [*(row.name for row in rows), *ALIASES])
        here = ", ".join(row.name for row in rows if row.installed)
        raise InputError(
            f"There is no model `{name.strip()}`.{hint} There are {here}; and more, whose packages are not installed: "
            f"see `athanor models`."
        )
    return entry


def memory_of_an_atom(name: str) -> tuple[int | None, int | None]:
    """Return what the list says of a model, or a sum of models: kB an atom, and how many atoms suffice for its speed.

    None where one of them does not say how much it needs, or none says how many suffice.
    """
    rows = [find(part) for part in name.split("+")] if name.strip() else []
    kilobytes = [row.kilobytes_per_atom for row in rows]
    most = [row.most_atoms for row in rows if row.most_atoms]
    known = [one for one in kilobytes if one]
    return (max(known) if known and len(known) == len(rows) else None), min(most, default=None)


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
    named = [place for place, entry in enumerate(entries) if not model or find(model) == entry]
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
    """Build the model of one row; what its card leaves open of licence and origin is taken from the row.

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
    card = model.model_card
    open_facts = {name: getattr(entry, name) for name in _ORIGIN if not getattr(card, name)}
    if entry.weights in ("shipped", "downloaded"):  # of a file of the user's nobody knows
        model.model_card = replace(card, **open_facts)
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
