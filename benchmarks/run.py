"""Run every benchmark, keep the figures in ``benchmarks/results.json`` and write them into ``docs/performance.md``.

This is ``make bench``; with names, such as ``make bench ONLY="overhead memory"``, those figures are replaced and the
others stay. A benchmark that fails is told at the end, and then nothing is kept. Single ones are scripts too:
``python benchmarks/overhead.py``.
"""

from __future__ import annotations

import argparse
import importlib
import json
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
    "sizes",
    "many_body",
    "memory",
    "chgnet_relaxation",
    "screening",
    "ase_calculator",
    "composition",
    "committees",
    "electrostatics",
    "dispersion",
    "storage",
    "storage_costs",
    "in_flight",
)


def main() -> int:
    """Return 0 if every benchmark ran."""
    parser = argparse.ArgumentParser(description="Run benchmarks and write their figures into docs/performance.md.")
    parser.add_argument("names", nargs="*", choices=[[], *BENCHMARKS], help="which; all by default")
    names = parser.parse_args().names or list(BENCHMARKS)
    started, tables, failed = time.monotonic(), {}, []
    machine = environment()
    if len(names) < len(BENCHMARKS):
        kept = json.loads(page.RESULTS.read_text(encoding="utf-8"))
        if any(machine[fact] != kept[fact] for fact in ("cpu", "cores", "system")):
            print(f"==> The figures on the page are from {kept['cpu']}, not from this machine; run all benchmarks.")
            return 1
        tables = kept["tables"]
    for number, name in enumerate(names, 1):
        module = importlib.import_module(name)
        title = (module.__doc__ or "").split(":")[0]
        print(f"==> {number} of {len(names)}: {title} ({time.monotonic() - started:.0f} s so far)", flush=True)
        try:
            tables[name] = module.measure(False)
        except Exception:
            traceback.print_exc()
            failed.append(name)
    if failed:
        print(f"==> Failed: {', '.join(failed)}. Nothing was written.")
        return 1
    tables = {name: tables[name] for name in BENCHMARKS if name in tables}
    results = {**machine, "peers": lennard_jones.peers(), "tables": tables}
    page.RESULTS.write_text(page.dumps(results), encoding="utf-8")
    page.write()
    print(f"==> Done in {time.monotonic() - started:.0f} s: benchmarks/results.json, docs/performance.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
