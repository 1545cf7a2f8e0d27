"""YAML files with the line of every key, so that a message can say where a mistake stands.

Safe loader only: tags that build objects are refused. A key that is there twice is refused too; plain YAML would drop
the first without a word. Numbers are those of YAML 1.2: in YAML 1.1, the frames ``1:30`` are the number 90.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from athanor.errors import InputError
from athanor.io.regular_file import read_regular

KeyPath = tuple[str | int, ...]
Lines = dict[KeyPath, int]
_INT, _FLOAT = "tag:yaml.org,2002:int", "tag:yaml.org,2002:float"
_DEEPEST, _MOST_VALUES = 100, 1_000_000
MOST_BYTES = 20_000_000
"""Of a job, or of a ``run.yaml``: a few thousand, and the name of every input file."""
_WHOLE = re.compile(r"[-+]?(0|[1-9][0-9_]*|0x[0-9a-fA-F]+)\Z")
_REAL = re.compile(
    r"([-+]?([0-9][0-9_]*\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))\Z"
)


@functools.cache
def safe_loader() -> Any:
    """Return the loader class of athanor, for `yaml.load`: safe, ``1e3`` is a number, ``1:30`` and ``010`` are text."""
    import yaml

    class Loader(yaml.SafeLoader):
        yaml_implicit_resolvers = {
            first: [entry for entry in entries if entry[0] not in (_INT, _FLOAT)]
            for first, entries in yaml.SafeLoader.yaml_implicit_resolvers.items()
        }

    Loader.add_implicit_resolver(_INT, _WHOLE, list("-+0123456789"))
    Loader.add_implicit_resolver(_FLOAT, _REAL, list("-+.0123456789"))
    return Loader


def read_yaml(file: Path) -> tuple[Any, Lines]:
    """Read one YAML document.

    Parameters
    ----------
    file
        Path, UTF-8 text.

    Returns
    -------
    content
        What the document holds.
    lines
        Line, counted from 1, of every key and list item, by its path from the top.

    Raises
    ------
    InputError
        If the file is missing, not text or not YAML, or has a key twice; the text has file, line and column.
    """
    if not file.is_file():
        raise InputError(f"`{file}` does not exist or is not a file. Pass the path of a YAML job.")
    try:
        text = read_regular(file, MOST_BYTES).decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"`{file}` is not text (UTF-8): {error.reason} at byte {error.start}.") from error
    except OSError as error:
        raise InputError(f"`{file}` can not be read: {error.strerror}.") from error
    lines: Lines = {}

    def note_lines(node: Any) -> None:
        lines.update(_lines_of(file, node))

    try:
        return parse_yaml(text, safe_loader(), note_lines), lines
    except NotYamlError as error:
        raise InputError(f"`{file}`{error}") from error.__cause__


class NotYamlError(ValueError):
    """Text is no YAML, or more than a person writes; the text says where and why."""


def parse_yaml(text: str, loader_class: Any, look: Callable[[Any], None] = lambda node: None) -> Any:
    """Return what one YAML document holds, in time and memory that its length bounds.

    Parameters
    ----------
    text
        The document.
    loader_class
        A safe loader of PyYAML.
    look
        Called with the tree of nodes, if there is one, before values are made of it.

    Raises
    ------
    NotYamlError
        If it is no YAML, nested too deeply, or grows without bound through references (``&a`` and ``*a``).
    """
    import yaml

    try:
        # events are read one by one; what builds a tree of them would end the process on a million open brackets
        depth = 0
        for event in yaml.parse(text, loader_class):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > _DEEPEST:
                where = "" if event.start_mark is None else f", line {event.start_mark.line + 1}"
                raise NotYamlError(f"{where}: nested too deeply, more than {_DEEPEST} levels.")
        loader = loader_class(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            values, levels = _weigh(node, {})
            if values > _MOST_VALUES or levels > _DEEPEST:
                raise NotYamlError(
                    f": references stand for more than {_MOST_VALUES:,} values or {_DEEPEST} levels. Write them out."
                )
            look(node)
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except (InputError, NotYamlError):
        raise
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = "" if mark is None else f", line {mark.line + 1}, column {mark.column + 1}"
        raise NotYamlError(f"{where}: not valid YAML: {error.problem or error}.") from error
    except yaml.reader.ReaderError as error:
        raise NotYamlError(f": it is not text: {str(error).splitlines()[0]}.") from error
    except (yaml.YAMLError, ValueError) as error:  # such as a date in month 13, or a number of 5,000 digits
        raise NotYamlError(f": not valid YAML: {str(error).splitlines()[0]:.200}.") from error


def _weigh(node: Any, known: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """Return how many values a node stands for, and in how many levels, references followed.

    `known` has what was found of other nodes, so that each is looked at once.
    """
    if id(node) not in known:
        known[id(node)] = 0, 0  # until it is known: whoever meets it on the way down is inside of it
        children = [] if node.id == "scalar" else node.value
        if node.id == "mapping":
            children = [part for pair in children for part in pair]
        weights = [_weigh(child, known) for child in children]
        known[id(node)] = 1 + sum(count for count, _ in weights), 1 + max((level for _, level in weights), default=0)
    if known[id(node)] == (0, 0):
        raise NotYamlError(f", line {node.start_mark.line + 1}: this refers to itself. Write out what it should hold.")
    return known[id(node)]


def _lines_of(file: Path, document: Any) -> Lines:
    """Return the line of every key and list item; each node once, so that aliases can not make it endless."""
    lines: Lines = {}
    seen: set[int] = set()

    def visit(node: Any, path: KeyPath) -> None:
        if id(node) in seen:
            return
        seen.add(id(node))
        if node.id == "sequence":
            for index, item in enumerate(node.value):
                lines[(*path, index)] = item.start_mark.line + 1
                visit(item, (*path, index))
        elif node.id == "mapping":
            first: dict[str, int] = {}
            for key, value in node.value:
                name, line = str(key.value), key.start_mark.line + 1
                if key.id == "scalar" and name in first:
                    raise InputError(
                        f"`{file}`, line {line}: `{name}` is there twice, first in line {first[name]}. "
                        f"Remove one of them."
                    )
                first[name] = lines[(*path, name)] = line
                visit(value, (*path, name))

    visit(document, ())
    return lines
