"""What we promise, what was found, and how a page keeps it. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
"""Between these a page keeps the tables of the last run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One promise; ``met`` is None where nothing was measured."""

    what: str
    promise: str
    found: str
    met: bool | None


def at_most(what: str, value: float | None, limit: float, unit: str, *, digits: int | None = None) -> Target:
    """A promise that a figure stays at or below ``limit``; two digits for ms, none for the rest, unless said."""
    places = digits if digits is not None else 2 if unit == "ms" else 0
    found = "not measured" if value is None else f"{value:.{places}f} {unit}"
    return Target(what=what, promise=f"<= {limit:g} {unit}", found=found, met=None if value is None else value <= limit)


def at_least(what: str, value: float | None, limit: float) -> Target:
    """A promise that a throughput stays at or above ``limit`` times raw ComfyUI's."""
    found = "not measured" if value is None else f"{value:.3f} x raw"
    return Target(what=what, promise=f">= {limit:g} x raw", found=found, met=None if value is None else value >= limit)


def target_rows(found: Sequence[Target]) -> Iterator[str]:
    """The promises as a Markdown table."""
    yield "| target | promised | found | |"
    yield "| --- | --- | --- | --- |"
    for target in found:
        verdict = {True: "met", False: "**MISSED**", None: "**not measured**"}[target.met]
        yield f"| {target.what} | {target.promise} | {target.found} | {verdict} |"


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> Iterator[str]:
    """Lines of a Markdown table."""
    yield "| " + " | ".join(head) + " |"
    yield "| --- " * len(head) + "|"
    for row in rows:
        yield "| " + " | ".join(map(str, row)) + " |"


def new_page(command: str) -> str:
    """A page that nobody has written yet: what it measures, and room for its tables."""
    how = "How to read it: [README.md](README.md). `--page` keeps a run's figures, on a machine that does nothing else."
    return f"# `python -m benchmark {command}`\n\n{how}\n\n{BEGIN}\n{END}\n"


def with_tables(page: str, tables: str) -> str:
    """The page with new tables between its markers. Raises ValueError when it has none."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page lacks its markers {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{tables}\n{END}{after}"
