"""``run.yaml``: everything that is needed to know what was run, and to run it again."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from athanor import __version__
from athanor.workflows.advice import Advice
from athanor.workflows.extension import EXTENDED, recorded_steps
from athanor.workflows.folder import RUN
from athanor.workflows.output import write_yaml
from athanor.workflows.saved_record import this_process
from athanor.workflows.spec import RunSpec, with_files
from athanor.workflows.stages import RelaxSpec
from athanor.workflows.structures import System

_PACKAGES = ("torch", "numpy", "ase", "numba", "zarr", "chgnet", "mace-torch")
_ASE = "A. H. Larsen et al., J. Phys.: Condens. Matter 29, 273002 (2017), doi:10.1088/1361-648X/aa680e"
_COLLECTIONS = {
    "ase:dcdft": "K. Lejaeghere et al., Crit. Rev. Solid State Mater. Sci. 39, 1 (2014), "
    "doi:10.1080/10408436.2013.772503",
}


class RunRecord:
    """Writes ``run.yaml`` when a run starts, and again when it ends.

    Parameters
    ----------
    folder
        Results folder.
    spec
        The resolved run.
    systems
        What is run.
    model
        The model object, for its card.
    command
        What the user typed, or the Python call.
    advice
        Warnings that were given before the first step.
    earlier
        What stood there before, if the run goes on.
    """

    def __init__(
        self,
        folder: Path,
        spec: RunSpec,
        systems: Sequence[System],
        model: Any,
        command: str,
        advice: Sequence[Advice] = (),
        earlier: Mapping[str, Any] | None = None,
    ) -> None:
        self._path = folder / RUN
        self._started, self._clock = datetime.now(UTC), time.monotonic()
        self._content: dict[str, Any] = {
            "athanor": __version__,
            "command": command,
            "state": "running",
            "process": this_process(),
            "started": self._started.isoformat(timespec="seconds"),
            **_taken_over(earlier, self._started, spec),
            "systems": len(systems),
            "atoms": sum(len(system.atoms) for system in systems),
            **({"warnings": [found.text for found in advice]} if advice else {}),
            "job": with_files(spec, lambda path: os.path.relpath(path, folder) if path.exists() else path).to_job(),
            "model": _describe_model(spec, model),
            "versions": _versions(),
            "citations": citations(spec, systems, model),
        }
        write_yaml(self._path, self._content)

    def finish(self, state: str, counts: dict[str, int], frames: int) -> None:
        """Write how it ended: a state, how many systems ended how, and how many frames there are."""
        ended = max(datetime.now(UTC), self._started)  # the clock of the machine may have been put back
        head = {
            "state": state,
            "started": self._content["started"],
            "ended": ended.isoformat(timespec="seconds"),
            "seconds": round(time.monotonic() - self._clock, 1),
            "outcome": counts,
            "frames": frames,
        }
        content = {key: value for key, value in self._content.items() if key != "process"}
        write_yaml(self._path, content | head)


def _taken_over(earlier: Mapping[str, Any] | None, now: datetime, spec: RunSpec) -> dict[str, Any]:
    """Return when a run that goes on was started, with which command, when it went on, and how long it was before."""
    if earlier is None:
        return {}
    kept = {key: earlier[key] for key in ("command", "started") if key in earlier}
    steps, lengths = recorded_steps(earlier), _list_in(earlier, EXTENDED)
    if steps is not None and steps < spec.stages[-1].steps:
        lengths = [*lengths, steps]
    longer = {EXTENDED: lengths} if lengths else {}
    return kept | {"resumed": [*_list_in(earlier, "resumed"), now.isoformat(timespec="seconds")]} | longer


def _list_in(record: Mapping[str, Any], key: str) -> list[Any]:
    found = record.get(key)
    return found if isinstance(found, list) else []


def citations(spec: RunSpec, systems: Sequence[System], model: Any) -> list[str]:
    """Return what to cite for this run: the potential, the methods, the data."""
    card = model.model_card
    found = [f"{card.name or type(model).__name__}: {card.citation}"] if card.citation else []
    for stage in spec.stages:
        found += stage.method.citations
        if isinstance(stage, RelaxSpec) and not stage.fixed_cell:
            found += stage.method.cell_citations
    found += [_ASE, *(_COLLECTIONS[file] for file in sorted({system.file for system in systems} & _COLLECTIONS.keys()))]
    return list(dict.fromkeys(found))


def _describe_model(spec: RunSpec, model: Any) -> dict[str, Any]:
    card = model.model_card
    facts = {
        "name": spec.model.name if spec.model is not None else type(model).__name__,
        "card": card.name,
        "dtype": str(card.dtype).removeprefix("torch.") if card.dtype is not None else "",
        "weights_digest": card.weights_digest,
        "licence": card.licence,
        "url": card.url,
        "batch_invariance": card.batch_invariance,
    }
    return {key: value for key, value in facts.items() if value}


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "platform": f"{platform.system()} {platform.machine()}"}
    return found | {name: version for name in _PACKAGES if (version := _version(name))}


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""
