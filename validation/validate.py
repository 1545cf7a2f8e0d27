"""Run every validation, keep what it found in ``validation/results.json`` and write ``docs/validation.md`` anew.

This is ``make validation``; with names, such as ``make validation ONLY="nist liquid"``, those results are replaced and
the others stay. It fails if anything deviates by more than five standard errors.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from typing import Any

import pictures
import report

import athanor

CHECKS = {"canonical": "exact", "isobaric": "exact", "slopes": "slopes"}
TABLES = {"liquid": "liquid", "nist": "nist", "crystal": "crystal"}
PICTURES = {"volumes": "exact", "orders": "exact"}
PARTS = (*CHECKS, *PICTURES, *TABLES)


def main() -> int:
    """Return 0 if all that ran is as it should be."""
    parser = argparse.ArgumentParser(description="Run validations and write what they found into docs/validation.md.")
    parser.add_argument("names", nargs="*", choices=[[], *PARTS], help="which; all by default")
    parser.add_argument("--smoke", action="store_true", help="tiny: everything runs, nothing is kept")
    options = parser.parse_args()
    athanor.set_num_threads(1)
    bad = []
    for name in options.names or PARTS:
        started = time.monotonic()
        kind, found = run(name, options.smoke)
        bad += [] if options.smoke else deviating(kind, found)
        print(f"==> {name}: {time.monotonic() - started:.0f} s", flush=True)
        if not options.smoke:
            keep(name, kind, found)
    if not options.smoke and not bad:
        show()
    for told in bad:
        print(f"==> {told}")
    return 1 if bad else 0


def show() -> None:
    """Write the page and its pictures, once there are results of every part."""
    results = json.loads(report.RESULTS.read_text(encoding="utf-8"))
    missing = [name for name in PARTS if not any(name in results[kind] for kind in _KINDS)]
    if missing:
        print(f"==> The page is left as it is until there are results of {', '.join(missing)}.")
    else:
        report.write()
        pictures.main()


def run(name: str, smoke: bool) -> tuple[str, Any]:
    """Return the kind of a part, and what it found: checks, rows of a table, or what a picture shows."""
    kind, modules = next((kind, group) for kind, group in _KINDS.items() if name in group)
    module = importlib.import_module(modules[name])
    return kind, (module.measure if kind == "tables" else getattr(module, name))(smoke)


_KINDS = {"checks": CHECKS, "pictures": PICTURES, "tables": TABLES}


def deviating(kind: str, found: Any) -> list[str]:
    """Return what is off by more than five standard errors."""
    if kind == "tables":
        rows = found[0] if isinstance(found, tuple) else found
        return [f"{row.case}, {row.quantity}: {row.deviation:+.1f}" for row in rows if not abs(row.deviation) < 5.0]
    return []  # checks raise, and pictures are looked at


def keep(name: str, kind: str, found: Any) -> None:
    """Put what was found into the results, with where and when."""
    results = json.loads(report.RESULTS.read_text(encoding="utf-8")) if report.RESULTS.exists() else {}
    for each in _KINDS:
        results.setdefault(each, {})
    if kind == "tables":
        rows, shown = found if isinstance(found, tuple) else (found, None)
        results[kind][name] = [
            [cell if isinstance(cell, str) else float(f"{cell:.6g}") for cell in row] for row in rows
        ]
        if shown is not None:
            results["pictures"][name] = shown
    else:
        results[kind][name] = found
    results["machine"] = report.machine()
    report.RESULTS.write_text(json.dumps(_rounded(results), ensure_ascii=False) + "\n", encoding="utf-8")


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    return [_rounded(each) for each in value] if isinstance(value, list) else value


if __name__ == "__main__":
    sys.exit(main())
