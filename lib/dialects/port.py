"""What a dialect is to the rest: its name, its routes, its error body; and what it is given to plan deliveries with."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from aiohttp import web

from lib.errors import ServiceError
from lib.jobs.model import ConvertSpec, Job, JobSpec, PutTarget, S3Target, ThumbnailSpec, WebhookTarget

Block = Mapping[str, Any] | None
"""A part of a request as JSON; ``None`` without one. Empty strings in it mean "not given"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Planner:
    """Turns the blocks of a request into what is to be done with the outputs (``lib.delivery.plan``).

    Each raises InvalidRequest, with the place in ``details["errors"]``, or UnsafeInput.
    """

    s3: Callable[[Block], S3Target | None]
    webhooks: Callable[[Block, Sequence[Mapping[str, Any]]], tuple[WebhookTarget, ...]]
    """One block, which may fall back to the operator's own target, and a list of further ones."""
    put: Callable[[Block], PutTarget | None]
    """``{"urls": [...], "headers": {...}}``"""
    convert: Callable[[Block], ConvertSpec | None]
    thumbnail: Callable[[Block], ThumbnailSpec | None]


class Dialect(Protocol):
    """A foreign HTTP API that we speak. Routes are aiohttp route definitions; handlers only translate and wait."""

    @property
    def name(self) -> str: ...

    def routes(self) -> Sequence[web.RouteDef]: ...

    def render_error(self, error: ServiceError, request: web.Request) -> web.Response:
        """Turn an error into this API's own body; the status comes from ``serving.errors.status_of`` unless the
        published API fixes another one for that class."""
        ...


class JobDialect(Dialect, Protocol):
    """A dialect that answers about jobs. Paths that several dialects have (``/cancel/{job_id}``, ``/status/{job_id}``,
    ``/result/{job_id}``) are registered once, by ``lib.app``, which looks the job up and asks the dialect that made
    it; the primary dialect answers for a job that is not there."""

    async def show(self, request: web.Request, job: Job) -> web.StreamResponse:
        """Answer with the state of this job, after ``?wait=`` where this API has it."""
        ...

    async def cancel(self, request: web.Request, job: Job) -> web.StreamResponse:
        """Cancel this job, or say that it is over."""
        ...


class PayloadDialect(Protocol):
    """The job format inside an envelope: Vast's ``payload`` is the API wrapper's request, its reply the wrapper's
    result. ``lib.app`` hands the wrapper to the Vast dialect as this, since dialects don't import each other."""

    @property
    def name(self) -> str: ...

    def parse(self, payload: Mapping[str, Any], headers: Mapping[str, str]) -> JobSpec:
        """Turn ``{"input": {...}}`` (already decoded and checked JSON) into a spec. Owner, base URL and what a lost
        connection means are its caller's to fill.

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
        self,
        request: web.Request,
        job_id: str,
        *,
        include_response: bool,
        job_token: str | None = None,
        base_url: str | None = None,
    ) -> web.StreamResponse:
        """Answer with the job's events (SSE) until its end; resumes after the request's ``Last-Event-ID``. The links
        in the first event are as ``render_accepted``'s; without a ``base_url`` the request's own host.

        Raises: JobNotFound."""
        ...
