"""YAML with line numbers, so that a mistake is told where it is; keys that stand twice are mistakes."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

MAX_BYTES = 1 << 20
Path = tuple[str | int, ...]


class YamlProblem(ValueError):
    """What is wrong, and on which line."""

    def __init__(self, line: int, problem: str) -> None:
        super().__init__(f"line {line}: {problem}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Located:
    """A document and the line of each of its places."""

    value: Any
    lines: Mapping[Path, int]

    def line(self, path: Iterable[str | int]) -> int:
        """Return the line of a place, or of the nearest one above it that the document has."""
        place = tuple(path)
        while place and place not in self.lines:
            place = place[:-1]
        return self.lines.get(place, 1)


def read_yaml(data: bytes) -> Located:
    """Parse one document. Raises: YamlProblem."""
    if len(data) > MAX_BYTES:
        raise YamlProblem(1, f"the file has {len(data)} bytes, expected at most {MAX_BYTES}")
    try:
        loader = yaml.SafeLoader(data)
        node = loader.get_single_node()
        lines: dict[Path, int] = {}
        _walk(node, (), lines)
        value = loader.construct_document(node) if node is not None else None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise YamlProblem(mark.line + 1 if mark else 1, f"is not YAML: {error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        if isinstance(error, YamlProblem):
            raise
        raise YamlProblem(1, f"is not YAML: {error}") from None
    return Located(value=value, lines=lines)


def _walk(node: yaml.Node | None, path: Path, lines: dict[Path, int]) -> None:
    if node is None:
        return
    lines.setdefault(path, node.start_mark.line + 1)
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _walk(item, (*path, index), lines)
    elif isinstance(node, yaml.MappingNode):
        for key, item in node.value:
            _walk_entry(key, item, path, lines)


def _walk_entry(key: yaml.Node, item: yaml.Node, path: Path, lines: dict[Path, int]) -> None:
    if not isinstance(key, yaml.ScalarNode):
        raise YamlProblem(key.start_mark.line + 1, "a key is no plain text")
    if (place := (*path, key.value)) in lines:
        raise YamlProblem(key.start_mark.line + 1, f"{key.value} stands twice, first on line {lines[place]}")
    lines[place] = key.start_mark.line + 1
    _walk(item, place, lines)
