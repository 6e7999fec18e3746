"""The in-memory job store: bounded in count and age. Forgets at exit (a durable store implements the same port)."""

import json
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import orjson

from lib.clock import Clock
from lib.jobs.model import Job, OutboxItem


class MemoryJobStore:
    """Keeps live jobs, and finished ones for ``ttl_s`` seconds, ``max_results`` of them at most.

    ComfyUI's response of a finished job is kept as JSON: as objects a thousand graphs take 90 MB, and the garbage
    collector's time.
    """

    def __init__(self, *, clock: Clock, ttl_s: float, max_results: int) -> None:
        self._clock = clock
        self._ttl_s = ttl_s
        self._max_results = max_results
        self._jobs: dict[str, Job] = {}
        self._latest: dict[str, str] = {}
        self._finished: OrderedDict[str, float] = OrderedDict()
        self._responses: dict[str, bytes] = {}

    async def add(self, job: Job) -> None:
        self._jobs[job.job_id] = job
        self._latest[job.spec.request_id] = job.job_id

    def update(self, job: Job, outbox: tuple[OutboxItem, ...] = ()) -> None:
        self._jobs[job.job_id] = job

    async def finish(self, job: Job, outbox: tuple[OutboxItem, ...] = ()) -> None:
        self._jobs[job.job_id] = job.with_(response={})
        if job.response:
            self._responses[job.job_id] = _packed(job.response)
        self._finished[job.job_id] = self._clock.monotonic() + self._ttl_s
        self._expire()

    async def get(self, job_id: str) -> Job | None:
        self._expire()
        job = self._jobs.get(job_id)
        packed = self._responses.get(job_id)
        return job if job is None or packed is None else job.with_(response=_unpacked(packed))

    async def latest(self, request_id: str) -> Job | None:
        return await self.get(self._latest.get(request_id, ""))

    def _expire(self) -> None:
        now = self._clock.monotonic()
        while self._finished:
            job_id, deadline = next(iter(self._finished.items()))
            if deadline > now and len(self._finished) <= self._max_results:
                return
            del self._finished[job_id]
            self._responses.pop(job_id, None)
            job = self._jobs.pop(job_id)
            if self._latest.get(job.spec.request_id) == job_id:
                del self._latest[job.spec.request_id]


def _packed(response: Mapping[str, Any]) -> bytes:
    try:
        return orjson.dumps(response)
    except TypeError:  # lone surrogates, integers beyond 64 bits
        return json.dumps(response, default=str).encode()


def _unpacked(packed: bytes) -> Mapping[str, Any]:
    response: Mapping[str, Any]
    try:
        response = orjson.loads(packed)
    except orjson.JSONDecodeError:
        response = json.loads(packed)
    return response
