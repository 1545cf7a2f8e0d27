"""Behind ``athanor store``: what a trajectory holds, whether all of it can be read, and what mends it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from athanor.cli.exit_codes import ExitCode
from athanor.cli.output import print_json
from athanor.errors import InputError

TRAJECTORY = "trajectory.zarr"
ACTIONS = ("info", "verify", "repair", "upgrade", "defragment")


def run_store(action: str, place: Path, *, as_json: bool) -> int:
    """Do one of `ACTIONS` with a store, or with that of a results folder."""
    if action not in ACTIONS:
        raise InputError(f"`athanor store {action}` is unknown. Use one of {', '.join(ACTIONS)}.")
    path = place / TRAJECTORY if (place / TRAJECTORY).is_dir() else place
    found = {"info": _info, "verify": _verify, "repair": _repair}.get(action, _rewrite)(path, action)
    code = ExitCode.STORAGE if found.get("problems") else ExitCode.DONE
    if as_json:
        print_json(found | {"exit_code": int(code)})
    else:
        for line in found.pop("lines"):
            print(line)
    return int(code)


def _info(path: Path, action: str) -> dict[str, Any]:
    from athanor.io.store.maintenance import version_of_store
    from athanor.io.store.places import open_medium
    from athanor.io.trajectory import TrajectoryReader
    from athanor.workflows.readable import count, printable

    medium = open_medium(path)
    version, reader = version_of_store(medium), TrajectoryReader(medium)
    atoms = reader.num_atoms
    systems = len(set(reader.system_values("system_id").flatten().tolist())) if len(reader) else 0
    nbytes = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    files = sum(file.is_file() for file in path.rglob("*"))
    lines = [
        f"{printable(str(path))}: version {version} of the format",
        f"{count(len(reader), 'frame')} of {count(systems, 'system')}, {count(int(atoms.sum()), 'atom')} in all; "
        f"{nbytes / 1e6:,.1f} MB in {count(files, 'file')}",
    ]
    lines += [
        f"  {item.name:<20} {item.level:<7} {item.dtype:<9} {'x'.join(map(str, item.shape)) or '-':<8} "
        f"{'once for all frames that share it' if item.constant else ''}".rstrip()
        for item in reader.fields
    ]
    fields = {item.name: {"level": item.level, "dtype": item.dtype, "shape": item.shape} for item in reader.fields}
    return {"path": str(path), "version": version, "frames": len(reader), "systems": systems, "bytes": nbytes,
            "files": files, "fields": fields, "lines": lines}  # fmt: skip


def _verify(path: Path, action: str) -> dict[str, Any]:
    from athanor.io.store.check import check_store
    from athanor.io.store.places import open_medium
    from athanor.workflows.readable import count

    found = check_store(open_medium(path))
    lines = [*found.problems, *found.remarks]
    good = f"{count(found.frames, 'frame')}, {count(found.chunks, 'chunk')}: every checksum is right."
    told = f"{count(len(found.problems), 'problem')}; `athanor store repair` keeps what can be read."
    lines.append(told if found.problems else good)
    return {"path": str(path), "frames": found.frames, "chunks": found.chunks, "problems": found.problems,
            "remarks": found.remarks, "lines": lines}  # fmt: skip


def _repair(path: Path, action: str) -> dict[str, Any]:
    from athanor.io.store.maintenance import repair_store
    from athanor.workflows.readable import count

    frames = repair_store(path)
    after = _verify(path, action)
    lines = [f"{count(frames, 'frame')} can be read and continued.", *after["problems"]]
    return {"path": str(path), "frames": frames, "problems": after["problems"], "lines": lines}


def _rewrite(path: Path, action: str) -> dict[str, Any]:
    from athanor.io.store.maintenance import rewrite_store, version_of_store
    from athanor.io.store.places import open_medium
    from athanor.workflows.readable import count

    if action == "upgrade" and version_of_store(open_medium(path)) > 0:
        return {"path": str(path), "lines": [f"{path} is of the newest version; nothing was done."]}
    frames = rewrite_store(path)
    return {"path": str(path), "frames": frames, "lines": [f"{count(frames, 'frame')} written anew in {path}."]}
