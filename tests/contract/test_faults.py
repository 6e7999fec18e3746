"""``docs/faults.md`` says what is tested, and nothing else."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "faults.md"
NAME = re.compile(r"`(?:[\w/.]+::)?(test_\w+)`")


def names_in(*paths: Path) -> set[str]:
    """Names of the test functions in these files."""
    trees = (ast.parse(path.read_text(encoding="utf-8")) for path in paths)
    functions = (node for tree in trees for node in ast.walk(tree))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in functions if isinstance(node, kinds) and node.name.startswith("test_")}


def rows() -> list[list[str]]:
    """Cells of each row of the page's tables, without their heads."""
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in cells if row[0] != "case" and set(row[0]) != {"-"}]


def test_every_row_names_a_test_that_exists() -> None:
    """Four cells: the case, what its caller sees, what happens inside, and the tests that break it so."""
    known = names_in(*(ROOT / "tests").rglob("test_*.py"))
    for row in rows():
        assert len(row) == 4, row
        named = NAME.findall(row[3])
        assert named, f"no test: {row[0]}"
        assert set(named) <= known, f"{row[0]}: {set(named) - known}"


def test_every_fault_that_is_tested_is_on_the_page() -> None:
    """Whoever adds a test of a fault says there what it shows."""
    shown = set(NAME.findall(PAGE.read_text(encoding="utf-8")))
    assert names_in(*(ROOT / "tests" / "integration").glob("test_faults_*.py")) - shown == set()
