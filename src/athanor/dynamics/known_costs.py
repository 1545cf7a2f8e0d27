"""What batches of a model took on this machine before: a small file for each model, dtype, device and version.

A file that is damaged, or that is of something else, is as good as none.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from contextlib import suppress
from math import isfinite
from pathlib import Path
from typing import Any

import torch

from athanor import __version__
from athanor.dynamics.probing import Probe, Probes
from athanor.io._replace import replacing

_FORMAT = 1
_MOST_BYTES = 100_000
_MOST_PROBES = 30


def describe(model: Any, outputs: frozenset[str], dtype: torch.dtype, device: torch.device) -> dict[str, str]:
    """Return on what the cost of a batch depends, beside its systems."""
    return {
        "model": f"{type(model).__module__}.{type(model).__qualname__}",
        "name": model.model_card.name,
        "parameters": model.model_card.weights_digest or _digest(model),
        "neighbors": repr(model.model_config.neighbor_config),
        "outputs": " ".join(sorted(outputs)),
        "dtype": str(dtype),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "threads": str(torch.get_num_threads()),
        "versions": f"athanor {__version__}, torch {torch.__version__}, Python {platform.python_version()}",
    }


def _digest(model: Any) -> str:
    """Return a digest of the names, shapes and dtypes of the tensors of a model, of which memory depends."""
    tensors = model.state_dict() if isinstance(model, torch.nn.Module) else {}
    lines = (f"{name} {tuple(tensor.shape)} {tensor.dtype}" for name, tensor in tensors.items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def _processor() -> str:
    with suppress(OSError), open("/proc/cpuinfo", encoding="ascii", errors="replace") as lines:
        for line in lines:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def read(folder: Path, what: Mapping[str, str]) -> Probes | None:
    """Return what is known of something, or None."""
    try:
        path = _path(folder, what)
        if path.stat().st_size > _MOST_BYTES:
            return None
        known = json.loads(path.read_text(encoding="utf-8"))
        if known["format"] != _FORMAT or known["of"] != dict(what):
            return None
        rows, others, ended = known["probes"], known["others"], known["ended"]
        if not isinstance(ended, str) or not 0 < len(rows) <= _MOST_PROBES or len(others) > _MOST_PROBES:
            return None
        return Probes(tuple(map(_checked, rows)), ended, tuple(map(_checked, others)))
    except Exception:  # whatever somebody or something put there
        return None


def _checked(row: Any) -> Probe:
    *counts, seconds = row
    if len(counts) != 4 or any(type(count) is not int or not 0 <= count < 2**53 for count in counts):
        raise ValueError("no counts")
    systems, atoms, pairs, taken = counts
    if not 0 < systems <= atoms or type(seconds) is not float or not (isfinite(seconds) and seconds > 0.0):
        raise ValueError("no batch")
    return Probe(systems, atoms, pairs, taken, seconds)


def write(folder: Path, what: Mapping[str, str], found: Probes) -> None:
    """Keep what is known of something, if the folder can be written."""
    kept = {
        "format": _FORMAT,
        "of": dict(what),
        "probes": [list(one) for one in found.probes],
        "others": [list(one) for one in found.others],
        "ended": found.ended,
    }
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(_path(folder, what)) as path:
            path.write_text(json.dumps(kept, indent=1), encoding="utf-8")


def _path(folder: Path, what: Mapping[str, str]) -> Path:
    digest = hashlib.sha256(json.dumps(dict(what), sort_keys=True).encode()).hexdigest()
    return folder / f"{digest[:24]}.json"
