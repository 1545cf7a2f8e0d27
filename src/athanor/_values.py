"""Checks of what callers hand in, in one wording: single values, and keywords of a call."""

from __future__ import annotations

import difflib
import inspect
import operator
import reprlib
from collections.abc import Callable, Iterable
from numbers import Real
from typing import TYPE_CHECKING, Any

from athanor.errors import ArgumentError, DtypeError, InputError

if TYPE_CHECKING:
    import torch


def shown(value: object) -> str:
    """Return `value` for a message, as Python writes it, a long one cut in the middle."""
    try:
        return _CUT.repr(value)
    except ValueError:  # a whole number of more digits than Python writes
        return f"a {type(value).__name__} of very many digits"


_CUT = reprlib.Repr()
_CUT.maxstring = _CUT.maxother = _CUT.maxlong = 60


def describe(thing: object, *names: str) -> str:
    """Return ``Class(name=value, ...)`` of the attributes `names`, for a `__repr__`."""
    return f"{type(thing).__name__}({', '.join(f'{name}={getattr(thing, name)!r}' for name in names)})"


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """Return `` Did you mean `x`?`` for the nearest of the `known` names, or nothing if none is near."""
    near = difflib.get_close_matches(str(name), list(known), n=1)
    return f" Did you mean `{near[0]}`?" if near else ""


def keywords_of(taker: Callable[..., Any]) -> tuple[dict[str, bool], bool]:
    """Return the keywords that a function or class takes, and whether it takes any other one.

    Parameters
    ----------
    taker
        Of a class, the constructor counts, and those it hands its other keywords on to.

    Returns
    -------
    keywords
        Name -> whether it must be given.
    takes_any
        Whether other names are taken as well, or it can not be told.
    """
    functions: list[Any] = [taker]
    if isinstance(taker, type):  # not the class itself, whose metaclass may have a call that takes anything
        functions = [vars(cls)["__init__"] for cls in taker.__mro__[:-1] if "__init__" in vars(cls)]
    found: dict[str, bool] = {}
    for function in functions:
        try:
            rows = list(inspect.signature(function).parameters.values())[isinstance(taker, type) :]
        except ValueError:
            return found, True
        for row in rows:
            if row.kind in (row.POSITIONAL_OR_KEYWORD, row.KEYWORD_ONLY):
                found.setdefault(row.name, row.default is row.empty)
        if not any(row.kind is row.VAR_KEYWORD for row in rows):
            return found, False
    return found, True


def unknown_keyword(name: str, known: Iterable[str], taker: str, noun: str = "keyword argument") -> ArgumentError:
    """Return the error of a keyword that is not among those `known` to `taker`."""
    known = list(known)
    return ArgumentError(
        f"{taker} has no {noun} `{name}`.{did_you_mean(name, known)} It takes {', '.join(known) or 'none'}."
    )


def check_keywords(
    taker: Callable[..., Any], given: Iterable[str], name: str, noun: str = "keyword argument", advice: str = ""
) -> None:
    """Refuse keywords that a function or class does not take, and the lack of those it needs, by name.

    Parameters
    ----------
    taker
        Function or class.
    given
        Keywords.
    name
        What the text calls `taker`.
    noun
        What the text calls a keyword.
    advice
        What to do where one is missing; its name takes the place of ``KEY``.

    Raises
    ------
    ArgumentError
        If a keyword is unknown or missing.
    """
    known, takes_any = keywords_of(taker)
    given = list(given)
    unknown = [key for key in given if key not in known]
    if unknown and not takes_any:
        raise unknown_keyword(unknown[0], known, name, noun)
    missing = [key for key, needed in known.items() if needed and key not in given]
    if missing:
        names = ", ".join(f"`{key}`" for key in missing)
        advice = advice.replace("KEY", missing[0]) or f"It takes {', '.join(known)}."
        raise ArgumentError(f"{name} needs {names}. {advice}")


def is_slip(name: str, known: str) -> bool:
    """Whether the names differ by one letter (added, left out, changed) or by two neighbours that changed places.

    A digit is no slip, since things are numbered, and names of one or two letters are too short to tell.
    """
    start = _letters_shared(name, known)
    end = _letters_shared(name[start:][::-1], known[start:][::-1])
    one, two = name[start : len(name) - end], known[start : len(known) - end]
    if min(len(name), len(known)) < 3 or any(letter.isdigit() for letter in one + two):
        return False
    return max(len(one), len(two)) <= 1 or (len(one) == 2 and one == two[::-1])


def _letters_shared(one: str, two: str) -> int:
    """Return how many letters are equal from the start on."""
    return next((place for place, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), min(len(one), len(two)))


def is_real(value: Any) -> bool:
    """Whether `value` is one real number, of Python or numpy; True and False are none."""
    return isinstance(value, Real) and not isinstance(value, bool)


def check_whole(value: Any, name: str, at_least: int | None = 0) -> int:
    """Return `value` as an int.

    Raises
    ------
    InputError
        If it is no whole number (True and False are none), or smaller than `at_least`, if that is given.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool) or (at_least is not None and number < at_least):
        bound = "" if at_least is None else f" of at least {at_least}"
        raise InputError(f"`{name}` is {shown(value)}; give a whole number{bound}.")
    return number


def usable_device(device: torch.device | str | int) -> torch.device:
    """Return `device` as a torch device that is there.

    Raises
    ------
    InputError
        If it is no device, or not on this machine.
    """
    import torch

    try:
        found = torch.device(device)
    except (RuntimeError, TypeError) as error:
        hint = f" `{device}` looks like a dtype: pass `dtype=`." if hasattr(torch, str(device)) else ""
        raise InputError(f'`device` is {shown(device)}; use "cpu", "cuda" or "cuda:0".{hint}') from error
    there = torch.cuda.device_count() if found.type == "cuda" else 1
    if found.type == "cuda" and (found.index or 0) >= there:
        what = f"torch sees {there} CUDA devices" if there else "torch sees no CUDA device"
        raise InputError(
            f'`device={str(device)!r}` is not there: {what}. Use "cpu", or install a build of torch for your GPU.'
        )
    return found


def check_state_dtype(dtype: Any) -> torch.dtype:
    """Return `dtype` if positions, cells and forces may be kept in it.

    Raises
    ------
    DtypeError
        If it is neither torch.float64 nor torch.float32.
    """
    import torch

    if dtype not in (torch.float32, torch.float64):
        raise DtypeError(f"`dtype` is {shown(dtype)}; pass torch.float64 or torch.float32.")
    return dtype
