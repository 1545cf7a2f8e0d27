"""What can be set: one row for each key of a job, from which its option and its Python argument follow, and their help.

Keys that belong to a stage are in `athanor.workflows.methods`. Nothing here loads torch or pydantic, so that
``athanor --help`` is quick.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Any

from athanor.workflows.quantities import CLOCK, TIME, Quantity

_LINE = 110
"""Characters that fit into a line of a job; a longer list of choices goes without what each is."""

STRUCTURES, MODEL, COMPUTING, OUTPUT, SELECTION = "Structures", "Model", "Computing", "Output", "Selection"
"""Panels of the help, next to those of the kinds of stages."""


@dataclass(frozen=True, slots=True, eq=False)
class Setting:
    """One key of a job.

    Parameters
    ----------
    name
        The key.
    quantity
        What its values are: a quantity with its units, or int, bool, str, list (of words), or dict (words to numbers).
    help
        What it is: a few words without a full stop. Units and defaults are added where it is shown.
    default
        For a quantity a number in its default unit. None: the key may be left empty, see `absent`. ``...``: it must
        be given.
    note
        More about it, where there is room for it: in jobs and in the documentation.
    absent
        What it means to leave it out, in words, where the default does not say it.
    choices
        The words that it can be, which the shell completes.
    above, at_least, at_most
        Bounds of a number in its default unit; the last one also of its size where it is negative.
    keyword
        What the engine calls it; empty if the engine does not take it.
    plotted
        Panel of `athanor.plot` in which its value is drawn as a dashed line.
    argument
        Name in Python and on the command line, if it is not `name`.
    flags
        Further spellings on the command line, such as ``-T``.
    metavar
        What stands for the value in the help.
    panel
        Panel of the help; a key without one is no option of the command line.
    in_python
        Whether it is an argument of the Python calls.
    only
        Methods that take it, if not all of the kind do.
    may_change
        Whether it may change during a stage, see `athanor.workflows.courses`.
    sets
        The key that is set through this one, which then does not stand in a resolved job: ``time`` gives ``steps``.
    """

    name: str
    quantity: Quantity | type
    help: str
    default: Any = ...
    _: KW_ONLY
    note: str = ""
    absent: str = ""
    choices: tuple[str, ...] = ()
    above: float | None = None
    at_least: float | None = None
    at_most: float | None = None
    keyword: str = ""
    plotted: str = ""
    argument: str = ""
    flags: tuple[str, ...] = ()
    metavar: str = ""
    panel: str = ""
    in_python: bool = True
    only: tuple[str, ...] = ()
    may_change: bool = False
    sets: str = ""

    @property
    def as_argument(self) -> str:
        """Its name in Python; with dashes, on the command line."""
        return self.argument or self.name

    @property
    def python_default(self) -> Any:
        """Default in Python: None where the method, or another setting, has to decide."""
        return None if self.only or self.sets or self.default is ... else self.default

    @property
    def default_in_words(self) -> str:
        """Default as a user would write it, or what it means to leave it out; empty if neither says anything."""
        if self.absent or self.default in (None, ..., (), {}):
            return self.absent
        return (
            f"{self.default:.10g} {self.quantity.default}" if isinstance(self.quantity, Quantity) else str(self.default)
        )

    @property
    def short_help(self) -> str:
        """What it is, and which methods take it, for the command line."""
        some = f" ({', '.join(self.only)})" if self.only else ""
        return f"{self.help}{some}{'; repeatable' if self.quantity in (list, dict) else ''}."

    @property
    def comment(self) -> str:
        """Line above the key in a job: what it is, its unit, and what it means to leave it empty."""
        unit = ""
        if isinstance(self.quantity, Quantity):
            plain = self.quantity.units[self.quantity.default] == 1.0  # the unit of the engines, which needs no words
            unit = f", {self.quantity.default}" if plain else f"; a bare number is {self.quantity.default}"
        words = f"{self.help}: {', '.join(self.choices)}" if self.quantity is list and self.choices else self.help
        if self.choices and len(words) > _LINE:
            words = ", ".join(self.choices)
        empty = f"{self.absent} if null" if self.default is None else ""
        return "; ".join(part for part in (f"{words}{unit}", self.note, empty) if part) + "."

    def field(self) -> Any:
        """Return the field of a pydantic description: default and comment."""
        from pydantic import Field

        return Field(self.default, description=self.comment)


TITLE = Setting("title", str, "A name for the run, for you", "")
SUPERCELL = Setting("supercell", str, "Repeats of every cell: 2x2x1, or 2 for all axes", "1x1x1", metavar="NxNxN",
                    panel=STRUCTURES)  # fmt: skip
MIN_ATOMS = Setting(
    "min_atoms", int, "Repeat periodic cells until they hold so many atoms", 1, metavar="N", panel=STRUCTURES
)
STRICT = Setting("strict", bool, "Refuse everything if a structure can not be used", False,
                 note="else it is set aside, with its reason, and the others run", panel=STRUCTURES)  # fmt: skip
FROM_TIME = Setting("from_time", TIME, "Of results as input: take the newest frames up to this time", None,
                    absent="how the run left them", at_least=0.0, metavar="TIME", panel=STRUCTURES)  # fmt: skip
POTENTIAL = Setting("model", str, "Potential, see `athanor models`", None, absent="chgnet for crystals", flags=("-m",),
                    note="with arguments: {name: ..., cutoff: ...}", metavar="NAME", panel=MODEL)  # fmt: skip
PROPERTIES = Setting("properties", list, "Further outputs of the model to keep, such as magmoms", (), metavar="NAME",
                     flags=("--property",), note="in frames, structures and the table", panel=MODEL)  # fmt: skip
DEVICE = Setting("device", str, "Device: cpu, cuda, cuda:1, mps, or auto for a GPU if there is one", "cpu",
                 metavar="NAME", choices=("cpu", "cuda", "mps", "auto"), panel=COMPUTING)  # fmt: skip
DTYPE = Setting("dtype", str, "Precision: float64 or float32", "float64", choices=("float32", "float64"),
                metavar="TYPE", panel=COMPUTING)  # fmt: skip
THREADS = Setting("threads", int, "CPU threads", None, absent="all cores", metavar="N", panel=COMPUTING)
MAX_ATOMS = Setting("max_atoms", int, "Most atoms in one batch", None, absent="what fits", metavar="N",
                    panel=COMPUTING)  # fmt: skip
RANDOM = "random"
"""Seed that is drawn anew for each run."""
SEED = Setting("seed", int, f"Seed of velocities and noise, or {RANDOM} to draw one", 42, metavar="N",
               note="it is kept with the results", panel=COMPUTING)  # fmt: skip
STOP_ABOVE = Setting("stop_above", dict, "Stop a system above a bound, such as max_force_deviation=0.3", {},
                     note="outputs of the model and bounds, in their units", metavar="NAME=BOUND",
                     panel=MODEL)  # fmt: skip
ON_ERROR = Setting("on_error", str, "Of what breaks down: quarantine sets it aside, retry takes smaller steps first",
                   "quarantine", choices=("quarantine", "retry"), metavar="WAY", panel=COMPUTING)  # fmt: skip
MAX_RETRIES = Setting("max_retries", int, "Most retries of a system in one stage", 3, at_least=1, metavar="N",
                      note="with `on_error: retry`", panel=COMPUTING)  # fmt: skip
OUT = Setting("output", str, "Folder for the results", None, absent="the name of the job and -output", argument="out",
              flags=("-o",), metavar="DIR", panel=OUTPUT)  # fmt: skip
CHECKPOINT = Setting("checkpoint", CLOCK, "Time of the clock between checkpoints; 0: none", 60.0, at_least=0.0,
                     note="`athanor run --resume` goes on from the newest", metavar="TIME", panel=OUTPUT)  # fmt: skip
TIME_LIMIT = Setting("time_limit", CLOCK, "Stop after so much time of the clock, to be resumed", None, above=0.0,
                     absent="no limit", metavar="TIME", panel=COMPUTING)  # fmt: skip
STATUS = Setting("status", str, "File for how the run goes: every few seconds a line of JSON", None, absent="none",
                 metavar="FILE", panel=OUTPUT)  # fmt: skip
EXTEND = Setting("extend", TIME, "With --resume: let the dynamics of the run, finished or not, be so much longer", None,
                 note="to the same bits as in one go", absent="no longer", metavar="TIME", panel=OUTPUT)  # fmt: skip
EVERY = Setting("every", int, "Steps between frames and rows of the log", 10, metavar="N", panel=OUTPUT)

# what `athanor.select` takes
MOST = Setting("n", int, "Most frames to choose", 20, flags=("-n",), at_least=1, metavar="N", panel=SELECTION)
BY = Setting("by", str, "How to choose: far apart (farthest), or where a committee disagrees (uncertainty)", "farthest",
             choices=("farthest", "uncertainty"), metavar="WAY", panel=SELECTION)  # fmt: skip
ABOVE = Setting("above", float, "What the field of a chosen frame has to exceed, in its unit", None,
                absent="any", metavar="VALUE", panel=SELECTION)  # fmt: skip
BELOW = Setting("below", float, "Largest value of it, beyond which structures make no sense", None, absent="any",
                metavar="VALUE", panel=SELECTION)  # fmt: skip
FIELD = Setting("field", str, "What tells how uncertain a frame is", "max_force_deviation", metavar="NAME",
                panel=SELECTION)  # fmt: skip
SPACING = Setting("spacing", TIME, "Least time between two frames of one system", 0.0, at_least=0.0, metavar="TIME",
                  panel=SELECTION)  # fmt: skip
POOLING = Setting("pooling", str, "What of the features of the atoms describes a structure: their mean, or the largest",
                  "mean", choices=("mean", "max"), metavar="WAY", panel=SELECTION)  # fmt: skip
