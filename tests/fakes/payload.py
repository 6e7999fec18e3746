"""The smallest job format, for envelopes: ``{"input": {"workflow_json": {...}, "request_id": "..."}}``."""

import hashlib
import threading
import uuid
from collections.abc import Mapping
from typing import Any

import orjson
from aiohttp import web

from lib.errors import InvalidRequest, InvalidWorkflow
from lib.jobs.model import Job, JobSpec
from lib.jobs.service import JobService


class PlainPayload:
    """Implements ``lib.dialects.port.PayloadDialect``."""

    name = "plain"

    def __init__(self) -> None:
        self.jobs: JobService
        """Set before the first stream."""
        self.threads: list[threading.Thread] = []
        """Where each request was translated."""

    def parse(self, payload: Mapping[str, Any], headers: Mapping[str, str]) -> JobSpec:
        self.threads.append(threading.current_thread())
        asked = payload.get("input")
        if not isinstance(asked, dict):
            raise InvalidRequest("input is missing", details={"errors": [{"loc": ["input"], "msg": "Field required"}]})
        workflow = asked.get("workflow_json")
        if not isinstance(workflow, dict) or not workflow:
            raise InvalidWorkflow("the workflow is empty", details={"node_errors": {}})
        return JobSpec(
            request_id=str(asked.get("request_id") or uuid.uuid4()),
            dialect=self.name,
            workflow=orjson.dumps(workflow),
            body_hash=hashlib.sha256(orjson.dumps(payload)).hexdigest(),
            cost=asked.get("cost"),
        )

    def wants_response(self, headers: Mapping[str, str]) -> bool:
        return headers.get("X-Include-ComfyUI-Response", "true") != "false"

    def render(self, job: Job, *, include_response: bool) -> dict[str, Any]:
        return {
            "id": job.spec.request_id,
            "status": str(job.status),
            "message": job.message,
            "comfyui_response": dict(job.response) if include_response else {},
            "output": [{"filename": output.filename} for output in job.outputs],
        }

    def render_accepted(self, job: Job, *, base_url: str, job_token: str | None = None) -> dict[str, Any]:
        result = self.render(job, include_response=False)
        return result | {"job_id": job.job_id, "base_url": base_url}

    async def stream(
        self,
        request: web.Request,
        job_id: str,
        *,
        include_response: bool,
        job_token: str | None = None,
        base_url: str | None = None,
    ) -> web.StreamResponse:
        """One line of text at once, another at the job's end."""
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        await response.prepare(request)
        await response.write(f"{job_id} {job_token} {base_url}\n".encode())
        async for view in self.jobs.watch(job_id):
            if view.job.status.terminal:
                await response.write(f"{view.job.status}\n".encode())
        return response
