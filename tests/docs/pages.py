"""Reads the documentation pages: fenced blocks with the marks before them, headings, links."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SKIPPED_FOLDERS = (".venv", ".comfyui", ".peers", "workspace", "var")
_FENCE = re.compile(r"^(\s*)```(\S*)\s*$")
_MARK = re.compile(r"^\s*<!-- (expect|not run|answer)(?:: (.+?))? -->\s*$")
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A fenced block. ``expected`` texts are in its output; ``not_run`` is the reason; ``answer`` describes the output
    of the block before it."""

    page: str
    line: int
    language: str
    text: str
    expected: tuple[str, ...] = ()
    not_run: str | None = None
    answer: bool = False

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"


def pages() -> list[Path]:
    """All Markdown files that people read here."""
    found = (path for path in ROOT.rglob("*.md") if path.relative_to(ROOT).parts[0] not in SKIPPED_FOLDERS)
    return sorted(path for path in found if not any(part.startswith(".") for part in path.relative_to(ROOT).parts))


def blocks(path: Path) -> Iterator[Block]:
    """The fenced blocks of a page, in order."""
    lines = iter(enumerate(path.read_text(encoding="utf-8").splitlines(), start=1))
    marks: list[tuple[str, str]] = []
    for number, line in lines:
        if mark := _MARK.match(line):
            marks.append((mark[1], mark[2] or ""))
        elif fence := _FENCE.match(line):
            body = []
            for _, inside in lines:
                if inside.strip() == "```":
                    break
                body.append(inside.removeprefix(fence[1]))
            yield Block(
                page=str(path.relative_to(ROOT)),
                line=number,
                language=fence[2],
                text="\n".join(body) + "\n",
                expected=tuple(text for kind, text in marks if kind == "expect"),
                not_run=next((text for kind, text in marks if kind == "not run"), None),
                answer=any(kind == "answer" for kind, _ in marks),
            )
            marks = []
        elif line.strip():
            marks = []


def links(path: Path) -> Iterator[str]:
    """Targets of links that stay in this repository: ``file``, ``file#heading``, ``#heading``."""
    text = re.sub(r"^\s*```.*?^\s*```", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in _LINK.findall(text):
        if not re.match(r"[a-z]+:", target):
            yield target


def anchors(path: Path) -> set[str]:
    """Headings as GitHub names them in links."""
    text = re.sub(r"^\s*```.*?^\s*```", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#{1,6} (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
