"""YAML, and on which line everything stands."""

import pytest

from lib.workflow.endpoints.located import MAX_BYTES, YamlProblem, read_yaml

TEXT = b"""\
# a comment
inputs:
  seed:
    type: integer
    targets:
      - 3.seed
      - "4.seed"
"""


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ((), 2),
        (("inputs",), 2),
        (("inputs", "seed", "type"), 4),
        (("inputs", "seed", "targets", 1), 7),
        (("inputs", "seed", "nothing", "at", "all"), 3),
        (("nothing",), 2),
    ],
)
def test_places_have_lines(path: tuple[str | int, ...], line: int) -> None:
    """What is missing is missing on the line of what it belongs to."""
    assert read_yaml(TEXT).line(path) == line


def test_values_are_yamls() -> None:
    """Texts, lists and mappings as they stand."""
    assert read_yaml(TEXT).value == {"inputs": {"seed": {"type": "integer", "targets": ["3.seed", "4.seed"]}}}
    assert read_yaml(b"").value is None


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"a: 1\nb: 2\na: 3\n", "line 3: a stands twice, first on line 1"),
        (b"a:\n  b: 1\n  b: 2\n", "line 3: b stands twice"),
        (b"a: [1\nb: 2", "line 2: is not YAML"),
        (b"a: b: c", "line 1: is not YAML"),
        (b"? [1, 2]\n: 3", "line 1: a key is no plain text"),
        (b"a: !!python/object:os.system x", "line 1: is not YAML"),
        (b"a: *nobody", "line 1: is not YAML"),
        (b"a: 1\n---\nb: 2\n", "line 2: is not YAML"),
        (b"\xff\xfe\x00", "is not YAML"),
        (b"a: 2026-99-99", "is not YAML"),
        (b"[" * 1500, "is not YAML"),
        (b"#" * (MAX_BYTES + 1), "expected at most"),
    ],
)
def test_mistakes_are_told_with_their_line(data: bytes, text: str) -> None:
    """Never with an exception of the parser's."""
    with pytest.raises(YamlProblem, match=text):
        read_yaml(data)
