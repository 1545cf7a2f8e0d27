"""Run every benchmark, keep the figures in ``benchmarks/results.json`` and write them into ``docs/performance.md``.

This is ``make bench``. A benchmark that fails is told at the end, and then nothing is kept. Single ones are scripts
too: ``python benchmarks/overhead.py``.
"""

from __future__ import annotations

import importlib
import sys
import time
import traceback

import lennard_jones
import page
from harness import environment

BENCHMARKS = (
    "overhead",
    "finished",
    "start_up",
    "neighbor_lists",
    "lennard_jones",
    "memory",
    "chgnet_relaxation",
    "ase_calculator",
    "composition",
)


def main() -> int:
    """Return 0 if every benchmark ran."""
    started, tables, failed = time.monotonic(), {}, []
    machine = environment()
    for number, name in enumerate(BENCHMARKS, 1):
        module = importlib.import_module(name)
        title = (module.__doc__ or "").split(":")[0]
        print(f"==> {number} of {len(BENCHMARKS)}: {title} ({time.monotonic() - started:.0f} s so far)", flush=True)
        try:
            tables[name] = module.measure(False)
        except Exception:
            traceback.print_exc()
            failed.append(name)
    if failed:
        print(f"==> Failed: {', '.join(failed)}. Nothing was written.")
        return 1
    results = {**machine, "peers": lennard_jones.peers(), "tables": tables}
    page.RESULTS.write_text(page.dumps(results), encoding="utf-8")
    page.write()
    print(f"==> Done in {time.monotonic() - started:.0f} s: benchmarks/results.json, docs/performance.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
