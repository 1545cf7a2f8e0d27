"""Run the code blocks of the pages, and write down what they print.

    python docs/blocks.py            write the output blocks of every page anew
    python docs/blocks.py docs/faq.md

A page is one session in an empty folder, from its first block to its last:

* a block of ``python`` is executed;
* a block of ``bash`` holds ``athanor`` commands, which are called in this process, and ``ls``, ``cat`` or ``head``;
  a comment ``# exit code 65`` behind a command says how it ends, otherwise it must end with 0;
* a ``{code-block}`` with a caption is written to the file of that name;
* a block of ``text`` directly below is what the block above it prints, and the tests compare it; with the comment
  ``<!-- of one machine -->`` between the two, its figures hang on the last bit of the arithmetic, and form and range of
  them are compared;
* a picture of the page that the session makes, such as a plot, is copied beside the page.

Seconds, dates, versions and the like differ from run to run: `NORMALISE` lists what is not compared.
"""

from __future__ import annotations

import contextlib
import glob
import io
import math
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted(page for page in (ROOT / "docs").rglob("*.md") if "_build" not in page.parts)]

NORMALISE = {
    r"\s+": " ",
    r"\d+ min \d+(\.\d+)? s|\d+(\.\d+)? (s|ms|µs)\b": "SECONDS",
    r"\d+(\.\d+)? (bytes|[kMG]i?B)\b": "SIZE",
    r"\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}(:\d{2})?(\.\d+)?(Z|[+-]\d{2}:?\d{2})?": "DATE",
    r"(athanor|torch|ase|numpy|chgnet) \d+\.[\w.+]+": r"\1 VERSION",
    r"\d+ timed steps?": "TIMED",
    r"0\.0e\+00|\d\.\de-(0[6-9]|[12]\d)": "ROUNDING",
    r"bits in any batch not claimed .*?(?=subsets)": "BITS ",
    r"[-─━═]{3,}": "RULE",
}
"""What differs between two runs or two machines -> what it is compared as."""

TERMINAL = {"COLUMNS": "100", "NO_COLOR": "1", "OMP_NUM_THREADS": "1"}
"""Environment in which the output of the pages is made."""

NUMBER = re.compile(r"(?<![\w.])[+-]?\d+\.\d+(?:e[+-]?\d+)?|\b\d+(?= K\b)")
COUNT = re.compile(r"(?<![\w.])\d+(?![\w.])")
MEAN = re.compile(r"(\d+) ± +(\d+)")
"""What is compared as a number: with a decimal point, or a temperature. Counts must be equal.

Of one machine are figures whose counts are within a third and whose decimals are within `RANGE` of those of another.
"""
RANGE = 0.05

_MARK = "<!-- of one machine -->"
_BLOCK = re.compile(
    r"^```(?P<language>\w+)\n(?P<code>.*?)^```\n"
    rf"(?:\n(?P<mark>{_MARK}\n\n)?```text\n(?P<output>.*?)^```\n)?",
    re.M | re.S,
)
_FILE = re.compile(r"^```\{code-block\} \w+\n:caption: (?P<name>\S+)\n\n(?P<code>.*?)^```\n", re.M | re.S)


@dataclass
class Block:
    """One block of a page: its code, where it stands, and the output printed below it, if there is one."""

    kind: str
    code: str
    line: int
    output: str | None = None
    span: tuple[int, int] = (0, 0)
    name: str = ""
    of_one_machine: bool = False


def blocks(text: str) -> list[Block]:
    """Return what a page runs or writes, in order."""
    found = []
    for match in _BLOCK.finditer(text):
        if match["language"] in ("python", "bash"):
            line = text.count("\n", 0, match.start()) + 1
            output = {"output": match["output"], "span": match.span("output"), "of_one_machine": bool(match["mark"])}
            found.append(Block(match["language"], match["code"], line, **output))
    for match in _FILE.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        found.append(Block("file", match["code"], line, name=match["name"]))
    return sorted(found, key=lambda block: block.line)


def run_page(page: Path, folder: Path) -> Iterator[tuple[Block, str]]:
    """Run the blocks of `page` in `folder`, and give each with what it printed."""
    namespace: dict[str, object] = {"__name__": f"docs.{page.stem}"}
    text, before, arguments = page.read_text(encoding="utf-8"), Path.cwd(), sys.argv
    if " examples/" in text:
        (folder / "examples").symlink_to(ROOT / "examples")
    sys.path.insert(0, str(folder))
    os.chdir(folder)
    try:
        for block in blocks(text):
            printed = io.StringIO()
            try:
                with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
                    _run_block(block, page, namespace)
            except Exception as error:
                raise AssertionError(f"{page.name}:{block.line}: {error!r}\n{printed.getvalue()}") from error
            yield block, printed.getvalue()
    finally:
        os.chdir(before)
        sys.argv = arguments
        sys.path.remove(str(folder))
        for name, module in list(sys.modules.items()):
            if str(getattr(module, "__file__", None)).startswith(str(folder)):
                del sys.modules[name]


def _run_block(block: Block, page: Path, namespace: dict[str, object]) -> None:
    if block.kind == "file":
        Path(block.name).parent.mkdir(parents=True, exist_ok=True)
        Path(block.name).write_text(block.code, encoding="utf-8")
    elif block.kind == "python":
        exec(compile("\n" * block.line + block.code, str(page), "exec"), namespace)
    else:
        _run_commands(block.code)


def _run_commands(code: str) -> None:
    from athanor.cli.main import call

    if re.search(r" &$", code, re.M):  # a program in the background is one of its own
        _run_in_shell(code)
        return
    lines = [line for line in code.replace("\\\n", " ").splitlines() if line.strip() and not line.startswith("#")]
    assert lines, "an empty block of bash"
    for line in lines:
        words = [name for word in shlex.split(line, comments=True) for name in sorted(glob.glob(word)) or [word]]
        wanted = int((re.findall(r"# exit code (\d+)", line) or [0])[0])
        if words[0] == "athanor":
            sys.argv = words  # a run writes down the command that made it
            ended = call(words[1:])
        else:
            assert words[0] in ("ls", "cat", "head"), f"`{words[0]}` does not belong into a block of bash: {line}"
            done = subprocess.run(words, capture_output=True, encoding="utf-8", check=False)
            print(done.stdout + done.stderr, end="")
            ended = done.returncode
        assert ended == wanted, f"`{line.strip()}` ended with {ended}"


def _run_in_shell(code: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        command = Path(folder) / "athanor"
        command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m athanor "$@"\n', encoding="utf-8")
        command.chmod(0o700)
        paths = os.environ | {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
        shell = ["bash", "-c", code]
        done = subprocess.run(shell, env=paths, capture_output=True, encoding="utf-8", check=False, timeout=300)
    print(done.stdout, end="")
    assert done.returncode == 0, f"a block of bash ended with {done.returncode}: {done.stderr}"


def difference(shown: str, printed: str, *, of_one_machine: bool = False) -> str:
    """Return how the output on the page differs from the real one, or nothing.

    Words must agree once `NORMALISE` is applied, numbers to two units of the last digit shown; `of_one_machine`, counts
    to a third and numbers to `RANGE`. A mean with its error, ``253 ± 19``, is that of a path that hangs on the last bit
    of the arithmetic, and differs between machines as two samples do: it must agree within five standard errors.
    """
    rules = [(MEAN, _far_mean), (NUMBER, partial(_far_number, least=RANGE if of_one_machine else 0.0))]
    if of_one_machine:
        rules.append((COUNT, _far_count))
    one, other = _normal(shown), _normal(printed)
    for pattern, is_far in rules:
        for first, second in zip(pattern.finditer(one), pattern.finditer(other), strict=False):
            if is_far(first, second):
                return f"the page shows {first[0]} and the real output is {second[0]} in\n{printed}"
        one, other = pattern.sub("FIGURE", one), pattern.sub("FIGURE", other)
    return "" if one == other else f"the page shows\n{shown}\nand the real output is\n{printed}"


def _far_mean(first: re.Match[str], second: re.Match[str]) -> bool:
    return abs(float(first[1]) - float(second[1])) > 5.0 * math.hypot(float(first[2]), float(second[2]))


def _far_number(first: re.Match[str], second: re.Match[str], least: float) -> bool:
    digits, _, exponent = first[0].lower().partition("e")
    unit = 10.0 ** (int(exponent or 0) - len(digits.partition(".")[2]))
    return abs(float(first[0]) - float(second[0])) > max(2.0001 * unit, least)


def _far_count(first: re.Match[str], second: re.Match[str]) -> bool:
    return abs(int(first[0]) - int(second[0])) > max(1, int(first[0]) // 3)


def same(block: Block, printed: str) -> bool:
    """Return whether a block prints what the page shows."""
    return not difference(block.output or "", printed, of_one_machine=block.of_one_machine)


def _normal(text: str) -> str:
    for pattern, replacement in NORMALISE.items():
        text = re.sub(pattern, replacement, text)
    return text.strip()


def _tidy(printed: str) -> str:
    return "\n".join(line.rstrip() for line in printed.strip("\n").splitlines()) + "\n"


def rewrite(page: Path, folder: Path) -> bool:
    """Write the real output into the output blocks of `page`; return whether anything changed."""
    text = page.read_text(encoding="utf-8")
    new, end = "", 0
    for block, printed in run_page(page, folder):
        if block.output is not None:
            new += text[end : block.span[0]] + (block.output if same(block, printed) else _tidy(printed))
            end = block.span[1]
    new += text[end:]
    for name in re.findall(r"!\[[^\]]*\]\((.+\.png)\)", text):
        if (folder / name).exists():
            shutil.copy(folder / name, page.parent / name)
    page.write_text(new, encoding="utf-8")
    return new != text


def main() -> None:
    """Rewrite the pages named on the command line, or all that show output."""
    os.environ.update(TERMINAL)
    named = [Path(name).resolve() for name in sys.argv[1:]]
    for page in named or [page for page in PAGES if any(b.output is not None for b in blocks(page.read_text("utf-8")))]:
        with tempfile.TemporaryDirectory() as folder:
            changed = rewrite(page, Path(folder).resolve())
        print(f"{page.relative_to(ROOT)}: {'written anew' if changed else 'as it was'}")


if __name__ == "__main__":
    main()
