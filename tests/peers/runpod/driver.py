"""Runs in the peer's environment: drives an endpoint with the unmodified ``runpod`` package.

``PEER_SETUP='{"base", "endpoint", "key", "body", ...}' python driver.py SCENARIO``; one JSON line per result on stdout.
Knows nothing of our code, so that it can be pointed at any endpoint, RunPod's included. The package's own time limits
hold: 10 s for run, status and stream, 3 s for health, cancel and purge.
"""

import asyncio
import json
import os
import sys
import time

import requests
import runpod
from runpod import http_client

SETUP = json.loads(os.environ["PEER_SETUP"])
FINAL = ("COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT")
POLL_S = 0.1
LIMIT_S = 150.0


def tell(kind, **facts):
    print(json.dumps({"kind": kind, **facts}), flush=True)


def timed(kind, call, *arguments, **options):
    """Call, and tell what it gave and how long it took."""
    begun = time.monotonic()
    value = call(*arguments, **options)
    tell(kind, value=value, seconds=round(time.monotonic() - begun, 3))
    return value


def until(job, *wanted):
    """Ask for the status until it is one of these; tell each one that was new."""
    seen, end = [], time.monotonic() + LIMIT_S
    while not seen or seen[-1] not in wanted:
        assert time.monotonic() < end, f"{seen} after {LIMIT_S:g} s"
        if (status := job.status()) not in seen:
            seen.append(status)
        time.sleep(POLL_S)
    tell("statuses", value=seen)


def endpoint():
    return runpod.Endpoint(SETUP["endpoint"])


def submitted():
    job = endpoint().run(SETUP["body"])
    tell("submitted", id=job.job_id)
    return job


def run():
    """Submit, poll, fetch."""
    job = submitted()
    until(job, *FINAL)
    timed("output", job.output)
    timed("again", job.output, timeout=5)
    tell("raw", value=job._fetch_job())  # what the client read


def run_sync():
    timed("output", endpoint().run_sync, SETUP["body"])


def run_sync_impatiently():
    """The client gives up; what it raises is told, and so is whether the endpoint is well."""
    try:
        endpoint().run_sync(SETUP["body"], timeout=SETUP["timeout"])
    except (TimeoutError, requests.Timeout) as error:
        tell("raised", type=type(error).__name__)
    timed("health", endpoint().health)


def output_impatiently():
    job = submitted()
    try:
        job.output(timeout=SETUP["timeout"])
    except TimeoutError as error:
        tell("raised", type=type(error).__name__, text=str(error))
    timed("cancelled", job.cancel)


def stream():
    """Follow it to its end."""
    job = submitted()
    for chunk in job.stream():
        tell("chunk", value=chunk)
    timed("status", job.status)
    timed("output", job.output)


def while_running():
    """Every call in the middle of a job, within the client's limits; then the end of it."""
    job = submitted()
    until(job, "IN_PROGRESS")
    timed("health", endpoint().health)
    waiting = endpoint().run(SETUP["body"])
    timed("purged", endpoint().purge_queue)
    timed("status of the purged", waiting.status)
    timed("status", job.status)
    tell("raw", value=job._fetch_job())
    timed("cancelled", job.cancel)
    until(job, *FINAL)
    timed("cancelled again", job.cancel)


def refused():
    """What a key that is not known meets, whatever is asked."""
    for name, call in (
        ("run", lambda: endpoint().run(SETUP["body"])),
        ("run_sync", lambda: endpoint().run_sync(SETUP["body"])),
        ("health", lambda: endpoint().health()),
    ):
        try:
            call()
        except Exception as error:
            tell(name, raised=type(error).__name__, text=str(error))


def contract():
    """What the package's own tests of its client expect, call by call."""
    body = SETUP["body"]
    job = endpoint().run(body["input"])  # wrapped by the client
    tell("run", id=job.job_id, status=job.status())
    tell("output with sleep", value=job.output(timeout=30))
    tell("job status", first=job.status(), second=job.status())
    tell("run sync", value=endpoint().run_sync(body["input"]))
    tell("health", value=endpoint().health())
    tell("purge queue", value=endpoint().purge_queue())
    streamed = endpoint().run(body)
    tell("job stream", chunks=list(streamed.stream()), status=streamed.status())
    slow = endpoint().run(SETUP["slow"])
    try:
        slow.output(timeout=1)
    except TimeoutError as error:
        tell("output timeout", raised=type(error).__name__)
    tell("cancel", value=slow.cancel())
    try:
        endpoint().run_sync(SETUP["slow"], timeout=1)
    except (TimeoutError, requests.Timeout) as error:
        tell("run sync with timeout", raised=type(error).__name__)


async def asynchronous():
    """Submit, poll, follow, fetch and cancel with the asyncio client."""
    async with http_client.AsyncClientSession() as session:
        client = runpod.AsyncioEndpoint(SETUP["endpoint"], session)
        job = await client.run(SETUP["body"]["input"])  # always wrapped by this client
        tell("submitted", id=job.job_id)
        tell("status", value=await job.status())
        tell("output", value=await job.output(timeout=60), status=await job.status())
        await follow(await client.run(SETUP["body"]["input"]))
        slow = await client.run(SETUP["slow"]["input"])
        while await slow.status() != "IN_PROGRESS":
            await asyncio.sleep(POLL_S)
        tell("cancelled", value=await slow.cancel())
        try:
            await slow.output(timeout=60)
        except TimeoutError as error:
            tell("output of the cancelled", raised=str(error))
        tell("status of the cancelled", value=await slow.status())
        unknown = runpod.AsyncioJob(SETUP["endpoint"], "nobody-knows-me", session, slow.headers)
        tell("unknown", value=await unknown.status())


async def follow(job):
    """The end of its stream is for the client to find."""
    async with asyncio.timeout(LIMIT_S):
        async for chunk in job.stream():
            tell("chunk", value=chunk)
    tell("streamed")


def asyncio_client():
    asyncio.run(asynchronous())


SCENARIOS = (
    run,
    run_sync,
    run_sync_impatiently,
    output_impatiently,
    stream,
    while_running,
    refused,
    contract,
    asyncio_client,
)

if __name__ == "__main__":
    runpod.api_key = SETUP["key"]
    runpod.endpoint_url_base = SETUP["base"]
    {scenario.__name__: scenario for scenario in SCENARIOS}[sys.argv[1]]()
