"""What a dialect is to the rest: its name, its routes, its error body."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from aiohttp import web

from lib.errors import ServiceError
from lib.jobs.model import Job, JobSpec


class Dialect(Protocol):
    """A foreign HTTP API that we speak. Routes are aiohttp route definitions; handlers only translate and wait."""

    @property
    def name(self) -> str: ...

    def routes(self) -> Sequence[web.RouteDef]: ...

    def render_error(self, error: ServiceError, request: web.Request) -> web.Response:
        """Turn an error into this API's own body; the status comes from ``serving.errors.status_of`` unless the
        published API fixes another one for that class."""
        ...


class PayloadDialect(Protocol):
    """The job format inside an envelope: Vast's ``payload`` is the API wrapper's request, its reply the wrapper's
    result. ``lib.app`` hands the wrapper to the Vast dialect as this, since dialects don't import each other."""

    @property
    def name(self) -> str: ...

    def parse(self, payload: Mapping[str, Any], headers: Mapping[str, str]) -> JobSpec:
        """Turn ``{"input": {...}}`` (already decoded and checked JSON) into a spec.

        Raises: InvalidRequest, InvalidWorkflow, UnsafeInput."""
        ...

    def wants_response(self, headers: Mapping[str, str]) -> bool:
        """Whether ``comfyui_response`` is to be filled."""
        ...

    def render(self, job: Job, *, include_response: bool) -> dict[str, Any]:
        """The result object of a job in any state."""
        ...

    def render_accepted(self, job: Job, *, base_url: str, job_token: str | None = None) -> dict[str, Any]:
        """The result object of a job that was just accepted, with where to ask for it (``base_url``:
        ``https://host:port``; the links carry ``job_token``), its expected start and duration."""
        ...

    async def stream(
        self, request: web.Request, job_id: str, *, include_response: bool, job_token: str | None = None
    ) -> web.StreamResponse:
        """Answer with the job's events (SSE) until its end; resumes after the request's ``Last-Event-ID``."""
        ...
