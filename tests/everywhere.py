"""Run the tests on every Python of this machine, and as on other machines: what `make test-everywhere` does.

    python tests/everywhere.py                  each Python and each of `MACHINES`, at least once
    python tests/everywhere.py 3.12:processor   this Python, as on that machine

Each Python has an environment of its own, `.venv-3.12` and so on, with the versions of `constraints.txt`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from itertools import cycle
from pathlib import Path

ROOT = Path(__file__).parent.parent
THREADS = ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")

MACHINES: dict[str, dict[str, str]] = {
    # One thread and no instruction that is younger than twenty years: other last digits in torch, numba, BLAS, libm.
    "processor": dict.fromkeys(THREADS, "1")
    | {"ATEN_CPU_CAPABILITY": "default", "NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}
    | {"MKL_CBWR": "COMPATIBLE", "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX2,-FMA,-FMA4"},
    "threads": dict.fromkeys(THREADS, "2"),
    # A job of a cluster: no home (where not even root can make a folder), ASCII, a narrow screen, another time zone,
    # and in the background, where shells have Ctrl-C ignored and `nohup` hangups.
    "background": dict.fromkeys(THREADS, "1")
    | {"HOME": "/dev/null/home", "LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    | {"TZ": "Asia/Kathmandu", "TERM": "dumb", "COLUMNS": "40"},
}
"""Name -> environment variables that make this machine behave as another one."""

OF_HOME = ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "NUMBA_CACHE_DIR", "MPLCONFIGDIR", "TORCH_HOME")
IN_BACKGROUND = ["sh", "-c", "trap '' INT HUP; exec \"$@\"", "sh"]


def pythons() -> dict[str, str]:
    """Version -> interpreter on the path or of pyenv, of those versions that pyproject.toml names."""
    classifiers = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["classifiers"]
    versions = [text.split()[-1] for text in classifiers if text.startswith("Programming Language :: Python :: 3.")]
    pyenv = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser() / "versions"
    found = {}
    for version in versions:
        places = [shutil.which(f"python{version}"), *sorted(map(str, pyenv.glob(f"{version}.*/bin/python")))]
        working = [place for place in places if place and has_venv(place)]
        if working:
            found[version] = working[0]
        else:
            print(f"==> There is no python{version} here", flush=True)
    return found


def has_venv(interpreter: str) -> bool:
    """Whether an interpreter runs, and can make an environment."""
    return (
        subprocess.run([interpreter, "-c", "import venv, ensurepip"], capture_output=True, check=False).returncode == 0
    )


def test(python: str, interpreter: str, machine: str) -> bool:
    """Set up the environment of a Python, run the tests there as on `machine`, and return whether they pass."""
    print(f"==> Python {python}, {machine}", flush=True)
    make = ["make", "--no-print-directory", f"VENV=.venv-{python}", f"PYTHON={interpreter}"]
    if subprocess.run([*make, "setup"], cwd=ROOT, check=False).returncode != 0:
        return False
    command, given = [*make, "test"], dict(os.environ)
    if machine == "background":
        command = [*IN_BACKGROUND, *command]
        given = {name: value for name, value in given.items() if name not in OF_HOME}
    done = subprocess.run(
        command, cwd=ROOT, env=given | MACHINES[machine], stdin=subprocess.DEVNULL, check=False,
        start_new_session=machine == "background",
    )  # fmt: skip
    return done.returncode == 0


def main(asked: list[str]) -> int:
    """Run what is asked for, else so many pairs that each Python and each machine had its turn."""
    found = pythons()
    turns = range(max(len(found), len(MACHINES)))
    in_turn = [f"{python}:{machine}" for _, python, machine in zip(turns, cycle(found), cycle(MACHINES), strict=False)]
    pairs = [each.split(":") for each in asked or in_turn]
    if unknown := [each for each in pairs if len(each) != 2 or each[0] not in found or each[1] not in MACHINES]:
        print(f"Ask for pairs of {', '.join(found)} and {', '.join(MACHINES)}, as 3.12:threads; not {unknown}")
        return 1
    passed = {(python, machine): test(python, found[python], machine) for python, machine in pairs}
    for (python, machine), ok in passed.items():
        print(f"==> Python {python}, {machine}: {'passed' if ok else 'FAILED'}")
    return 0 if all(passed.values()) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
