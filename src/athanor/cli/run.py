"""What ``athanor run``, ``relax`` and ``md`` do, from options to an exit code; options as a description."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from athanor.cli.exit_codes import ExitCode
from athanor.cli.output import Screen, document_of, exit_code, print_json, warnings_as_lines
from athanor.errors import InputError
from athanor.workflows.folder import CHECKPOINTS, RUN
from athanor.workflows.readable import printable

if TYPE_CHECKING:
    from athanor.workflows.methods import StageKind
    from athanor.workflows.spec import CalculationSpec, RunSpec

    Spec = TypeVar("Spec", bound=CalculationSpec)

_WITH_RESUME = (
    "job", "files", "resume", "extend", "threads", "checkpoint", "time_limit", "status", "silence", "quiet", "json",
    "trust_model",
)  # fmt: skip
"""Options that decide nothing about what is computed."""
Given = dict[str, Any]
"""Options by name; None where one was left out."""


def run_job(given: Given) -> int:
    """Run a YAML job; options of the command line win over the job."""
    from athanor.workflows.spec import RunSpec, load_job

    _check_extends_what_is_there(given)
    job = given["job"]
    if given["resume"] and not job.is_file():
        return _resume(job, given)
    plain = load_job(job).to_job()
    plain.setdefault("output", f"{job.stem}-output")
    spec = spec_of(RunSpec, given, plain)
    return _run(spec.quick() if given["quick"] else spec, given)


def run_files(kind: StageKind, given: Given) -> int:
    """Run one stage on structure files."""
    from athanor.workflows.methods import stage_of
    from athanor.workflows.spec import RunSpec

    _check_extends_what_is_there(given)
    files = given["files"]
    if given["resume"] and given["out"] is None and len(files) == 1 and (Path(files[0]) / RUN).exists():
        return _resume(Path(files[0]), given)
    if given["out"] is None:
        raise InputError("`-o` is missing: say in which folder the results go, as in `-o results`.")
    typed = {name: value for name, value in given.items() if value is not None and value is not False}
    stage = stage_of(kind, typed)
    return _run(spec_of(RunSpec, given, {"stages": [{kind.name: stage}]}), given)


def _check_extends_what_is_there(given: Given) -> None:
    if given.get("extend") is not None and not given["resume"]:
        raise InputError("--extend makes a run longer that is in its folder already: `--resume OUT --extend 10ps`.")


def _resume(folder: Path, given: Given) -> int:
    """Go on with the run of a results folder."""
    from athanor.workflows.saved_record import read_record
    from athanor.workflows.spec import RunSpec, load_job

    others = [name for name, value in given.items() if value not in (None, False, []) and name not in _WITH_RESUME]
    if others:
        raise InputError(
            f"--{others[0].replace('_', '-')} decides what a run computes, and the one in `{folder}` was started with "
            f"what stands in its {RUN}. Leave it out, or start another run."
        )
    record = read_record(folder)
    if "model" not in record["job"] or "structures" not in record["job"]:
        raise InputError(
            f"The structures or the model of the run in `{folder}` came from Python. Go on there: call `athanor.relax` "
            f"or `athanor.md` as before, with `resume=True`."
        )
    plain = load_job(folder / RUN).to_job() | {"output": str(folder)}
    return _run(spec_of(RunSpec, {name: value for name, value in given.items() if name != "files"}, plain), given)


def _run(spec: RunSpec, given: Given) -> int:
    from athanor.workflows.output import check_output
    from athanor.workflows.saved_record import read_record, state_of
    from athanor.workflows.structures import load_sources

    screen = Screen(given["quiet"], given["json"])
    resumes = bool(given["resume"] and spec.output is not None and (Path(spec.output) / RUN).exists())
    extend = given.get("extend")
    if extend is None and resumes and state_of(read_record(Path(str(spec.output)))) == "finished":
        longer = "; --extend TIME makes it longer" if (Path(str(spec.output)) / CHECKPOINTS).exists() else ""
        text = f"athanor: the run in {spec.output} is finished; nothing is left to do{longer}"
        print(printable(text), file=sys.stderr)
        return int(ExitCode.DONE)
    if spec.output is not None and not resumes:
        check_output(spec.output, overwrite=given["overwrite"])
    systems = load_sources(spec.structures)
    if given["check"]:
        from athanor.cli.check import check_run

        return check_run(spec, systems, screen)
    from athanor.cli.table import print_result
    from athanor.workflows.run import run

    started, command = time.monotonic(), shlex.join(["athanor", *sys.argv[1:]])
    with warnings_as_lines(quiet=screen.quiet):
        result = run(
            spec,
            systems,
            overwrite=given["overwrite"],
            resume=resumes,
            extend=extend,
            progress=not screen.quiet,
            command=command,
        )
    seconds, code = time.monotonic() - started, exit_code(result, allow_failures=spec.allow_failures)
    if screen.as_json:
        print_json({"folder": result.folder and str(result.folder)} | document_of(result, seconds, code))
    elif screen.shows_tables:
        print_result(result.rows, result.folder, seconds, allow_failures=spec.allow_failures)
    if result.interrupted:
        why = "interrupted" if result.stopped_by in ("", "SIGINT") else f"stopped by {result.stopped_by}"
        how = "" if result.checkpoint is None else f"; to go on: athanor run --resume {shlex.quote(str(result.folder))}"
        print(printable(f"athanor: {why}; what was done is in {result.folder}{how}"), file=sys.stderr)
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
