"""Options of the commands that calculate: made from the tables of settings, so that a name means the same everywhere.

An option that is left out is None and changes nothing: defaults stand in the tables.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any

import typer

from athanor.workflows import settings
from athanor.workflows.methods import SILENCE, StageKind, all_settings
from athanor.workflows.settings import COMPUTING, MODEL, OUTPUT, Setting

Parameter = inspect.Parameter


def option(setting: Setting, *, required: bool = False) -> Parameter:
    """Return the option of a setting."""
    name = setting.as_argument
    if setting.quantity is bool:
        return flag(name, setting.panel, setting.short_help)
    default = setting.default_in_words
    made = typer.Option(
        *_spellings(name, setting.flags),
        metavar=setting.metavar,
        autocompletion=_completion(setting),
        rich_help_panel=setting.panel,
        help=setting.short_help + (f"  [default: {default}]" if default and not required else ""),
    )
    found: Any = list[str] if setting.quantity in (list, dict) else str  # read and checked as the keys of a job are
    return _keyword(name, Annotated[found if required else found | None, made], Parameter.empty if required else None)


def flag(name: str, panel: str, text: str, *flags: str) -> Parameter:
    """Return an option without a value."""
    made = typer.Option(*_spellings(name, flags), rich_help_panel=panel, help=text)
    return _keyword(name, Annotated[bool, made], False)


def _spellings(name: str, more: tuple[str, ...]) -> list[str]:
    """Return the spellings of an option, single letters first."""
    return sorted((f"--{name.replace('_', '-')}", *more), key=lambda flag: flag.startswith("--"))


def _keyword(name: str, annotation: Any, default: Any) -> Parameter:
    return Parameter(name, Parameter.KEYWORD_ONLY, annotation=annotation, default=default)


def _completion(setting: Setting) -> Callable[[str], list[Any]] | None:
    if setting.name == settings.POTENTIAL.name:
        return _complete_models
    if not setting.choices:
        return None
    return lambda incomplete: [word for word in setting.choices if word.startswith(incomplete)]


def _complete_models(incomplete: str) -> list[tuple[str, str]]:
    from athanor.models.registry import available

    return [(entry.name, entry.summary) for entry in available() if entry.name.startswith(incomplete)]


def argument(
    name: str,
    type_: Any,
    metavar: str,
    text: str,
    completion: Callable[[str], list[Any]] | None = None,
    default: Any = Parameter.empty,
) -> Parameter:
    """Return what stands behind the command without a name."""
    made = typer.Argument(metavar=metavar, help=text, autocompletion=completion)
    return Parameter(name, Parameter.POSITIONAL_OR_KEYWORD, annotation=Annotated[type_, made], default=default)


def of_stage(kind: StageKind) -> list[Parameter]:
    """Return the options of a stage."""
    return [option(setting) for setting in all_settings(kind).values() if setting.panel]


FILES = argument("files", list[str], "FILE", "Structure files, anything ASE reads, or results of runs; any number.")
FROM_TIME = option(settings.FROM_TIME)
_MODEL_OPTION = Setting("model_option", list, "Argument of the model", metavar="KEY=VALUE", panel=MODEL)
TRUST_MODEL = flag(
    "trust_model", MODEL, "Load a file of the model that runs code, as pickles do; do so only if you know its author."
)
_ELEMENT = Setting("element", list, "Element to make the systems of", absent="two that the model knows",
                   metavar="SYMBOL", panel=MODEL)  # fmt: skip
_SELECTION = (settings.MOST, settings.BY, settings.FIELD, settings.ABOVE, settings.BELOW, settings.SPACING,
              settings.POOLING)  # fmt: skip
_KNOWN = Setting("known", list, "What is labelled already: nothing like it is chosen", metavar="FILE",
                 panel=settings.SELECTION)  # fmt: skip
_OF_SELECTION = replace(settings.POTENTIAL, help="Potential that gives features, or the field", note="",
                        absent="that of the first run")  # fmt: skip
SOURCES = argument("sources", list[str], "OUT", "Results folders, stores or files of structures; any number.")
SELECTING = [*map(option, (*_SELECTION, _KNOWN, _OF_SELECTION, _MODEL_OPTION)), TRUST_MODEL]
_MODELS = replace(settings.POTENTIAL, quantity=list)


def _systems(potential: Setting) -> list[Parameter]:
    return [
        *(option(setting) for setting in (settings.SUPERCELL, settings.MIN_ATOMS, settings.STRICT)),
        *(option(setting) for setting in (potential, _MODEL_OPTION)),
        TRUST_MODEL,
        option(settings.PROPERTIES),
    ]


SYSTEMS, SYSTEMS_OF_MODELS = _systems(settings.POTENTIAL), _systems(_MODELS)
"""Options of structures and their potential; of structures and any number of potentials."""
MODEL_NAME = argument("name", str | None, "NAME", "One of the list, of which all is told.", _complete_models, None)
CHECK_OF_MODEL = [
    argument("model", str, "NAME", "Potential, see `athanor models`.", _complete_models),
    option(_MODEL_OPTION),
    TRUST_MODEL,
    *(option(setting) for setting in (_ELEMENT, settings.DEVICE, settings.DTYPE, settings.THREADS)),
    flag("all", OUTPUT, "Every row of the report: each check on each system."),
]
COMPUTER = [option(setting) for setting in (settings.DEVICE, settings.DTYPE, settings.THREADS, settings.MAX_ATOMS)]
QUICK = flag("quick", COMPUTING, "Take the `quick_steps` of every stage.")
SEED, EVERY = option(settings.SEED), option(settings.EVERY)
CHECKPOINT, TIME_LIMIT = option(settings.CHECKPOINT), option(settings.TIME_LIMIT)
STATUS = option(settings.STATUS)
RESUME = flag("resume", OUTPUT, "Go on with a run that was stopped or killed: its results folder is given instead.")
EXTEND = option(settings.EXTEND)
STOP_ABOVE = option(settings.STOP_ABOVE)
SECOND_CHANCES = [option(settings.ON_ERROR), option(settings.MAX_RETRIES)]
OVERWRITE = flag("overwrite", OUTPUT, "Replace the results of an earlier run.")
CHECK = flag("check", OUTPUT, "Check all, estimate time, memory, disk; run nothing.")
JSON = flag("json", OUTPUT, "Print one JSON document instead of tables.")
SCREEN = [option(SILENCE), flag("quiet", OUTPUT, "Print errors only.", "-q"), JSON]
