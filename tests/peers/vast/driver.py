"""Runs in the peer's environment: drives a router, and the workers behind it, with the unmodified ``vastai`` package.

``python driver.py SCENARIO --router URL [--payload JSON] [--count N] [--timeout S] ...``; one JSON line per result on
stdout. What the package raises is a line of the kind ``raised``, and exit status 3. Knows nothing of our code, so that
it can be pointed at any worker.
"""

import argparse
import asyncio
import json
import ssl
import sys
import time
from typing import Any

from vastai import CoroutineServerless, Serverless, VastAI
from vastai.data.endpoint import EndpointConfig
from vastai.serverless.client.endpoint import Endpoint

RAISED = 3


def tell(**facts: Any) -> None:
    print(json.dumps(facts, default=repr), flush=True)


def told(result: dict[str, Any]) -> dict[str, Any]:
    return {key: result.get(key) for key in ("ok", "status", "response", "text", "request_idx", "url", "latency")}


async def request(endpoint: Any, options: argparse.Namespace) -> None:
    """``count`` requests at once, of each cost in turn."""

    async def one(cost: float) -> dict[str, Any]:
        result = await endpoint.request(
            options.route, options.payload, cost=cost, timeout=options.timeout, retry=options.retry
        )
        tell(kind="result", cost=cost, ended_at=time.time(), **told(result))

    costs = [options.costs[number % len(options.costs)] for number in range(options.count)]
    await asyncio.gather(*(one(cost) for cost in costs))


async def stream(endpoint: Any, options: argparse.Namespace) -> None:
    """Events as they come, to the end."""
    result = await endpoint.request(options.route, options.payload, cost=100, timeout=options.timeout, stream=True)
    if result["ok"]:
        async for event in result["response"]:
            tell(kind="event", at=time.time(), event=event)
    tell(kind="result", **told(result | {"response": None}))


async def session(endpoint: Any, options: argparse.Namespace) -> None:
    """Open, work, look, close, look again."""
    opened = await endpoint.session(
        cost=100,
        lifetime=options.lifetime,
        on_close_route="https://hooks.example/closed",
        on_close_payload={"a": 1},
        timeout=options.timeout,
    )
    tell(kind="opened", session_id=opened.session_id, expiration=opened.expiration)
    for _ in range(options.count):
        tell(kind="result", **told(await opened.request(options.route, options.payload)))
    tell(kind="open", value=await opened.is_open())
    await opened.close()
    opened.open = True  # as a client that does not know yet
    await refused(opened, options)


async def expiry(endpoint: Any, options: argparse.Namespace) -> None:
    """Open, and leave it alone until it is over."""
    at = time.time()  # it lives no longer than from here
    opened = await endpoint.session(cost=100, lifetime=options.lifetime, timeout=options.timeout)
    tell(kind="opened", session_id=opened.session_id, at=at)
    while True:
        try:
            await opened.is_open()
        except Exception as error:  # the package's own way to say that there is none
            tell(kind="over", error=str(error), at=time.time())
            break
        await asyncio.sleep(0.2)
    await refused(opened, options)


async def refused(opened: Any, options: argparse.Namespace) -> None:
    try:
        await opened.request(options.route, options.payload)
    except ValueError as error:
        tell(kind="closed", error=str(error))


async def sessions(endpoint: Any, options: argparse.Namespace) -> None:
    """``count`` at once; each works a little and is closed."""

    async def one() -> None:
        async with await endpoint.session(cost=100, lifetime=options.lifetime, timeout=options.timeout) as opened:
            tell(kind="result", **told(await opened.request(options.route, options.payload)))

    await asyncio.gather(*(one() for _ in range(options.count)))


async def submit(endpoint: Any, options: argparse.Namespace) -> None:
    """A job that outlives its request, in a session, which brings its reader back to the same worker."""
    async with await endpoint.session(cost=100, lifetime=60, timeout=options.timeout) as opened:
        accepted = await opened.request("/generate", options.payload)
        tell(kind="accepted", **told(accepted))
        job = accepted["response"]
        question = {"job_token": job["job_token"], "wait": 30}
        tell(kind="result", **told(await opened.request(f"/result/{job['id']}", question)))


async def workers(endpoint: Any, options: argparse.Namespace) -> None:
    """List the endpoint's workers."""
    for worker in await endpoint.get_workers():
        tell(kind="worker", **vars(worker))


async def stolen(endpoint: Any, options: argparse.Namespace) -> None:
    """This endpoint's name with another one's key."""
    with_wrong_key = Endpoint(endpoint.client, name=endpoint.name, id=endpoint.id, api_key=options.other_key)
    tell(kind="result", **told(await with_wrong_key.request(options.route, options.payload, timeout=options.timeout)))


async def manage(client: Any, options: argparse.Namespace) -> None:
    """An endpoint's whole life: made, found, given a group, asked for work, updated, removed."""
    made = await client.create_endpoint(EndpointConfig(endpoint_name=options.endpoint, max_workers=3))
    found = await client.fetch_endpoint(made.id)
    tell(kind="made", id=made.id, name=found.config.endpoint_name, key=found.api_key, most=found.config.max_workers)
    group = await made.add_workergroup("template-hash")
    tell(kind="group", id=group, found=await client.find_workergroup_for_endpoint(made.id))
    result = await made.request(options.route, options.payload, timeout=options.timeout)
    tell(kind="result", **told(result))
    tell(kind="update", **await client.update_workers(group))
    await client.delete_workergroup(group)
    await made.delete()
    tell(kind="left", names=[one.name for one in await client.get_endpoints()])


def synchronous(options: argparse.Namespace) -> None:
    """The package's blocking client: what it manages and looks at."""
    client = VastAI(api_key=options.key, server_url=options.router)
    made = client.create_endpoint(endpoint_name=options.endpoint, max_workers=3)["result"]
    client.update_endpoint(made, max_workers=5)
    group = client.create_workergroup(endpoint_id=made, template_hash="x")["id"]
    tell(kind="endpoints", endpoints=client.show_endpoints())
    tell(kind="groups", groups=client.show_workergroups())
    tell(kind="workers", workers=client.get_endpoint_workers(options.id))
    tell(kind="logs", logs=client.get_endpt_logs(options.id, level=3, tail=-1))
    tell(kind="group_logs", logs=client.get_wrkgrp_logs(group))
    client.delete_workergroup(group)
    client.delete_endpoint(made)
    tell(kind="left", names=[one["endpoint_name"] for one in client.show_endpoints()])


OF_ENDPOINTS = {
    "request": request,
    "stream": stream,
    "session": session,
    "sessions": sessions,
    "expiry": expiry,
    "submit": submit,
    "workers": workers,
    "stolen": stolen,
}
CLIENTS = {"futures": Serverless, "coroutines": CoroutineServerless}


async def asynchronous(options: argparse.Namespace) -> None:
    maker = CLIENTS[options.client]
    client = maker(api_key=options.key, autoscaler_url=options.router, webserver_url=options.router)
    if options.trust == "router":
        client.SSL_CERT_URL = f"{options.router}/static/jvastai_root.cer"
    else:  # else it downloads Vast's root certificate first
        client._ssl_context = ssl.create_default_context()
    async with client:
        if options.scenario == "manage":
            await manage(client, options)
        else:
            await OF_ENDPOINTS[options.scenario](await client.get_endpoint(name=options.endpoint), options)


def main(options: argparse.Namespace) -> int:
    try:
        if options.scenario == "synchronous":
            synchronous(options)
        else:
            asyncio.run(asynchronous(options))
    except Exception as error:  # the package raises it as it is; there is no class of its own
        tell(kind="raised", type=type(error).__name__, error=str(error))
        return RAISED
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scenario", choices=sorted({*OF_ENDPOINTS, "manage", "synchronous"}))
    parser.add_argument("--router", required=True)
    parser.add_argument("--client", choices=sorted(CLIENTS), default="futures")
    parser.add_argument("--key", default="account-key")
    parser.add_argument("--other_key", default="")
    parser.add_argument("--trust", choices=["system", "router"], default="system")
    parser.add_argument("--endpoint", default="ep")
    parser.add_argument("--id", type=int, default=1)
    parser.add_argument("--route", default="/generate/sync")
    parser.add_argument("--payload", type=json.loads, default={"input": {"workflow_json": {"1": {}}}})
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument("--costs", type=json.loads, default=[100])
    parser.add_argument("--timeout", type=float, default=120.0)
    parser.add_argument("--retry", type=json.loads, default=True)
    parser.add_argument("--lifetime", type=float, default=30.0)
    sys.exit(main(parser.parse_args()))
