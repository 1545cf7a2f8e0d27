"""Behind ``athanor store``: what a trajectory holds, whether all of it can be read, and what mends it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from athanor.cli.exit_codes import ExitCode
from athanor.cli.output import print_json
from athanor.errors import InputError

if TYPE_CHECKING:
    from athanor.io.store.medium import Medium

TRAJECTORY = "trajectory.zarr"
ACTIONS = ("info", "verify", "repair", "upgrade", "defragment")


def run_store(action: str, place: str, *, as_json: bool) -> int:
    """Do one of `ACTIONS` with a store, by its path or address, or with that of a results folder."""
    from athanor.io.store.places import open_medium

    if action not in ACTIONS:
        raise InputError(f"`athanor store {action}` is unknown. Use one of {', '.join(ACTIONS)}.")
    inner = Path(place) / TRAJECTORY
    path = str(inner) if "://" not in place and inner.is_dir() else place
    found = {"info": _info, "verify": _verify, "repair": _repair}.get(action, _rewrite)(open_medium(path), path, action)
    code = ExitCode.STORAGE if found.get("problems") else ExitCode.DONE
    if as_json:
        print_json(found | {"exit_code": int(code)})
    else:
        for line in found.pop("lines"):
            print(line)
    return int(code)


def _info(medium: Medium, path: str, action: str) -> dict[str, Any]:
    from athanor.io.store.maintenance import version_of_store
    from athanor.io.trajectory import TrajectoryReader
    from athanor.workflows.readable import count, printable

    version, reader = version_of_store(medium), TrajectoryReader(medium)
    atoms = reader.num_atoms
    systems = len(set(reader.system_values("system_id").flatten().tolist())) if len(reader) else 0
    keys = medium.list_keys()
    nbytes = medium.bytes_of(keys)
    size = "" if nbytes is None else f"{nbytes / 1e6:,.1f} MB in "
    lines = [
        f"{printable(path)}: version {version} of the format",
        f"{count(len(reader), 'frame')} of {count(systems, 'system')}, {count(int(atoms.sum()), 'atom')} in all; "
        f"{size}{count(len(keys), 'object' if nbytes is None else 'file')}",
    ]
    lines += [
        f"  {item.name:<20} {item.level:<7} {item.dtype:<9} {'x'.join(map(str, item.shape)) or '-':<8} "
        f"{'once for all frames that share it' if item.constant else ''}".rstrip()
        for item in reader.fields
    ]
    fields = {item.name: {"level": item.level, "dtype": item.dtype, "shape": item.shape} for item in reader.fields}
    return {"path": path, "version": version, "frames": len(reader), "systems": systems, "bytes": nbytes,
            "files": len(keys), "fields": fields, "lines": lines}  # fmt: skip


def _verify(medium: Medium, path: str, action: str) -> dict[str, Any]:
    from athanor.io.store.check import check_store
    from athanor.workflows.readable import count

    found = check_store(medium)
    lines = [*found.problems, *found.remarks]
    good = f"{count(found.frames, 'frame')}, {count(found.chunks, 'chunk')}: every checksum is right."
    told = f"{count(len(found.problems), 'problem')}; `athanor store repair` keeps what can be read."
    lines.append(told if found.problems else good)
    return {"path": path, "frames": found.frames, "chunks": found.chunks, "problems": found.problems,
            "remarks": found.remarks, "lines": lines}  # fmt: skip


def _repair(medium: Medium, path: str, action: str) -> dict[str, Any]:
    from athanor.io.store.maintenance import repair_store
    from athanor.workflows.readable import count

    done = repair_store(medium)
    after = _verify(medium, path, action)
    lines = [*done.lost, f"{count(done.frames, 'frame')} can be read and continued.", *after["problems"]]
    return {"path": path, "frames": done.frames, "lost": done.lost, "problems": after["problems"], "lines": lines}


def _rewrite(medium: Medium, path: str, action: str) -> dict[str, Any]:
    from athanor.io.store.maintenance import rewrite_store, version_of_store
    from athanor.workflows.readable import count

    if action == "upgrade" and version_of_store(medium) > 0:
        return {"path": path, "lines": [f"{path} is of the newest version; nothing was done."]}
    frames = rewrite_store(medium)
    return {"path": path, "frames": frames, "lines": [f"{count(frames, 'frame')} written anew in {path}."]}
