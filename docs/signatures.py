"""Write the signatures of `athanor.relax`, `md` and `evaluate`, and what their docstrings say of the arguments.

    python docs/signatures.py

Names, defaults and texts are those of `athanor.workflows.methods` and `athanor.workflows.settings`. The signatures
stand in the source so that editors and readers see them; a test holds them to the tables. Run it when one changes.
"""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

from athanor.workflows import settings
from athanor.workflows.methods import MD, RELAX, SILENCE, StageKind, all_settings
from athanor.workflows.quantities import Quantity
from athanor.workflows.settings import Setting

WORKFLOWS = Path(settings.__file__).parent

FIRST = ("structures", "model")
SYSTEMS = (
    settings.SUPERCELL,
    settings.MIN_ATOMS,
    settings.STRICT,
    settings.PROPERTIES,
    settings.DEVICE,
    settings.DTYPE,
    settings.THREADS,
    settings.MAX_ATOMS,
)
RUN = (
    settings.STOP_ABOVE,
    settings.ON_ERROR,
    settings.MAX_RETRIES,
    settings.EVERY,
    settings.CHECKPOINT,
    settings.TIME_LIMIT,
    settings.STATUS,
    settings.SEED,
    settings.OUT,
    "overwrite",
    "resume",
    settings.TITLE,
    SILENCE,
    "progress",
)

RUN_OF_MD = (*RUN[: RUN.index("resume") + 1], settings.EXTEND, *RUN[RUN.index("resume") + 1 :])

PYTHON = {
    "supercell": ("str | int | Sequence[int]", "1"),
    "device": ("str | None", "None"),
    "dtype": ("str | torch.dtype", '"float64"'),
    "out": ("str | os.PathLike[str] | None", "None"),
    "status": ("str | os.PathLike[str] | None", "None"),
    "properties": ("Sequence[str]", "()"),
    "silence": ("Sequence[str]", "()"),
    "stop_above": ("Mapping[str, float | str] | None", "None"),
    "seed": ("int | str", "42"),
    "overwrite": ("bool", "False"),
    "resume": ("bool", "False"),
    "progress": ("bool", "False"),
}
"""Type and default of arguments that are more in Python than in a job, or none of a job."""
TEXTS = {
    "structures": "ASE atoms, a path of anything ASE reads, `AtomicData`, a list of these, a `Batch`, or what a run "
    "returned. They are not changed.",
    "model": "Name of a model (see `athanor.models.available`), a mapping of its name and arguments such as "
    '``{"name": "lennard-jones", "epsilon": 0.0104, "sigma": 3.4, "cutoff": 8.5}``, or a wrapped model. CHGNet by '
    "default, for crystals.",
    "out": "Results folder; nothing is kept on disk without it.",
    "overwrite": "Replace the results of an earlier run in `out`.",
    "resume": "Go on with the run in `out`, which was stopped or killed; with the same arguments, to the same bits.",
    "title": "A name for the run, kept in `out`.",
    "progress": "Show how far it is, on stderr.",
}
"""What Python says of arguments instead of the table."""
ADDED = {
    "supercell": "Or a tuple such as ``(2, 2, 1)``.",
    "device": "By default where the model is: the CPU for a model by name.",
    "dtype": "Or torch's name of it.",
    "every": "They are kept in `out`.",
    "silence": "The text of a warning names its topic.",
}
"""What Python says beyond the table."""
OF_A_CALL = {
    "relax": {"seed": "Kept with the results; a relaxation draws no random numbers."},
    "md": {
        "seed": 'Seed of velocities and noise, or ``"random"`` for another one in each call, see `RunResult.seed`. A '
        "system's path depends on it and on its place in `structures`, not on the batch."
    },
    "evaluate": {
        "out": "File for the structures with their results, extended XYZ; nothing is written without it.",
        "overwrite": "Replace `out`.",
    },
}
"""What one call says of its arguments."""


def stage_arguments(kind: StageKind) -> list[Setting]:
    """Return the settings of a stage that Python takes."""
    return [setting for setting in all_settings(kind).values() if setting.in_python]


CALLS: dict[str, tuple[Setting | str, ...]] = {
    "relax": (*stage_arguments(RELAX), *SYSTEMS, *RUN),
    "md": (*stage_arguments(MD), *SYSTEMS, *RUN_OF_MD),
    "evaluate": (*SYSTEMS, SILENCE, settings.OUT, "overwrite", "progress"),
}
"""Keyword arguments of every call, in order."""


def name_of(argument: Setting | str) -> str:
    """Return what Python calls an argument."""
    return argument if isinstance(argument, str) else argument.as_argument


def declaration(argument: Setting | str) -> str:
    """Return an argument with type and default, as the signature has it."""
    name = name_of(argument)
    if name in PYTHON:
        return f"{name}: {' = '.join(PYTHON[name])}"
    assert isinstance(argument, Setting), f"`{name}` needs a type in PYTHON"
    kind = "float | str" if isinstance(argument.quantity, Quantity) else argument.quantity.__name__
    default = argument.python_default
    shown = f'"{default}"' if isinstance(default, str) else repr(default)
    return f"{name}: {kind}{' | None' if default is None else ''} = {shown}"


def text(call: str, argument: Setting | str) -> str:
    """Return what the docstring says of an argument."""
    name = name_of(argument)
    if name in OF_A_CALL[call] or name in TEXTS:
        return OF_A_CALL[call].get(name) or TEXTS[name]
    assert isinstance(argument, Setting), f"`{name}` needs a text in TEXTS"
    words = argument.comment.replace(" if null.", " by default.").replace("``", "`")
    if argument.only:
        words += f" Taken by {', '.join(argument.only)}; {argument.default_in_words} by default."
    elif argument.sets:
        words += f" {argument.default_in_words} by default."
    return f"{words} {ADDED[name]}" if name in ADDED else words


def signature(call: str) -> str:
    """Return the definition line by line, up to its colon."""
    first = ["structures: Any", "model: Any = None", "*"]
    lines = "".join(f"    {line},\n" for line in [*first, *map(declaration, CALLS[call])])
    return f"def {call}(\n{lines}) -> RunResult:\n"


def parameters(call: str) -> str:
    """Return the section of the docstring. What is the same for all calls is told by `relax`."""
    told = [(name_of(argument), text(call, argument)) for argument in CALLS[call]]
    if call == "relax":
        told = [(name, TEXTS[name]) for name in FIRST] + told
    else:
        common = [name_of(argument) for argument in (*SYSTEMS, *RUN)]
        as_relax = [name for name, _ in told if name in common and name not in OF_A_CALL[call]]
        groups = textwrap.wrap(", ".join((*FIRST, *as_relax)), 116)  # a list of names must not go on in the next line
        rest = [(name, words) for name, words in told if name not in as_relax]
        told = [(names.rstrip(","), "As in `athanor.relax`.") for names in groups] + rest
    lines = []
    for name, words in told:
        lines += [name, *textwrap.wrap(words, 116, initial_indent="    ", subsequent_indent="    ")]
    return textwrap.indent("\n".join(["Parameters", "----------", *lines]), "    ") + "\n\n"


def render(call: str, source: str) -> str:
    """Return the source of a module with the signature and the section of its call written anew."""
    patterns = {
        rf"^def {call}\(\n.*?^\) -> RunResult:\n": signature(call),
        r"^    Parameters\n    -+\n.*?(?=^    Returns\n)": parameters(call),
    }
    for pattern, wanted in patterns.items():
        source, found = re.subn(pattern, lambda _, wanted=wanted: wanted, source, count=1, flags=re.M | re.S)  # type: ignore[misc]
        assert found == 1, f"{call}.py has no {pattern}"
    return source


def main() -> None:
    """Rewrite the three modules."""
    for call in CALLS:
        file = WORKFLOWS / f"{call}.py"
        before = file.read_text(encoding="utf-8")
        after = render(call, before)
        file.write_text(after, encoding="utf-8")
        print(f"{file.name}: {'as it was' if after == before else 'written anew'}")


if __name__ == "__main__":
    main()
