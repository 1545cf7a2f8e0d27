"""Files that somebody made to do harm, in every place of a results folder, before every loader; under an audit hook.

``python hostile_rig.py FOLDER`` prints one line for each event that reading must not cause, and what came of the rest.
What is imported late, and how errors are told, is met once before the hook looks.
"""

from __future__ import annotations

import json
import os
import pickle
import resource
import subprocess
import sys
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import yaml
from ase.build import bulk

import athanor
from athanor.errors import AthanorError
from athanor.io.store.check import check_store
from athanor.io.store.folder import Folder
from athanor.io.store.records import frame, log_header
from athanor.io.trajectory import TrajectoryReader
from athanor.sinks import ZarrData
from athanor.workflows.checksums import check_file
from athanor.workflows.spec import load_job

ARGON = {"name": "lennard-jones", "epsilon": 0.0104, "sigma": 3.4, "cutoff": 8.5}
DATA = Path(__file__).parents[1] / "data"
MARK = "touch-me-not"
"""Begins the names of files that only code in a file would make."""


def make_run(out: Path) -> Path:
    """A whole results folder, with a job beside it and a store of version 0."""
    crystal = bulk("Ar", "fcc", a=5.26, cubic=True)
    athanor.md([crystal] * 2, ARGON, temperature=30, steps=4, every=2, out=out)
    job = yaml.safe_load((out / "run.yaml").read_text(encoding="utf-8"))["job"]
    (out / "job.yaml").write_text(yaml.safe_dump(job | {"structures": ["final.extxyz"]}), encoding="utf-8")
    with zipfile.ZipFile(DATA / "store_with_presence_rows.zip") as archive:
        archive.extractall(out / "old.zarr")
    return out


LOADERS: dict[str, Callable[[Path], object]] = {
    "the run": lambda out: repr(athanor.open(out)),
    "its table": lambda out: (athanor.open(out).summary, athanor.open(out).names),
    "its log": lambda out: athanor.open(out).series(0),
    "its structures": lambda out: athanor.open(out).structures,
    "its frames": lambda out: athanor.open(out).frames(0),
    "its images": lambda out: athanor.open(out).atoms(0),
    "checksums": lambda out: [check_file(out / name) for name in ("final.extxyz", "summary.json", "log.csv")],
    "a trajectory": lambda out: TrajectoryReader(out / "trajectory.zarr").rows(slice(None)),
    "a sink": lambda out: ZarrData(out / "trajectory.zarr", mode="r").read(),
    "a check": lambda out: check_store(Folder(out / "trajectory.zarr")),
    "an old trajectory": lambda out: TrajectoryReader(out / "old.zarr").read(),
    "a job": lambda out: load_job(out / "job.yaml"),
}
RUN = ("the run", "its table", "its log", "its structures", "its frames", "its images")
STORE = ("its frames", "a trajectory", "a sink", "a check")
OLD = ("an old trajectory",)
FILES = {
    "run.yaml": RUN, "job.yaml": ("a job",), "summary.json": RUN, "summary.csv": RUN[:2], "log.csv": RUN[:3],
    "final.extxyz": RUN[3:4], "SHA256SUMS": (*RUN, "checksums"),
    "trajectory.zarr/format.json": STORE, "trajectory.zarr/commits.log": STORE, "trajectory.zarr/tail/LOG": STORE,
    "trajectory.zarr/zarr.json": STORE[1:], "trajectory.zarr/data/positions/zarr.json": STORE[1:],
    "trajectory.zarr/data/positions/c.0.0": STORE, "trajectory.zarr/index/node_end/c.0": STORE[1:],
    "trajectory.zarr/structures/atomic_numbers/c.0": STORE[1:],
    "old.zarr/head.json": OLD, "old.zarr/format.json": OLD, "old.zarr/tail/0000000002": OLD,
    "old.zarr/data/positions/zarr.json": OLD, "old.zarr/data/positions/c/0/0": OLD, "old.zarr/index/node_end/c/0": OLD,
}  # fmt: skip
"""Files, and who reads them."""


class Payload:
    """Pickled, it is a call."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.place / MARK}",)


def _bomb(code: str) -> bytes:
    """Bytes that become 256 MB; made by another program, so that the memory of this one tells what reading took."""
    program = f"import sys, zlib, numcodecs.blosc as blosc; sys.stdout.buffer.write({code})"
    return subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, check=True).stdout


def contents(outside: Path) -> Iterator[tuple[str, Callable[[Path], object]]]:
    """What is put in the place of a file, by name."""
    call = f"touch {outside / MARK}"
    texts: dict[str, bytes] = {
        "a pickle": pickle.dumps(Payload(outside)),
        "a pickle of old": pickle.dumps(Payload(outside), protocol=0),
        "a tag of YAML": f"!!python/object/apply:os.system ['{call}']\n".encode(),
        "a tag in a mapping": f"athanor: 1\nversion: !!python/object/new:os.system ['{call}']\n".encode(),
        "dotted paths": json.dumps({"model": {"name": "os.system", "class": "os.system", "args": [call]},
                                    "format": "os.system", "__import__": "os", "_target_": "os.system"}).encode(),
        "objects of ASE": json.dumps({"__ase_objtype__": "os.system", "__complex__": [1, 2], "__ndarray__": [
            [2**40], "object", [call]]}).encode(),
        "names that lead out": json.dumps({"name": f"../../{MARK}", "path": str(outside / MARK),
                                           "tail": "../x"}).encode(),
        "lines that lead out": f"# 3 ../{MARK}\n{'0' * 64}  ../../{MARK}\n{'0' * 64}  {outside / MARK}\n".encode(),
        "an atom for a billion": b"999999999\nLattice=\"1 0 0 0 1 0 0 0 1\"\nAr 0 0 0\n",
        "JSON in a comment": f'1\nmodel=_JSON {{"__import__": "os"}} Properties=species:S:1:pos:R:3:x:O:9999999 '
                             f'a="{call}"\nAr 0 0 0\n'.encode(),
        "a bomb of zlib": _bomb("zlib.compress(bytes(1 << 28))"),
        "a bomb of Blosc": _bomb("blosc.Blosc(cname='zstd').encode(bytes(1 << 28))"),
        "deep brackets": b"[" * 200_000,
        "a long number": b'{"version": ' + b"9" * 100_000 + b"}",
        "a record with huge counts": (lambda raw: log_header(len(raw)) + raw)(frame(1, json.dumps({
            "number": 1, "systems": 2**61, "nodes": 2**61, "structures": 2**61, "structure_nodes": 2**61, "fields": [],
            "arrays": {"index/node_end": [2**61, 1, 1]}, "tail": "tail/0000000000.log", "previous": 0}).encode())),
        "nothing": b"",
        "zeros": bytes(1 << 20),
    }  # fmt: skip
    for name, raw in texts.items():
        yield name, lambda path, raw=raw: path.write_bytes(raw)
    yield "a link out", lambda path: path.symlink_to(outside / "secret")
    yield "a link to itself", lambda path: path.symlink_to(path.name)
    yield "a folder", lambda path: path.mkdir()
    yield "a pipe", lambda path: os.mkfifo(path)
    yield "nothing at all", lambda path: None


def _is_bad(event: str, arguments: tuple[Any, ...], known: set[str]) -> bool:
    if event == "import":
        return arguments[0] not in known
    if event == "open":
        return isinstance(arguments[2], int) and bool(arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
    return event.startswith((
        "os.exec", "os.fork", "os.posix_spawn", "os.system", "os.startfile", "os.remove", "os.rename", "os.mkdir",
        "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod", "os.chown", "os.kill", "os.putenv", "pty.",
        "shutil.", "subprocess.", "socket.", "ctypes.", "tempfile.", "pickle.", "urllib.", "ftplib.", "webbrowser.",
    ))  # fmt: skip


class Watch:
    """The audit hook, which looks only inside of the block."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.known = set(sys.modules)
        self.looks = False
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.looks and _is_bad(event, arguments, self.known):
            self.events.append(f"{event} {str(arguments)[:150]}")

    def __enter__(self) -> None:
        self.looks = True

    def __exit__(self, *_: object) -> None:
        self.looks = False


class Rig:
    """A run whose files are replaced one by one, and what was found.

    Parameters
    ----------
    place
        An empty folder.
    """

    def __init__(self, place: Path) -> None:
        self.out, self.outside = make_run(place / "out"), place / "outside"
        self.outside.mkdir()
        (self.outside / "secret").write_text("athanor: not yours\n", encoding="utf-8")
        self.contents = list(contents(self.outside))
        self.log = next((self.out / "trajectory.zarr" / "tail").iterdir()).name
        self.watch: Watch | None = None
        self.found, self.bad, self.slowest = Counter[str](), [], 0.0

    def go(self) -> None:
        """Put each content in each place, and read with each loader of it."""
        sums = (self.out / "SHA256SUMS").read_bytes()
        for name, readers in FILES.items():
            file = self.out / name.replace("LOG", self.log)
            kept = file.with_name("kept")
            for content, replace in self.contents:
                file.rename(kept)
                if file.name != "SHA256SUMS":
                    (self.out / "SHA256SUMS").unlink()  # else that tells of it at once
                replace(file)
                for reader in readers:
                    self._read(reader, f"{reader}, {content} for {name}")
                if sorted(path.name for path in self.outside.iterdir()) != ["secret"]:
                    self.bad.append(f"BAD {content} for {name} wrote outside")
                if file.is_dir() and not file.is_symlink():
                    file.rmdir()
                else:
                    file.unlink(missing_ok=True)
                kept.rename(file)
                (self.out / "SHA256SUMS").write_bytes(sums)

    def _read(self, reader: str, where: str) -> None:
        started = time.process_time()
        with self.watch or nullcontext():
            try:
                LOADERS[reader](self.out)
                outcome = "read"
            except AthanorError:
                outcome = "told"
            except Exception as error:
                outcome = f"{type(error).__name__}: {error}"
        self.slowest = max(self.slowest, time.process_time() - started)
        self.found[outcome if outcome in ("read", "told") else "raised"] += 1
        self.bad += [f"BAD {where}: {outcome[:200]}"] if outcome not in ("read", "told") else []
        if self.watch is not None:
            self.bad += [f"BAD {where}: {event}" for event in self.watch.events]
            self.watch.events.clear()


def main(place: Path) -> None:
    """Go through all of it twice, the second time under the hook, and print."""
    rig = Rig(place)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    rig.go()
    rig.watch = watch = Watch()
    rig.go()
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(*rig.bad, sep="\n")
    print(
        rig.found["read"],
        "read,",
        rig.found["told"],
        "told,",
        len(rig.bad),
        f"bad, {rig.slowest:.2f} s,",
        grown // 1024,
        "MB",
    )
    twins: tuple[Callable[[], object], ...] = (
        lambda: pickle.loads(pickle.dumps(Payload(rig.outside))),
        lambda: __import__("wave"),
        lambda: (rig.outside / "secret").open("a").close(),
    )
    for twin in twins:  # of loaders that trust what they read
        with watch:
            twin()
        print("TWIN", *watch.events, sep="\t")
        watch.events.clear()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
