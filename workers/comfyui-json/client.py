#!/usr/bin/env python3
"""Example client and smoke test: sends one workflow, waits, saves the files. Needs only `requests`."""

import argparse
import asyncio
import base64
import json
import os
import shutil
import ssl
import sys
import time
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter

EXAMPLES = """examples:
  client.py                                           the service here, or over ssh -N -L 18288:127.0.0.1:18288 HOST
  client.py --set 5.width=128 --set 5.height=128 --set 3.steps=4     the same, quick enough without a GPU
  client.py --workflow graph.json --prompt "a fox"    your own graph, API format; __PROMPT__ in it becomes the text
  client.py --follow                                  in the background, and each step as it happens
  client.py --endpoint NAME --api-key KEY             through /route/ of Vast's autoscaler, or of --router URL
  client.py --endpoint NAME --api-key KEY --sdk       the same by Vast's own package (pip install vastai)
  client.py --s3-bucket-name b                        deliver to a bucket; the rest by option or S3_* variables"""
S3 = ("bucket_name", "endpoint_url", "region", "access_key_id", "secret_access_key")
WORKFLOW = Path(__file__).resolve().parent / "misc" / "benchmark.example.json"
ROUTE = "/generate/sync"
BROKEN = requests.ConnectionError, requests.exceptions.ChunkedEncodingError  # the worker may come back, with the job
RETRYABLE = {408, 429, 500, 502, 503, 504}  # another worker may do better


def payload(options):
    """The request: the same for the API listener, in the envelope and by the SDK."""
    text = options.workflow.read_text().replace("__RANDOM_PROMPT__", "__PROMPT__")
    graph = json.loads(text.replace("__PROMPT__", json.dumps(options.prompt)[1:-1]))
    for change in options.set:
        (node_id, _, name), value = change.partition("=")[0].partition("."), change.partition("=")[2]
        if not name or node_id not in graph:
            sys.exit(f"error: --set {change}: expected NODE.INPUT=VALUE with a node of {options.workflow}")
        graph[node_id]["inputs"][name] = json.loads(value) if value[:1] in '-0123456789"[' else value
    s3 = {"s3": {name: getattr(options, name) for name in S3}} if options.bucket_name else {}
    return {"input": {"workflow_json": graph, "return_outputs_as_base64": not s3, **s3}}


class VastTLS(HTTPAdapter):
    """Trusts the certificate that signs Vast's workers; its root lacks a flag that strict checks want."""

    def init_poolmanager(self, *args, **kwargs):
        data = requests.get("https://console.vast.ai/static/jvastai_root.cer", timeout=30).content
        context = ssl.create_default_context(cadata=data.decode() if data.startswith(b"-----") else data)
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        return super().init_poolmanager(*args, ssl_context=context, **kwargs)


def run(options, body, url="", session=requests):
    """POST and wait; or, with --follow, have it done in the background and watch. Give status and result."""
    path, patience_s = ("/generate", 60) if options.follow else (ROUTE, options.timeout)
    headers = {"Authorization": f"Bearer {options.api_key}"} if options.api_key and not options.endpoint else {}
    print(f"{url or options.url}{path} ...", file=sys.stderr)
    reply = session.post((url or options.url) + path, json=body, headers=headers, timeout=patience_s)
    if reply.status_code == 202:
        return follow(session, options, reply.json()["stream_url"])
    is_json = "json" in reply.headers.get("Content-Type", "")
    return reply.status_code, reply.json() if is_json else {"message": reply.text[:500]}


def follow(session, options, url):
    """Show a job's events until its result; where the connection breaks, go on after the last one."""
    seen, coming, deadline = {}, {}, time.monotonic() + options.timeout
    while time.monotonic() < deadline:
        with suppress(*BROKEN), session.get(url, headers=seen, stream=True, timeout=60) as events:
            events.raise_for_status()
            for name, _, value in (line.partition(": ") for line in events.iter_lines(decode_unicode=True)):
                if name == "id":
                    coming = {"Last-Event-ID": value}
                elif name == "data":
                    event, seen = json.loads(value), coming
                    if event["status"] == "final_result":
                        return event["http_status"], event["result"]
                    print(event.get("percent", ""), event["message"], file=sys.stderr)
        time.sleep(0.5)
    sys.exit(f"error: no result within {options.timeout:.0f} s; the job goes on: {url}")


def routed(options, body):
    """Poll the router until it names a worker, send that one the signed envelope, try again where it may help."""
    workers, index, attempt, deadline = requests.Session(), 0, 0, time.monotonic() + options.timeout
    workers.verify = options.ca or True
    while time.monotonic() < deadline:
        ask = {"endpoint": options.endpoint, "api_key": options.api_key, "cost": 100, "request_idx": index}
        answer = requests.post(f"{options.router}/route/", json=ask, timeout=15)
        if answer.status_code != 200:
            sys.exit(f"error: The router answered {answer.status_code}: {answer.text[:500]} (endpoint, key?)")
        ticket = answer.json()
        index, attempt, said = ticket.get("request_idx") or index, attempt + 1, ticket.get("status")
        if ticket.get("url"):
            if options.vast and ticket["url"].startswith("https:") and not options.ca:
                workers.mount(ticket["url"], VastTLS())
            envelope = {"auth_data": ticket, "session_id": None, "payload": body}
            status, result = run(options, envelope, ticket["url"], workers)
            if status not in RETRYABLE:
                return status, result
            said = f"HTTP {status} {str(result)[:300]}"
        print(f"No worker took it yet ({said}); asking the router again", file=sys.stderr)
        time.sleep(min(5.0, 0.5 * attempt))
    sys.exit(f"error: No worker of {options.endpoint} finished the job within {options.timeout:.0f} s.")


async def by_sdk(options, body):
    """Let Vast's own package do the routing."""
    from vastai import Serverless

    own = {} if options.vast else {"autoscaler_url": options.router, "webserver_url": options.router}
    client = Serverless(api_key=options.api_key, **own)
    if own:  # else the package fetches Vast's root certificate itself
        client._ssl_context = ssl.create_default_context(cafile=options.ca)
    try:
        async with client:
            endpoint = await client.get_endpoint(name=options.endpoint)
            reply = await endpoint.request(ROUTE, body, cost=100, timeout=options.timeout)
    except Exception as error:  # noqa: BLE001 - the package raises nothing narrower
        sys.exit(f"error: {error}")
    return reply.get("status"), reply.get("response") or {"message": reply.get("text")}


def completed(status, result):
    """The result object. Ends with what the service says is wrong."""
    if status == 200 and result.get("status") == "completed":
        return result
    said = result.get("message") or result.get("detail") or result.get("error") or result
    sys.exit(f"error: HTTP {status}: {said if isinstance(said, str) else json.dumps(said, indent=2)}")


def save(entry, folder):
    """Bring one output here: from its URL, from the base64 in the answer, or from this machine's disk."""
    path = folder / Path(entry["filename"]).name
    if entry.get("url"):
        with requests.get(entry["url"], stream=True, timeout=60) as source, path.open("wb") as target:
            source.raise_for_status()
            shutil.copyfileobj(source.raw, target)
    elif entry.get("data"):
        path.write_bytes(base64.b64decode(entry["data"]))
    elif Path(entry.get("local_path", "")).is_file():
        shutil.copyfile(entry["local_path"], path)
    else:
        reason = entry.get("upload_error") or entry.get("error") or "no URL and no data in the answer"
        sys.exit(f"error: {path.name} stayed on the worker at {entry.get('local_path')}: {reason}")
    print(f"{path} ({path.stat().st_size} bytes)")


def parse():
    """Read the command line."""
    form, bare = argparse.RawDescriptionHelpFormatter, lambda url: url.rstrip("/")
    parser = argparse.ArgumentParser(description=__doc__, epilog=EXAMPLES, formatter_class=form)
    add, env = parser.add_argument, os.environ.get
    add("--url", type=bare, default="http://127.0.0.1:18288", help="API listener (default %(default)s)")
    add("--endpoint", help="endpoint name: go through a router")
    add("--router", type=bare, default="https://run.vast.ai", help="router (default %(default)s)")
    add("--api-key", default=env("VAST_API_KEY"), help="key of the endpoint, the account or the API listener")
    add("--sdk", action="store_true", help="use the vastai package")
    add("--follow", action="store_true", help="submit to the background, show progress")
    add("--ca", help="PEM file that signs the workers' certificates, where it is not Vast's")
    add("--workflow", type=Path, default=WORKFLOW, help="graph in API format (default: an SD 1.5 picture)")
    add("--prompt", default="a lighthouse at dawn, oil painting", help="text of the picture")
    add("--set", action="append", default=[], metavar="NODE.INPUT=VALUE", help="change an input; may be repeated")
    for name in S3:
        add(f"--s3-{name.replace('_', '-')}", dest=name, default=env(f"S3_{name.upper()}", ""), help="or S3_* variable")
    add("--output", type=Path, default=Path("outputs"), help="folder for the files (default %(default)s)")
    add("--timeout", type=float, default=600.0, help="seconds to wait (default %(default)s)")
    options = parser.parse_args()
    if (options.sdk or options.endpoint) and not (options.endpoint and options.api_key):
        parser.error("--endpoint and --api-key go together; --sdk needs both")
    options.vast = (urlsplit(options.router).hostname or "").endswith("vast.ai")
    return options


def main():
    """Send, wait, save; the exit status is 0 only when every file is here."""
    options = parse()
    try:
        body = payload(options)
        way = routed if options.endpoint else run
        result = completed(*(asyncio.run(by_sdk(options, body)) if options.sdk else way(options, body)))
        print(f"{result['status']}: {result.get('message', '')} (id {result['id']})", file=sys.stderr)
        options.output.mkdir(parents=True, exist_ok=True)
        for entry in result["output"]:
            save(entry, options.output)
    except requests.ConnectionError as error:
        sys.exit(f"error: no connection: {error}\nIs the service running (./start_server.sh)? Is the SSH tunnel open?")
    except ImportError:
        sys.exit("error: --sdk needs Vast's package: pip install vastai")
    except (requests.RequestException, OSError, ValueError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
