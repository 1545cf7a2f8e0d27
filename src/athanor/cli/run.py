"""What ``athanor run``, ``relax`` and ``md`` do, from options to an exit code; options as a description."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from athanor.cli.output import Screen, document_of, exit_code, print_json, warnings_as_lines
from athanor.errors import InputError
from athanor.workflows.readable import printable

if TYPE_CHECKING:
    from athanor.workflows.methods import StageKind
    from athanor.workflows.spec import CalculationSpec, RunSpec

    Spec = TypeVar("Spec", bound=CalculationSpec)

Given = dict[str, Any]
"""Options by name; None where one was left out."""


def run_job(given: Given) -> int:
    """Run a YAML job; options of the command line win over the job."""
    from athanor.workflows.spec import RunSpec, load_job

    job = given["job"]
    plain = load_job(job).to_job()
    plain.setdefault("output", f"{job.stem}-output")
    spec = spec_of(RunSpec, given, plain)
    return _run(spec.quick() if given["quick"] else spec, given)


def run_files(kind: StageKind, given: Given) -> int:
    """Run one stage on structure files."""
    from athanor.workflows.methods import stage_of
    from athanor.workflows.spec import RunSpec

    typed = {name: value for name, value in given.items() if value is not None and value is not False}
    stage = stage_of(kind, typed)
    return _run(spec_of(RunSpec, given, {"stages": [{kind.name: stage}]}), given)


def _run(spec: RunSpec, given: Given) -> int:
    from athanor.workflows.output import check_output
    from athanor.workflows.structures import load_sources

    screen = Screen(given["quiet"], given["json"])
    if spec.output is not None:
        check_output(spec.output, overwrite=given["overwrite"])
    systems = load_sources(spec.structures)
    if given["check"]:
        from athanor.cli.check import check_run

        return check_run(spec, systems, screen)
    from athanor.cli.table import print_result
    from athanor.workflows.run import run

    started, command = time.monotonic(), shlex.join(["athanor", *sys.argv[1:]])
    with warnings_as_lines(quiet=screen.quiet):
        result = run(spec, systems, overwrite=given["overwrite"], progress=not screen.quiet, command=command)
    seconds, code = time.monotonic() - started, exit_code(result, allow_failures=spec.allow_failures)
    if screen.as_json:
        print_json({"folder": result.folder and str(result.folder)} | document_of(result, seconds, code))
    elif screen.shows_tables:
        print_result(result.rows, result.folder, seconds, allow_failures=spec.allow_failures)
    if result.interrupted:
        print(printable(f"athanor: interrupted; what was done is in {result.folder}"), file=sys.stderr)
    return int(code)


def spec_of(kind: type[Spec], given: Given, plain: Given) -> Spec:
    """Return a description: a job, and what the options say about it."""
    from athanor.workflows.problems import Origin, as_argument, as_option
    from athanor.workflows.spec import validated

    if "files" in given:
        plain["structures"] = [{"file": file, "time": given["from_time"]} for file in given["files"]]
    for key in kind.model_fields:
        value = given.get(as_argument((key,)))
        if value is not None and value is not False and value != []:
            plain[key] = model_of(value) if key == "model" else value
    if given["model_option"]:
        plain["model"] = _with_arguments(plain.get("model"), given["model_option"])
    spec = validated(kind, plain, Origin(spell=as_option))
    if given["trust_model"] and spec.model is not None:
        from athanor.workflows.build import trusted

        spec = spec.model_copy(update={"model": trusted(spec.model)})
    return spec


def model_of(text: Any) -> Any:
    """Return a model as a job would hold it: a name, or what ``{name: ..., cutoff: ...}`` says."""
    from athanor.workflows.yaml_file import NotYamlError, parse_yaml, safe_loader

    if not isinstance(text, str) or not text.lstrip().startswith(("{", "[")):
        return text
    try:
        return parse_yaml(text, safe_loader())
    except NotYamlError as error:
        raise InputError(f"--model {text!r} is no mapping such as {{name: mace, dtype: float32}}{error}") from error


def _with_arguments(model: Any, options: Sequence[str]) -> Given:
    """Return a model as a job would name it, with ``KEY=VALUE`` arguments."""
    from athanor.workflows.spec import ModelSpec

    if model is None:
        raise InputError("--model-option needs --model: say which model it is for.")
    described = ModelSpec.model_validate(model)
    return {"name": described.name, "options": described.options | arguments_of(options)}


def arguments_of(options: Sequence[str]) -> Given:
    """Return what ``KEY=VALUE`` options say."""
    from athanor.workflows.yaml_file import NotYamlError, parse_yaml, safe_loader

    arguments = {}
    for option in options:
        key, separator, text = option.partition("=")
        if not separator or not key:
            raise InputError(f"--model-option {option!r} is not KEY=VALUE, for example `--model-option cutoff=8.5`.")
        try:
            arguments[key.strip().replace("-", "_")] = parse_yaml(text, safe_loader())
        except NotYamlError as error:
            raise InputError(f"--model-option {key}: the value is no single value of YAML{error}") from error
    return arguments
