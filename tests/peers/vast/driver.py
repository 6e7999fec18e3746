"""Runs in the peer's environment: drives a router, and the workers behind it, with the unmodified ``vastai`` SDK.

``python driver.py SCENARIO --router URL [--payload JSON] [--count N] [--timeout S]``; one JSON line per result on
stdout. Knows nothing of our code, so that it can be pointed at any worker.
"""

import argparse
import asyncio
import json
import ssl
import sys
from typing import Any

from vastai import Serverless

ROUTE = "/generate/sync"


def tell(**facts: Any) -> None:
    print(json.dumps(facts, default=repr), flush=True)


async def request(endpoint: Any, options: argparse.Namespace) -> None:
    """``count`` requests at once."""
    asked = [endpoint.request(ROUTE, options.payload, cost=100, timeout=options.timeout) for _ in range(options.count)]
    for result in await asyncio.gather(*asked):
        tell(
            kind="result",
            **{key: result.get(key) for key in ("ok", "status", "response", "text", "request_idx", "url")},
        )


async def session(endpoint: Any, options: argparse.Namespace) -> None:
    """Open, work, look, close, look again."""
    opened = await endpoint.session(
        cost=100, lifetime=30, on_close_route="https://hooks.example/closed", on_close_payload={"a": 1}
    )
    tell(kind="opened", session_id=opened.session_id, expiration=opened.expiration)
    for _ in range(options.count):
        result = await opened.request(ROUTE, options.payload)
        tell(kind="result", ok=result.get("ok"), status=result.get("status"), response=result.get("response"))
    tell(kind="open", value=await opened.is_open())
    await opened.close()
    opened.open = True  # as a client that does not know yet
    try:
        await opened.request(ROUTE, options.payload)
    except ValueError as error:
        tell(kind="closed", error=str(error))


async def workers(endpoint: Any, options: argparse.Namespace) -> None:
    """List the endpoint's workers."""
    for worker in await endpoint.get_workers():
        tell(kind="worker", id=worker.id, status=worker.status, cur_load=worker.cur_load, perf=worker.perf)


SCENARIOS = {"request": request, "session": session, "workers": workers}


async def main(options: argparse.Namespace) -> None:
    client = Serverless(api_key="account-key", autoscaler_url=options.router, webserver_url=options.router)
    client._ssl_context = ssl.create_default_context()  # else it downloads Vast's root certificate first
    async with client:
        endpoint = await client.get_endpoint(name=options.endpoint)
        await SCENARIOS[options.scenario](endpoint, options)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scenario", choices=sorted(SCENARIOS))
    parser.add_argument("--router", required=True)
    parser.add_argument("--endpoint", default="ep")
    parser.add_argument("--payload", type=json.loads, default={"input": {"workflow_json": {"1": {}}}})
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument("--timeout", type=float, default=30.0)
    sys.exit(asyncio.run(main(parser.parse_args())))
