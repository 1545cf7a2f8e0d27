"""Behind ``athanor run``, ``relax`` and ``md``: arguments to a description, a run, a table, an exit code."""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path
from typing import Any

from athanor.cli.exit_codes import ExitCode
from athanor.errors import InputError


def run_job(
    job: Path,
    quick: bool,
    out: Path | None,
    model: str | None,
    model_options: list[str],
    changes: dict[str, Any],
    overwrite: bool,
    quiet: bool,
) -> int:
    """Run a YAML job; options of the command line win over the job."""
    from athanor.workflows.spec import load_job, make_spec
    from athanor.workflows.structures import load_sources

    spec = load_job(job)
    plain = spec.to_job() | {key: value for key, value in changes.items() if value is not None}
    plain["output"] = str(out or spec.output or f"{job.stem}-output")
    chosen = _model(model, model_options, plain.get("model"))
    spec = make_spec(plain | ({"model": chosen} if chosen is not None else {}))
    if quick:
        spec = spec.quick()
    return _run(spec, lambda: load_sources(spec.structures), overwrite, quiet)


def run_files(
    files: list[str],
    stage: dict[str, Any],
    model: str | None,
    model_options: list[str],
    out: Path,
    settings: dict[str, Any],
    overwrite: bool,
    quiet: bool,
) -> int:
    """Run one stage on structure files."""
    from athanor.workflows.spec import make_spec
    from athanor.workflows.structures import load_sources

    plain = {key: value for key, value in settings.items() if value is not None}
    plain |= {"stages": [stage], "structures": [{"file": file} for file in files], "output": str(out)}
    chosen = _model(model, model_options, None)
    spec = make_spec(plain | ({"model": chosen} if chosen is not None else {}))
    return _run(spec, lambda: load_sources(spec.structures), overwrite, quiet)


def _run(spec: Any, load: Any, overwrite: bool, quiet: bool) -> int:
    from athanor.workflows.output import check_output

    check_output(spec.output, overwrite=overwrite)
    systems = load()
    from athanor.cli.table import print_result
    from athanor.workflows.run import run

    started = time.monotonic()
    command = shlex.join(["athanor", *sys.argv[1:]])
    result = run(spec, systems, overwrite=overwrite, progress=not quiet, command=command)
    if not quiet:
        print_result(result.rows, result.folder, time.monotonic() - started, allow_failures=spec.allow_failures)
    if result.interrupted:
        print(f"athanor: interrupted; what was done is in {result.folder}", file=sys.stderr)
        return int(ExitCode.INTERRUPTED)
    if result.failed and not spec.allow_failures:
        return int(ExitCode.SOME_FAILED)
    return int(ExitCode.DONE)


def _model(name: str | None, options: list[str], from_job: Any) -> Any:
    """Return the model as a job would name it; None leaves the choice to the default."""
    if name is None and not options:
        return None
    import yaml

    base = from_job if name is None else name
    if base is None:
        raise InputError("--model-option needs --model: say which model it is for.")
    described = {"name": base} if isinstance(base, str) else dict(base)
    for option in options:
        key, separator, text = option.partition("=")
        if not separator or not key:
            raise InputError(f"--model-option {option!r} is not KEY=VALUE, for example `--model-option cutoff=8.5`.")
        described[key.strip().replace("-", "_")] = yaml.safe_load(text)
    return described
