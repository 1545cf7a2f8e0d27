"""Behind ``athanor evaluate``: one model, or several whose results are compared."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from athanor.cli.exit_codes import ExitCode
from athanor.cli.output import Screen, document_of, exit_code, print_json, warnings_as_lines
from athanor.cli.run import Given, arguments_of, model_of, spec_of

if TYPE_CHECKING:
    from athanor.workflows.results import RunResult
    from athanor.workflows.spec import CalculationSpec, ModelSpec


def evaluate_files(given: Given) -> int:
    """Evaluate structure files; print tables, and write a file for each model if one is named."""
    from athanor.workflows.evaluate import check_file, evaluate_systems
    from athanor.workflows.structures import load_sources

    models, screen = given["model"] or [None], Screen(given["quiet"], given["json"])
    one = len(models) == 1
    specs = [_spec_of_one(given, models[0])] if one else _specs_of_several(given, models)
    for spec in specs:
        if spec.output is not None:
            check_file(spec.output, overwrite=given["overwrite"])
    systems, started = load_sources(specs[0].structures), time.monotonic()
    results: list[RunResult] = []
    with warnings_as_lines(quiet=screen.quiet):
        for spec in specs:
            result = evaluate_systems(spec, systems, overwrite=given["overwrite"], progress=not screen.quiet)
            results.append(result)
            if result.interrupted:
                break
    seconds = time.monotonic() - started
    show = _show_one if one else _show_several
    return int(show(specs, results, screen, seconds))


def _show_one(specs: Sequence[CalculationSpec], results: Sequence[RunResult], screen: Screen, seconds: float) -> int:
    from athanor.cli.table import print_evaluation

    [spec], [result] = specs, results
    code = exit_code(result)
    if screen.as_json:
        print_json({"file": spec.output and str(spec.output)} | document_of(result, seconds, code))
    elif screen.shows_tables:
        print_evaluation(result.rows, spec.output, seconds)
    return int(code)


def _show_several(
    specs: Sequence[CalculationSpec], results: Sequence[RunResult], screen: Screen, seconds: float
) -> int:
    from athanor.cli.compare import documents_of, print_comparisons
    from athanor.cli.table import print_evaluations
    from athanor.workflows.compare import compare_sides
    from athanor.workflows.sides import side_of

    names = [spec.title for spec in specs[: len(results)]]
    codes = [exit_code(result) for result in results]
    code = next((each for each in (ExitCode.INTERRUPTED, ExitCode.SOME_FAILED) if each in codes), ExitCode.DONE)
    sides = [side_of(result, name) for name, result in zip(names, results, strict=True)]
    comparisons = [] if code is ExitCode.INTERRUPTED else [compare_sides(side, sides[-1]) for side in sides[:-1]]
    files = [spec.output for spec in specs[: len(results)] if spec.output is not None]
    if screen.as_json:
        documents = [
            {"model": name, "file": spec.output and str(spec.output), "rows": result.rows, "outcome": result.outcomes}
            for name, spec, result in zip(names, specs, results, strict=False)
        ]
        comparisons_ = documents_of(comparisons)
        print_json({"models": documents, "comparisons": comparisons_, "seconds": round(seconds, 3), "exit_code": code})
    elif screen.shows_tables:
        rows = {name: result.rows for name, result in zip(names, results, strict=True)}
        print_evaluations(rows, files, seconds)
        print_comparisons(comparisons)
    return int(code)


def _spec_of_one(given: Given, model: str | None) -> CalculationSpec:
    from athanor.workflows.spec import CalculationSpec

    return spec_of(CalculationSpec, given | {"model": model}, {})


def _specs_of_several(given: Given, models: Sequence[str]) -> list[CalculationSpec]:
    """Return a description for each model, whose title is what to call it."""
    from athanor.workflows.spec import CalculationSpec

    out = None if given["out"] is None else Path(given["out"])
    specs = []
    for name, model in _models(models, arguments_of(given["model_option"] or [])):
        word = re.sub(r"[^\w.+-]+", "-", name.replace(" + ", "+"))
        own = {"out": None if out is None else str(out.with_name(f"{out.stem}-{word}{out.suffix}"))}
        more = {"model": model.to_job(), "title": name}
        specs.append(spec_of(CalculationSpec, given | own | {"model": None, "model_option": None}, more))
    return specs


def _models(texts: Sequence[str], options: dict[str, Any]) -> list[tuple[str, ModelSpec]]:
    """Return each model with those of the options that are its own, and what to call it."""
    from athanor.models import registry
    from athanor.workflows.problems import Origin, as_option
    from athanor.workflows.spec import CalculationSpec, ModelSpec, validated

    described = []
    for text in texts:
        model = validated(CalculationSpec, {"model": model_of(text)}, Origin(spell=as_option)).model
        assert model is not None
        described.append(model)
    if options:
        rows = iter(registry.terms(" + ".join(model.name for model in described), options))
        for place, model in enumerate(described):
            before = [term.options for term in model.terms] or [
                more for _, more in registry.terms(model.name, model.options)
            ]
            parts = [
                ModelSpec(name=name.strip(), options=given | own)
                for name, given, (_, own) in zip(model.name.split("+"), before, rows, strict=False)
            ]
            described[place] = parts[0] if len(parts) == 1 else ModelSpec(name=model.name, terms=tuple(parts))
    counts, numbers = Counter(model.name for model in described), Counter[str]()
    named = []
    for model in described:
        numbers[model.name] += 1
        named.append((f"{model.name} {numbers[model.name]}" if counts[model.name] > 1 else model.name, model))
    return named
