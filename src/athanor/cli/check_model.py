"""Behind ``athanor check-model``: build a model by name, and check that it does what its card claims."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from athanor.cli.exit_codes import ExitCode
from athanor.cli.output import print_json, warnings_as_lines
from athanor.cli.run import spec_of
from athanor.workflows.readable import printable


def check_named_model(given: Mapping[str, Any]) -> int:
    """Check a model and print the report; it is no mistake of the input if checks fail."""
    import torch
    from rich.console import Console

    from athanor.data.elements import number_of_symbol
    from athanor.testing import check_model
    from athanor.workflows.build import build_model
    from athanor.workflows.plan import find_device
    from athanor.workflows.spec import CalculationSpec

    spec = spec_of(CalculationSpec, dict(given), {})
    assert spec.model is not None
    elements = [number_of_symbol(symbol) for symbol in given["element"] or ()]
    with warnings_as_lines(quiet=False), Console(stderr=True).status("Checking ..."):
        device = find_device(spec.device, spec.dtype)
        model = build_model(spec.model).to(device)
        report = check_model(model, elements=elements or None, dtype=getattr(torch, spec.dtype), device=device)
    code = ExitCode.DONE if report.ok else ExitCode.SOME_FAILED
    if given["json"]:
        print_json(report.to_dict() | {"exit_code": int(code)})
    else:
        print(printable(report.table(all_rows=given["all"])))
    return int(code)
