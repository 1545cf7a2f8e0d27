"""The methods that a stage can use: ensembles of dynamics and optimizers, one entry each in one table.

To offer a new integrator or optimizer, write its file, add an entry to `METHODS`, and run
``python docs/signatures.py``. Keys of jobs, options, arguments of `athanor.md` and `athanor.relax`, defaults with their
units, the words of the progress line, citations, advice and what `athanor.plot` draws all follow from the entry.
Engines are named, not imported: nothing here loads torch before a run builds one.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Any

from athanor._values import shown
from athanor.errors import StorageError
from athanor.workflows.quantities import COMPRESSIBILITY as COMPRESSIBILITY_UNIT
from athanor.workflows.quantities import FORCE, PRESSURE, RATE, TEMPERATURE, TIME, format_quantity
from athanor.workflows.settings import OUTPUT, Setting

Advice = Callable[[Any, Sequence[Any]], str]
"""``(stage, systems) -> what is odd about them and what to do``; empty if nothing is."""


@dataclass(frozen=True, slots=True, eq=False)
class StageKind:
    """One kind of stage.

    Parameters
    ----------
    name
        Key of the stage in a job, command, and Python call.
    chooser
        Key that names the method.
    default
        Method when none is named.
    noun, doing
        How it is called, and what its systems are doing: ``relaxation``, ``relaxing``.
    panel
        Panel of its options in the help.
    length
        How long it lasts, as a template.
    settings
        What every method of this kind takes.
    """

    name: str
    chooser: str
    default: str
    noun: str
    doing: str
    panel: str
    length: str
    settings: tuple[Setting, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Method:
    """One ensemble or optimizer.

    Parameters
    ----------
    kind
        Relaxation or dynamics.
    name
        What jobs, the command line and Python call it.
    title
        The method in a few words, behind its name in the help.
    words
        How progress lines call a stage of it; settings in braces.
    engine
        ``module:Class`` of the engine. It is made with the model, ``n_steps``, and every setting that has a `keyword`.
    settings
        What it takes beyond the settings of its kind. One of the same name replaces that of the kind, as where the
        temperature is not only that of the start.
    cell_engine
        Optimizers: the engine that moves the cell too. It also gets ``pressure``.
    constants
        Further keywords of the engine.
    citations, cell_citations
        What to cite; the latter if the cell moves too.
    ignores
        Settings of other methods that it accepts without using them.
    advice
        Topic -> function that looks for what is probably not meant. The topic is what ``silence`` takes.
    """

    kind: StageKind
    name: str
    title: str
    words: str
    engine: str
    _: KW_ONLY
    settings: tuple[Setting, ...] = ()
    cell_engine: str = ""
    constants: Mapping[str, Any] = field(default_factory=dict)
    citations: tuple[str, ...] = ()
    cell_citations: tuple[str, ...] = ()
    ignores: tuple[str, ...] = ()
    advice: Mapping[str, Advice] = field(default_factory=dict)

    def all_settings(self) -> dict[str, Setting]:
        """Name -> setting, of all that it takes."""
        return {setting.name: setting for setting in (*self.kind.settings, *self.settings)}

    def in_words(self, settings: Mapping[str, Any]) -> str:
        """Return ``NVT at 300 K``, from settings as a resolved job has them."""
        return self.words.format_map({**dict.fromkeys(self.all_settings(), "?"), **settings})


def load(home: str) -> Any:
    """Return the object called ``module:name``."""
    module, _, name = home.partition(":")
    return getattr(importlib.import_module(module), name)


# ------------------------------------------------------------------------------------------------------- the settings
FMAX = Setting("fmax", FORCE, "Largest force of a relaxed structure", 0.05, above=0.0, plotted="fmax", metavar="FORCE")
SMAX = Setting("smax", PRESSURE, "Largest principal value of stress plus pressure", 0.05, above=0.0, metavar="STRESS")
TARGET_PRESSURE = Setting("pressure", PRESSURE, "Target pressure, compression positive", 0.0, at_most=1000.0,
                          plotted="pressure", metavar="PRESSURE")  # fmt: skip
FIXED_CELL = Setting("fixed_cell", bool, "Move atoms only", False)
MOST_STEPS = Setting("steps", int, "At most so many steps for each system", 500, at_least=0, keyword="n_steps",
                     note="0 evaluates the structures as they are",
                     argument="max_steps", flags=("--steps",), metavar="N")  # fmt: skip

START_TEMPERATURE = Setting("temperature", TEMPERATURE, "Of the velocities at the start", 300.0, at_least=0.0,
                            keyword="start_temperature", flags=("-T",), metavar="T")  # fmt: skip
BATH_TEMPERATURE = replace(START_TEMPERATURE, help="Of the thermostat, and of the velocities at the start",
                           keyword="temperature", plotted="temperature", may_change=True,
                           note="300 K to 900 K changes it evenly")  # fmt: skip
CHAIN_TEMPERATURE = replace(BATH_TEMPERATURE, above=0.0, at_least=None)
"""Of what has masses of thermostats or cells in proportion to it."""
TIMESTEP = Setting("timestep", TIME, "Length of a step", 1.0, above=0.0, keyword="dt", metavar="TIME")
LENGTH = Setting("time", TIME, "Length of the run", 1000.0, absent="1 ps", sets="steps", metavar="TIME")
STEPS = Setting(
    "steps", int, "Length in steps; or give `time`, such as 1 ps", at_least=1, keyword="n_steps", metavar="N"
)
FRICTION = Setting("friction", RATE, "Of the thermostat", 0.01, at_least=0.0, keyword="friction",
                   note="0.001 to 0.05 is usual", metavar="RATE")  # fmt: skip
COLLISION_RATE = Setting("collision_rate", RATE, "Of each atom with the bath", 0.005, at_least=0.0,
                         keyword="collision_rate", metavar="RATE")  # fmt: skip
THERMOSTAT_TIME = Setting("thermostat_time", TIME, "Time constant of the thermostat", 100.0, above=0.0,
                          keyword="thermostat_time", note="50 to 200 is usual", metavar="TIME")  # fmt: skip
UNDER_PRESSURE = (
    replace(TARGET_PRESSURE, keyword="pressure", may_change=True),
    Setting("barostat_time", TIME, "Time constant of the barostat", 1000.0, above=0.0, keyword="barostat_time",
            note="500 to 2000 is usual", metavar="TIME"),
    Setting("coupling", str, "What of a cell moves: its volume, its axes, or angles too", "isotropic",
            choices=("isotropic", "anisotropic", "triclinic"), keyword="pressure_coupling", metavar="NAME"),
)  # fmt: skip
COMPRESSIBILITY = Setting("compressibility", COMPRESSIBILITY_UNIT, "Estimate; sets the pace of the barostat", 0.1,
                          above=0.0, keyword="compressibility", metavar="VALUE")  # fmt: skip

STRESS = Setting("stress", bool, "Log the stress of dynamics too, component by component", False)

QUICK_STEPS = Setting("quick_steps", int, "The same in a run with --quick", None, absent="`steps`", at_least=1,
                      in_python=False)  # fmt: skip

RELAX = StageKind(
    name="relax",
    chooser="optimizer",
    default="fire",
    noun="relaxation",
    doing="relaxing",
    panel="Relaxation",
    length="at most {steps} steps",
    settings=(FMAX, SMAX, MOST_STEPS, QUICK_STEPS, TARGET_PRESSURE, FIXED_CELL),
)
MD = StageKind(
    name="md",
    chooser="ensemble",
    default="nvt",
    noun="MD",
    doing="in MD",
    panel="Dynamics",
    length="{steps} steps",
    settings=(START_TEMPERATURE, LENGTH, STEPS, QUICK_STEPS, TIMESTEP, STRESS),
)
KINDS = {kind.name: kind for kind in (RELAX, MD)}
TEMPLATES = {**{name: (name,) for name in KINDS}, "relax-then-md": ("relax", "md")}
"""Jobs that `athanor init` writes, and the stages of each."""


# --------------------------------------------------------------------------------- what the entries of the table use
def _strong_friction(stage: Any, systems: Sequence[Any]) -> str:
    if stage.friction * stage.timestep < 1.0:
        return ""
    return (
        f"friction {format_quantity(stage.friction, RATE)} damps all motion within {1.0 / stage.friction:.2g} fs, "
        f"not longer than one step ({format_quantity(stage.timestep, TIME)}). Usual are 0.001 to 0.05 1/fs."
    )


def _fast_coupling(stage: Any, systems: Sequence[Any]) -> str:
    times = {name: getattr(stage, name) for name in _COUPLING_TIMES}
    short = [name for name, time in times.items() if time is not None and time < _COUPLING_TIMES[name] * stage.timestep]
    return " ".join(
        f"{name} {format_quantity(times[name], TIME)} is shorter than {_COUPLING_TIMES[name]} steps of "
        f"{format_quantity(stage.timestep, TIME)}: the coupling will shake the system."
        for name in short
    )


_COUPLING_TIMES = {"thermostat_time": 10, "barostat_time": 50}
"""Time constants, and the steps that each should last."""
_BAOAB = "B. Leimkuhler, C. Matthews, Appl. Math. Res. Express 2013, 34 (2013), doi:10.1093/amrx/abs010"
_CHAINS = "G. J. Martyna et al., J. Chem. Phys. 97, 2635 (1992), doi:10.1063/1.463940"
_CSVR = "G. Bussi et al., J. Chem. Phys. 126, 014101 (2007), doi:10.1063/1.2408420"
_MTK = "G. J. Martyna, D. J. Tobias, M. L. Klein, J. Chem. Phys. 101, 4177 (1994), doi:10.1063/1.467468"
_PHILOX = "J. K. Salmon et al., SC'11, 16 (2011), doi:10.1145/2063384.2063405"

# ---------------------------------------------------------------------------------------------------------- the table
METHODS: tuple[Method, ...] = (
    Method(
        RELAX, "fire", "fast inertial relaxation engine", "relaxation", "athanor.dynamics:FIRE",
        cell_engine="athanor.dynamics:FIREVariableCell",
        # time steps in internal units, chosen by measurement: docs/adr/0001-fire-time-step.md
        constants={"dt": 0.2, "dt_max": 1.0, "mass_scale": "mean"},
        citations=("E. Bitzek et al., Phys. Rev. Lett. 97, 170201 (2006), doi:10.1103/PhysRevLett.97.170201",),
        cell_citations=("E. B. Tadmor et al., Phys. Rev. B 59, 235 (1999), doi:10.1103/PhysRevB.59.235",),
    ),
    Method(
        MD, "nvt", "Langevin", "NVT at {temperature}", "athanor.dynamics:NVTLangevin",
        settings=(BATH_TEMPERATURE, FRICTION),
        citations=(
            _BAOAB,
            _PHILOX,
        ),
        advice={"friction": _strong_friction},
    ),
    Method(
        MD, "nve", "velocity Verlet", "NVE from {temperature}", "athanor.dynamics:NVE",
        ignores=("friction",),  # a job goes from nvt to nve by one word
        citations=("W. C. Swope et al., J. Chem. Phys. 76, 637 (1982), doi:10.1063/1.442716",),
    ),
    Method(
        MD, "nvt-nose-hoover", "Nosé-Hoover chain", "NVT at {temperature}", "athanor.dynamics:NVTNoseHoover",
        settings=(CHAIN_TEMPERATURE, THERMOSTAT_TIME),
        citations=(_CHAINS,),
        advice={"coupling": _fast_coupling},
    ),
    Method(
        MD, "nvt-csvr", "velocity rescaling", "NVT at {temperature}", "athanor.dynamics:NVTCSVR",
        settings=(BATH_TEMPERATURE, THERMOSTAT_TIME),
        citations=(_CSVR, _PHILOX),
        advice={"coupling": _fast_coupling},
    ),
    Method(
        MD, "nvt-andersen", "random collisions", "NVT at {temperature}", "athanor.dynamics:NVTAndersen",
        settings=(BATH_TEMPERATURE, COLLISION_RATE),
        citations=("H. C. Andersen, J. Chem. Phys. 72, 2384 (1980), doi:10.1063/1.439486", _PHILOX),
    ),
    Method(
        MD, "npt", "moving cell and chains", "NPT at {temperature} and {pressure}", "athanor.dynamics:NPT",
        settings=(CHAIN_TEMPERATURE, *UNDER_PRESSURE, THERMOSTAT_TIME),
        citations=(_MTK, _CHAINS),
        advice={"coupling": _fast_coupling},
    ),
    Method(
        MD, "npt-crescale", "cell and velocity rescaling", "NPT at {temperature} and {pressure}",
        "athanor.dynamics:NPTCRescale",
        settings=(BATH_TEMPERATURE, *UNDER_PRESSURE, THERMOSTAT_TIME, COMPRESSIBILITY),
        citations=("M. Bernetti, G. Bussi, J. Chem. Phys. 153, 114107 (2020), doi:10.1063/5.0020514", _CSVR, _PHILOX),
        advice={"coupling": _fast_coupling},
    ),
    Method(
        MD, "npt-langevin", "moving cell and Langevin", "NPT at {temperature} and {pressure}",
        "athanor.dynamics:NPTLangevin",
        settings=(CHAIN_TEMPERATURE, *UNDER_PRESSURE, FRICTION),
        citations=(_MTK, "D. Quigley, M. Probert, J. Chem. Phys. 120, 11432 (2004), doi:10.1063/1.1755657",
        _PHILOX), advice={"friction": _strong_friction, "coupling": _fast_coupling},
    ),
    Method(
        MD, "nph", "moving cell", "NPH at {pressure} from {temperature}", "athanor.dynamics:NPH",
        settings=UNDER_PRESSURE,
        citations=(_MTK,),
        advice={"coupling": _fast_coupling},
    ),
    Method(
        MD, "brownian", "overdamped", "Brownian motion at {temperature}", "athanor.dynamics:Brownian",
        settings=(
            replace(BATH_TEMPERATURE, help="Of the bath", keyword="temperature"),
            replace(FRICTION, above=0.0, at_least=None),
        ),
        citations=(_BAOAB,
        _PHILOX),
    ),
)  # fmt: skip


def of_kind(kind: StageKind) -> dict[str, Method]:
    """Return the methods of one kind, by name."""
    return {method.name: method for method in METHODS if method.kind is kind}


def find(kind: str, settings: Mapping[str, Any]) -> Method | None:
    """Return the method of a stage of a job; None if there is none of that name, as in a run of a later version.

    Raises
    ------
    StorageError
        If there are no stages of that kind.
    """
    if kind not in KINDS:
        raise StorageError(
            f"a stage of the run is {shown(kind)}, which this version of athanor does not know. Look at it with the "
            f"version that wrote it; `athanor.open` reads its table, frames and log."
        )
    return of_kind(KINDS[kind]).get(settings.get(KINDS[kind].chooser, KINDS[kind].default))


@functools.cache
def all_settings(kind: StageKind) -> dict[str, Setting]:
    """Return what stages of one kind can have: the method, then what every method takes, then what only some take."""
    methods = of_kind(kind)
    words = [f"{name} ({method.title})" for name, method in methods.items()]
    chooser = Setting(kind.chooser, str, _joined_by_or(words), kind.default, choices=tuple(methods), metavar="NAME")
    found = {setting.name: setting for setting in (chooser, *kind.settings)}
    common = tuple(found)
    for method in reversed(methods.values()):  # where names are equal, the first method counts: the usual one
        found |= method.all_settings()
    takers = {name: tuple(key for key in methods if name in methods[key].all_settings()) for name in found}
    return {
        name: replace(
            setting, panel=kind.panel if setting.in_python else "", only=() if name in common else takers[name]
        )
        for name, setting in found.items()
    }


def stage_of(kind: StageKind, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return a stage as a job holds it, from the arguments of a call or the options of a command that were given."""
    stage: dict[str, Any] = {}
    for setting in all_settings(kind).values():
        if setting.as_argument in arguments:
            stage[setting.name] = arguments[setting.as_argument]
        elif setting.sets and setting.sets not in arguments:
            stage[setting.name] = setting.default
    return stage


def _joined_by_or(words: Sequence[str]) -> str:
    return " or ".join(part for part in (", ".join(words[:-1]), words[-1]) if part)


TOPICS = (
    *("non-periodic", "elements", "model", "velocities", "start", "small-cell", "time-step", "disk"),
    *dict.fromkeys(topic for method in METHODS for topic in method.advice),
)
"""What a run may warn of before its first step, see `athanor.workflows.advice`."""
SILENCE = Setting("silence", list, "Warnings to leave out", (), choices=TOPICS, metavar="TOPIC", panel=OUTPUT)
