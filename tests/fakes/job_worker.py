"""A worker that keeps jobs, behind the relay's contract: asynchronous routes of the wrapper, RunPod and Salad, one job
at a time, each by name, number and idempotency key. Standalone (``python -m tests.fakes.job_worker``) it reports to
routers, and dies with all its memory.

A workflow is ``{"1": {"class_type": "Fake", "inputs": {"text": ..., "seconds": ..., "fails": ..., "again": ...}}}``: it
makes ``text``, or fails (``again``: another worker may do better). ``hold``ing, nothing ends.
"""

import argparse
import asyncio
import json
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from lib.lifecycle import Tasks
from lib.serving.payloads import json_response
from tests.fakes.relay_worker import RelayWorker, relay_worker

DIALECTS = {"wrapper": "completed", "salad": "completed", "runpod": "COMPLETED"}
REPORT_S = 0.25


def workflow(text: str, **inputs: Any) -> dict[str, Any]:
    """What makes ``text``."""
    return {"1": {"class_type": "Fake", "inputs": {"text": text, **inputs}}}


@dataclass
class Kept:
    """One job."""

    job_id: str
    name: str
    dialect: str
    owner: str
    number: int
    key: str
    body: bytes
    inputs: dict[str, Any]
    over: asyncio.Event = field(default_factory=asyncio.Event)
    state: str = "queued"
    began_at: float = field(default_factory=time.time)

    @property
    def is_live(self) -> bool:
        return not self.over.is_set()


class JobBook:
    """A ``Behaviour``. ``done`` has the text of each execution that ended, ``refuse`` a status for new jobs."""

    def __init__(self, tasks: Tasks, *, journal: Path | None = None) -> None:
        self.worker: RelayWorker
        self.jobs: dict[str, Kept] = {}
        self.done: list[str] = []
        self.cancelled: list[str] = []
        self.refuse = 0
        self.strict = True
        self.let = asyncio.Event()
        self.let.set()
        self.changed = asyncio.Event()
        self._tasks = tasks
        self._journal = journal
        self._lane = asyncio.Lock()
        self.ended: list[int] = []

    @property
    def working(self) -> list[int]:
        return [job.number for job in self.jobs.values() if job.is_live and job.number]

    def hold(self) -> None:
        """Let nothing end from now on."""
        self.let.clear()

    def forget(self) -> None:
        """As if the process had been started anew, without its memory."""
        self.jobs.clear()

    async def __call__(self, request: web.Request, body: bytes) -> web.StreamResponse:
        ticket = self.worker.heard[-1].ticket
        path = "/" + request.match_info["path"]
        owner, number = (ticket.sub, ticket.request_idx) if ticket is not None else ("", 0)
        match path.split("/")[1:]:
            case ["generate"]:
                return await self._submit(request, "wrapper", body, owner, number)
            case ["v2", _, "run"]:
                return await self._submit(request, "runpod", body, owner, number)
            case ["prompt"]:
                return await self._submit(request, "salad", body, owner, number)
            case ["result", name] | ["v2", _, "status-sync" | "status" | "stream", name]:
                return await self._show(request, name, owner, stream="/stream/" in path)
            case ["cancel", name] | ["v2", _, "cancel", name]:
                return self._cancel(name, owner)
        return json_response({"error": "not_found"}, status=404)

    # -- routes -------------------------------------------------------------------------------------------------------

    async def _submit(
        self, request: web.Request, dialect: str, body: bytes, owner: str, number: int
    ) -> web.StreamResponse:
        if self.refuse:
            return json_response({"error": "overloaded", "message": "full"}, status=self.refuse)
        asked = json.loads(body)
        fields = asked if dialect == "salad" else asked["input"]
        graph = fields.get({"salad": "prompt", "runpod": "workflow"}.get(dialect, "workflow_json")) or {}
        if "1" not in graph:
            return json_response({"detail": [], "error": "invalid_request", "message": "no node 1"}, status=422)
        key = request.headers.get("Idempotency-Key", "") if dialect == "wrapper" else ""
        known = self._known(owner, key=key, number=number, body=body)
        if known is not None and key and known.key == key and known.is_live:
            details = {"job_id": known.job_id, "request_id": known.name}
            return json_response({"error": "job_conflict", "message": "live", "details": details}, status=409)
        job = known or self._begin(dialect, fields, graph, body=body, owner=owner, number=number, key=key)
        told = {"id": job.name, "status": "IN_QUEUE" if dialect == "runpod" else "pending"}
        if dialect == "wrapper":
            told["job_id"] = job.job_id
        if dialect == "salad":
            told = {"id": job.name, "status": "ok", "prompt": graph}
        return json_response(told, status=200 if dialect == "runpod" else 202)

    async def _show(self, request: web.Request, name: str, owner: str, *, stream: bool) -> web.StreamResponse:
        job = self._find(name, owner)
        if job is None:
            return json_response({"error": "job_not_found", "status": "failed", "id": name}, status=404)
        wait_s = float(request.query.get("wait", 0)) / (1000 if job.dialect == "runpod" else 1)
        if wait_s and not stream:
            try:
                async with asyncio.timeout(wait_s):
                    await job.over.wait()
            except TimeoutError:
                pass
        status, told = self._answer(job)
        if stream:
            told = {"id": job.name, "status": told["status"], "stream": [{"output": {"percent": 50}}]}
        return json_response(told, status=status)

    def _cancel(self, name: str, owner: str) -> web.StreamResponse:
        job = self._find(name, owner)
        if job is None:
            return json_response({"error": "unknown"}, status=404)
        if job.is_live:
            self.cancelled.append(job.name)
            self._end(job, "cancelled")
        return json_response({"message": "ok", "status": "cancelled"})

    # -- jobs ---------------------------------------------------------------------------------------------------------

    def _known(self, owner: str, *, key: str, number: int, body: bytes) -> Kept | None:
        mine = [job for job in self.jobs.values() if job.owner == owner]
        by_key = next((job for job in mine if key and job.key == key), None)
        return by_key or next((job for job in mine if number and job.number == number and job.body == body
                               and (job.is_live or job.state == "completed")), None)  # fmt: skip

    def _find(self, name: str, owner: str) -> Kept | None:
        mine = [job for job in self.jobs.values() if job.owner == owner and name in (job.job_id, job.name)]
        return mine[-1] if mine else None

    def _begin(self, dialect: str, fields: dict[str, Any], graph: dict[str, Any], **about: Any) -> Kept:
        name = {"wrapper": fields.get("request_id"), "salad": fields.get("id")}.get(dialect) or f"{uuid.uuid4()}-u1"
        job = Kept(job_id=str(uuid.uuid4()), name=name, dialect=dialect, inputs=graph["1"]["inputs"], **about)
        self.jobs[job.job_id] = job
        self._tasks.spawn(self._execute(job), name=f"execute {name}")
        self._tell()
        return job

    async def _execute(self, job: Kept) -> None:
        async with self._lane:
            if not job.is_live:
                return
            job.state = "running"
            await asyncio.sleep(float(job.inputs.get("seconds", 0)))
            await self.let.wait()
            if job.is_live and job.job_id in self.jobs:
                self._write_down(str(job.inputs.get("text")))
                self._end(job, "failed" if job.inputs.get("fails") else "completed")

    def _write_down(self, text: str) -> None:
        self.done.append(text)
        if self._journal is not None:
            with self._journal.open("a") as file:
                file.write(f"{text}\n")

    def _end(self, job: Kept, state: str) -> None:
        job.state = state
        job.over.set()
        self.ended.append(job.number)
        self._tell()

    def _tell(self) -> None:
        changed, self.changed = self.changed, asyncio.Event()
        changed.set()

    def _answer(self, job: Kept) -> tuple[int, dict[str, Any]]:
        text, again = job.inputs.get("text"), bool(job.inputs.get("again"))
        if job.dialect == "runpod":
            words = {"queued": "IN_QUEUE", "running": "IN_PROGRESS"}
            told: dict[str, Any] = {"id": job.name, "status": words.get(job.state, job.state.upper())}
            told |= {"delayTime": 5, "executionTime": 40, "workerId": "w"} if job.state != "queued" else {}
            if job.state == "completed":
                told["output"] = {"images": [{"filename": "a.png", "type": "base64", "data": text}]}
            if job.state == "failed":
                told |= {"error": "it failed", "output": {"details": ["it failed"], "retryable": again}}
            return 200, told
        status = {"failed": 500, "cancelled": 499}.get(job.state, 200)
        trouble = {"error": "execution_failed", "message": "it failed", "retryable": again}
        if job.dialect == "salad":
            made = {"images": [text], "filenames": ["a.png"], "stats": {}} if job.state == "completed" else {}
            return status, {"id": job.name, **made, **(trouble if job.state == "failed" else {}), "status": job.state}
        state = {"queued": "pending", "running": "generating"}.get(job.state, job.state)
        told = {"id": job.name, "message": f"it is {state}", "status": state, "comfyui_response": {"prompt": 1}}
        told |= {"output": [{"text": text}] if job.state == "completed" else [], "timings": {"generation_ms": 40}}
        return status, told | (trouble if job.state == "failed" else {})


# -- a process of its own ---------------------------------------------------------------------------------------------


class Reporting:
    """Tells routers what a worker does, as ours does: at once when something changed, and now and then."""

    def __init__(self, book: JobBook, *, routers: list[str], token: str, http: aiohttp.ClientSession) -> None:
        self._book = book
        self._routers = routers
        self._token = token
        self._http = http

    async def run(self) -> None:
        """For ever."""
        while True:
            working, ended = self._book.working, self._book.ended[:]
            del self._book.ended[: len(ended)]
            for router in self._routers:
                await self._tell(router, working, ended)
            try:
                async with asyncio.timeout(REPORT_S):
                    await self._book.changed.wait()
            except TimeoutError:
                pass

    async def _tell(self, router: str, working: list[int], ended: list[int]) -> None:
        worker = self._book.worker
        report = worker.report(
            mtoken=self._token,
            slots=2,
            engines=1,
            cur_load=100.0 * len(working),
            num_requests_working=len(working),
            working_request_idxs=working,
        )
        gone = {
            "worker_id": worker.number,
            "mtoken": self._token,
            "requests": [{"request_idx": one, "success": True, "status": "Success"} for one in ended],
        }
        try:
            if ended:
                await self._post(f"{router}/delete_requests/", gone)
            await self._post(f"{router}/worker_status/", report)
        except (aiohttp.ClientError, TimeoutError):
            pass  # it may be dead, as the test wants it

    async def _post(self, url: str, body: dict[str, Any]) -> None:
        async with self._http.post(url, json=body, timeout=aiohttp.ClientTimeout(total=2)) as response:
            await response.read()


async def _serve(options: argparse.Namespace) -> None:
    async with Tasks() as tasks, aiohttp.ClientSession() as http:
        book = JobBook(tasks, journal=Path(options.journal))
        async with relay_worker(options.number, book, port=options.port) as worker:
            book.worker = worker
            worker.trust(Path(options.key).read_text())
            reporting = Reporting(book, routers=options.router, token=options.token, http=http)
            await reporting.run()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--number", type=int, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--router", action="append", required=True)
    parser.add_argument("--token", required=True)
    parser.add_argument("--key", required=True, help="file with the routers' public key")
    parser.add_argument("--journal", required=True, help="file that each execution's text is added to")
    asyncio.run(_serve(parser.parse_args()))
