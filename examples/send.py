#!/usr/bin/env python3
"""Send one of these examples, or a file of your own, to an endpoint of RunPod's kind: show progress, save what comes.

    examples/send.py sd15
    examples/send.py image-to-image --image photo.jpg --set 3.denoise=0.4
    examples/send.py my-request.json --url https://api.runpod.ai/v2/ENDPOINT --key KEY

Needs Python 3.9 and nothing else. Exit status: 0 completed, 1 failed, 2 wrong use.
"""

import argparse
import base64
import json
import mimetypes
import pathlib
import sys
import urllib.error
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
FINAL = ("COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT")
KINDS = ("images", "videos", "audio", "files")
FIRST_WAIT_MS = 1000
POLL_MS = 1000


class Trouble(Exception):
    """What ends this program, in words for a person."""


def main() -> int:
    """Run the command line."""
    given = _arguments()
    try:
        job = send(given.url.rstrip("/"), _request(given), key=given.key)
        return 0 if finish(job, pathlib.Path(given.out)) else 1
    except Trouble as trouble:
        say(f"FAILED: {trouble}")
        return 1


def _arguments() -> argparse.Namespace:
    names = ", ".join(sorted(path.parent.name for path in HERE.glob("*/request.json")))
    parser = argparse.ArgumentParser(description="Send a workflow to an endpoint of RunPod's kind.")
    parser.add_argument("example", help=f"a JSON file, or one of: {names}")
    parser.add_argument("--url", default="http://127.0.0.1:18288/v2/local", help="the endpoint, without /runsync")
    parser.add_argument("--key", help="sent as Authorization: Bearer")
    parser.add_argument("--image", help="another picture for the first one of the request: a file or a URL")
    parser.add_argument("--set", action="append", default=[], metavar="NODE.INPUT=VALUE", help="change the workflow")
    parser.add_argument("--out", default="outputs", help="folder for what comes back")
    return parser.parse_args()


def _request(given: argparse.Namespace) -> dict:
    path = pathlib.Path(given.example)
    path = path if path.is_file() else HERE / given.example / "request.json"
    try:
        request = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise Trouble(f"{path}: {error}") from None
    request = request if "input" in request else {"input": {"workflow": request}}
    for change in given.set:
        _change(request["input"]["workflow"], change)
    if given.image:
        pictures = request["input"].setdefault("images", [])
        pictures[:1] = [{"name": pictures[0]["name"] if pictures else "picture.png", "image": _picture(given.image)}]
    return request


def _change(workflow: dict, change: str) -> None:
    place, _, text = change.partition("=")
    node, _, name = place.partition(".")
    if name not in workflow.get(node, {}).get("inputs", {}):
        raise Trouble(f"--set {change}: the workflow has no input {place}")
    try:
        workflow[node]["inputs"][name] = json.loads(text)
    except ValueError:
        workflow[node]["inputs"][name] = text


def _picture(place: str) -> str:
    if place.startswith(("http://", "https://")):
        return place
    try:
        return base64.b64encode(pathlib.Path(place).read_bytes()).decode()
    except OSError as error:
        raise Trouble(str(error)) from None


def send(url: str, request: dict, *, key: "str | None") -> dict:
    """Submit, then follow the job to its end, telling each new state or progress; give the last answer."""
    job = call(f"{url}/runsync?wait={FIRST_WAIT_MS}", key=key, body=request)
    say(f"job {job.get('id')}")
    told = None
    while job.get("status") not in FINAL:
        news = _progress(job)
        if news != told:
            say(news)
            told = news
        job = call(f"{url}/status-sync/{job['id']}?wait={POLL_MS}", key=key)
    return job


def _progress(job: dict) -> str:
    output = job.get("output")
    if isinstance(output, dict) and output.get("type") == "progress":
        return f"{job['status']}: {output.get('percent', 0)} %, node {output.get('node')}"
    return str(job.get("status"))


def call(url: str, *, key: "str | None", body: "dict | None" = None) -> dict:
    """Make one request; give its JSON."""
    headers = {"Content-Type": "application/json", "User-Agent": "comfyui-pyworker-example"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    data = json.dumps(body).encode() if body is not None else None
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data=data, headers=headers), timeout=120) as answer:  # noqa: S310
            return json.load(answer)
    except urllib.error.HTTPError as error:
        raise Trouble(f"{url} answered {error.code}: {error.read(2000).decode(errors='replace')}") from None
    except (OSError, ValueError) as error:
        raise Trouble(f"{url}: {error}") from None


def finish(job: dict, folder: pathlib.Path) -> bool:
    """Save what the job gave; tell what it says. Gives whether it completed."""
    output = job.get("output")
    output = output if isinstance(output, dict) else {}
    for warning in output.get("errors", []):
        say(f"warning: {warning}")
    for kind in KINDS:
        for entry in output.get(kind, []):
            say(f"saved {save(entry, folder)}")
    for entry in output.get("text", []):
        say(f"text of node {entry.get('node_id')}: {entry.get('text')}")
    if job.get("status") != "COMPLETED":
        say(f"{job.get('status')}: {job.get('error', 'no cause is told')}")
        return False
    say(f"COMPLETED: {job.get('executionTime', '?')} ms, {job.get('delayTime', '?')} ms in the queue")
    return True


def save(entry: dict, folder: pathlib.Path) -> pathlib.Path:
    """Write one file, under a name that is free."""
    name = pathlib.Path(entry.get("filename") or f"file{mimetypes.guess_extension(entry.get('mime_type', '')) or ''}")
    path, number = folder / name.name, 1
    while path.exists():
        path, number = folder / f"{name.stem}-{number}{name.suffix}", number + 1
    folder.mkdir(parents=True, exist_ok=True)
    if entry.get("type") == "base64":
        path.write_bytes(base64.b64decode(entry["data"]))
        return path
    try:
        with urllib.request.urlopen(entry["data"], timeout=600) as answer:  # noqa: S310
            path.write_bytes(answer.read())
    except OSError as error:
        raise Trouble(f"{entry['data'].split('?')[0]}: {error}") from None
    return path


def say(text: str) -> None:
    """Write one line, at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
