"""Damaged stores give right data or an error of storage, soon, in little memory, and run nothing."""

from __future__ import annotations

import subprocess
import sys

from . import damage_rig

AUDIT = """
import sys
from pathlib import Path
from tests.reliability import damage_rig

damage_rig.USES = damage_rig.USES[:4] + (lambda store: damage_rig.check_store(damage_rig.Folder(store)),)
list(damage_rig.cases(20, Path(sys.argv[1]) / "first"))  # what is loaded late is loaded now
known, events, watched = set(sys.modules), [], [False]

def hook(event, arguments):
    if not watched[0]:
        return
    if event in ("exec", "compile", "os.exec", "os.fork", "os.posix_spawn", "os.system", "subprocess.Popen"):
        events.append((event, str(arguments)[:100]))
    elif event.startswith(("socket.", "ctypes.")) or (event == "import" and arguments[0] not in known):
        events.append((event, str(arguments)[:100]))
    elif event == "open" and isinstance(arguments[2], int) and arguments[2] & 3:
        events.append((event, str(arguments)[:100]))

def watching(use):
    def watched_use(store):
        watched[0] = True
        try:
            return use(store)
        finally:
            watched[0] = False
    return watched_use

damage_rig.USES = tuple(map(watching, damage_rig.USES))
sys.addaudithook(hook)
print(sum(1 for _ in damage_rig.cases(150, Path(sys.argv[1]) / "second")), "cases", *sorted(map(str, events)))
damage_rig.USES = (watching(lambda store: __import__("wave")),)  # broken twin: a name leads to code
list(damage_rig.cases(1, Path(sys.argv[1]) / "third"))
print("twin", *events)
"""


def test_damage_is_told_or_harmless(tmp_path):
    found = list(damage_rig.cases(250, tmp_path, "suite"))
    assert {outcome for outcome, _, _ in found} == {"right", "told"}
    assert sum(outcome == "told" for outcome, _, _ in found) > 40
    assert max(grown for _, _, grown in found) < 200_000


def test_what_is_damaged_runs_nothing_and_opens_nothing_to_write(repository, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", AUDIT, str(tmp_path)], capture_output=True, text=True, check=False, cwd=repository
    )
    assert done.returncode == 0, done.stderr[-2000:]
    real, twin = done.stdout.splitlines()
    assert real == "150 cases"
    assert "'wave'" in twin
