"""What a workflow endpoint is to those who serve it: a name, a document of its input, and a graph for each input."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import quote

from lib.errors import InvalidRequest
from lib.workflow.files import check_files
from lib.workflow.parameters import Options
from lib.workflow.template import Loc, Template

INPUT: Loc = ("input",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """A checked input and its graph. ``values``: as the endpoint understood them, defaults and drawn seeds included."""

    values: dict[str, Any]
    graph: dict[str, Any]


class Endpoint(Protocol):
    """A template that is mounted. ``name`` is its place in the folder: ``sdxl/txt2img``."""

    @property
    def name(self) -> str: ...

    @property
    def summary(self) -> str: ...

    @property
    def description(self) -> str: ...

    def schema(self, options: Options) -> dict[str, Any]:
        """Return the input's JSON schema (2020-12, without references: it may stand anywhere in a document)."""

    async def bind(self, values: object, *, options: Options, loc: Loc = INPUT) -> Bound:
        """Check an input and make its graph.

        Raises: InvalidRequest (each problem with its place in ``details["errors"]``, below ``loc``), InvalidWorkflow
        and UnsafeInput for a graph that can't run, Overloaded.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class DeclaredEndpoint:
    """A graph whose inputs are declared in a file beside it."""

    template: Template

    @property
    def name(self) -> str:
        return self.template.name

    @property
    def summary(self) -> str:
        return self.template.summary

    @property
    def description(self) -> str:
        return self.template.description

    def schema(self, options: Options) -> dict[str, Any]:
        return self.template.schema(options)

    async def bind(self, values: object, *, options: Options, loc: Loc = INPUT) -> Bound:
        checked = self.template.check(as_object(values, loc), options=options, loc=loc)
        graph = self.template.fill(checked)
        check_files(graph)  # all else was checked when the files were read; values are no links
        return Bound(values=checked, graph=graph)


def as_object(values: object, loc: Loc) -> Mapping[str, Any]:
    """Return an input that is an object. Raises: InvalidRequest."""
    if isinstance(values, dict):
        return values
    raise refusal([(loc, "must be an object")])


def refusal(problems: Iterable[tuple[Loc, str]], *, kind: str = "parameter") -> InvalidRequest:
    """Make an InvalidRequest of places and what is wrong there."""
    errors = [{"type": kind, "loc": list(loc), "msg": text} for loc, text in problems]
    message = "; ".join(f"{dotted(error['loc'])}: {error['msg']}" for error in errors)
    return InvalidRequest(message, details={"errors": errors})


def dotted(loc: Iterable[object]) -> str:
    """``input.loras.0.strength``."""
    return ".".join(map(str, loc))


def route_of(endpoint: Endpoint) -> str:
    """The endpoint's place in a URL, percent-encoded: ``sdxl/txt2img``."""
    return quote(endpoint.name, safe="/")
