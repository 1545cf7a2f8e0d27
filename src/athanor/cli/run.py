"""Behind ``athanor run``, ``relax``, ``md`` and ``evaluate``: options to a description, a calculation, an exit code."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from athanor.cli.options import Shared
from athanor.cli.output import document_of, exit_code, print_json
from athanor.errors import InputError

if TYPE_CHECKING:
    from athanor.workflows.spec import RunSpec

Settings = dict[str, Any]
"""Keys of a job, from options; None where an option was left out."""


def run_job(job: Path, shared: Shared, *, quick: bool, check: bool) -> int:
    """Run a YAML job; options of the command line win over the job."""
    from athanor.workflows.spec import load_job

    spec = load_job(job)
    plain = _with_options(spec.to_job(), shared)
    plain.setdefault("output", f"{job.stem}-output")
    spec = _make_spec(plain)
    return _run(spec.quick() if quick else spec, check, shared)


def run_files(files: Sequence[str], stage: dict[str, Settings], shared: Shared, *, check: bool) -> int:
    """Run one stage on structure files."""
    stages = [{kind: _given(options) for kind, options in stage.items()}]
    plain = {"stages": stages, "structures": [{"file": file} for file in files]}
    return _run(_make_spec(_with_options(plain, shared)), check, shared)


def evaluate_files(files: Sequence[str], shared: Shared) -> int:
    """Evaluate structure files; print a table, and write a file if one is named."""
    from athanor.cli.table import print_evaluation
    from athanor.cli.warn import warnings_as_lines
    from athanor.workflows.evaluate import check_file, evaluate_systems
    from athanor.workflows.problems import Origin, as_option
    from athanor.workflows.spec import CalculationSpec, validated
    from athanor.workflows.structures import load_sources

    plain, screen = _with_options({"structures": [{"file": file} for file in files]}, shared), shared.screen
    spec = validated(CalculationSpec, plain, Origin(spell=as_option))
    if spec.output is not None:
        check_file(spec.output, overwrite=shared.overwrite)
    systems, started = load_sources(spec.structures), time.monotonic()
    with warnings_as_lines(quiet=screen.quiet):
        result = evaluate_systems(spec, systems, overwrite=shared.overwrite, progress=not screen.quiet)
    seconds, code = time.monotonic() - started, exit_code(result)
    if screen.as_json:
        print_json({"file": spec.output and str(spec.output)} | document_of(result, seconds, code))
    elif screen.shows_tables:
        print_evaluation(result.rows, spec.output, seconds)
    return int(code)


def _run(spec: RunSpec, check: bool, shared: Shared) -> int:
    from athanor.cli.warn import warnings_as_lines
    from athanor.workflows.output import check_output
    from athanor.workflows.structures import load_sources

    screen = shared.screen
    if spec.output is not None:
        check_output(spec.output, overwrite=shared.overwrite)
    systems = load_sources(spec.structures)
    if check:
        from athanor.cli.check import check_run

        return check_run(spec, systems, screen)
    from athanor.cli.table import print_result
    from athanor.workflows.run import run

    started, command = time.monotonic(), shlex.join(["athanor", *sys.argv[1:]])
    with warnings_as_lines(quiet=screen.quiet):
        result = run(spec, systems, overwrite=shared.overwrite, progress=not screen.quiet, command=command)
    seconds, code = time.monotonic() - started, exit_code(result, allow_failures=spec.allow_failures)
    if screen.as_json:
        print_json({"folder": result.folder and str(result.folder)} | document_of(result, seconds, code))
    elif screen.shows_tables:
        print_result(result.rows, result.folder, seconds, allow_failures=spec.allow_failures)
    if result.interrupted:
        print(f"athanor: interrupted; what was done is in {result.folder}", file=sys.stderr)
    return int(code)


def _make_spec(plain: Settings) -> RunSpec:
    from athanor.workflows.problems import Origin, as_option
    from athanor.workflows.spec import make_spec

    return make_spec(plain, Origin(spell=as_option))


def _given(options: Settings) -> Settings:
    """Return the options that were not left out, paths as text."""
    kept = {key: value for key, value in options.items() if value is not None and value != []}
    return {key: str(value) if isinstance(value, Path) else value for key, value in kept.items()}


def _with_options(plain: Settings, shared: Shared) -> Settings:
    """Return a job with what the command line says about it."""
    merged = plain | _given(shared.settings)
    if shared.model_options:
        merged["model"] = _with_arguments(merged.get("model"), shared.model_options)
    return merged


def _with_arguments(model: Any, options: Sequence[str]) -> Settings:
    """Return a model as a job would name it, with ``KEY=VALUE`` arguments."""
    import yaml

    from athanor.workflows.spec import ModelSpec
    from athanor.workflows.yaml_file import safe_loader

    if model is None:
        raise InputError("--model-option needs --model: say which model it is for.")
    described = ModelSpec.model_validate(model)
    arguments = dict(described.options)
    for option in options:
        key, separator, text = option.partition("=")
        if not separator or not key:
            raise InputError(f"--model-option {option!r} is not KEY=VALUE, for example `--model-option cutoff=8.5`.")
        try:
            arguments[key.strip().replace("-", "_")] = yaml.load(text, safe_loader())
        except yaml.YAMLError as error:
            raise InputError(f"--model-option {option!r} has no value that can be read as YAML.") from error
    return {"name": described.name, "options": arguments}
