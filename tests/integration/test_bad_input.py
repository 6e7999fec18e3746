"""Bad input through both doors of a running worker with a real ComfyUI: who is told what, and what it costs.

Each refusal is a 4xx that names the place and what was expected; it reveals nothing of the host and of nobody's
secrets; ComfyUI is not even asked where the mistake can be seen before, and makes a picture afterwards.
"""

import gzip
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.comfyui_fixture import REPOSITORY, RealComfyUI
from tests.fakes.http_hosts import WebHost, png
from tests.integration.doors import DOORS, Door, Doors, fleet, foreign_host, posted_count
from tests.integration.harness import picture
from tests.s3_fixture import S3Server

pytestmark = pytest.mark.comfyui
CALLERS_SECRET = "callers-own-secret-key"
MAX_BODY_BYTES = 1 << 20
INPUT_MAX_BYTES = 1 << 18


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """A strict worker: little patience, small limits, and one foreign host that it may fetch from."""

    doors: Doors
    host: WebHost
    comfyui: RealComfyUI

    def send(self, door: Door, body: dict[str, Any] | bytes, **options: Any) -> requests.Response:
        return self.doors.send(door, body, **options)


@pytest.fixture(scope="module")
def world(
    real_comfyui: RealComfyUI, nanio_server: S3Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    with (
        foreign_host() as host,
        fleet(
            tmp_path_factory.mktemp("strict"),
            real_comfyui.base_url,
            FETCH_ALLOW_HOSTS=f"127.0.0.1:{host.port},127.0.0.1:{nanio_server.port}",
            MAX_BODY_BYTES=str(MAX_BODY_BYTES),
            INPUT_MAX_BYTES=str(INPUT_MAX_BYTES),
            INPUT_TIMEOUT_S="3",
            WEBHOOK_ATTEMPTS="1",
            S3_ACCESS_KEY_ID=nanio_server.access_key_id,
            S3_SECRET_ACCESS_KEY=nanio_server.secret_access_key,
            S3_BUCKET_NAME="outputs",
            S3_ENDPOINT_URL=nanio_server.endpoint_url,
        ) as doors,
    ):
        host.files |= {
            "/page.html": (b"<html><body>no picture</body></html>", "text/html"),
            "/lie.png": (b"<html><body>no picture</body></html>", "image/png"),
            "/empty.png": (b"", "image/png"),
            "/sound.wav": (b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0" + bytes(64), "audio/wav"),
            "/fine.png": (png(), "image/png"),
        }
        yield World(doors=doors, host=host, comfyui=real_comfyui)


def refused(
    reply: requests.Response, world: World, *, status: int | None = None, says: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Check what every refusal has in common; return its body."""
    text = reply.text
    assert 400 <= reply.status_code < 500, f"{reply.status_code}: {text[:500]}"
    assert status is None or reply.status_code == status, f"{reply.status_code}: {text[:500]}"
    assert reply.headers["Content-Type"].startswith("application/json")
    folders = (REPOSITORY, world.comfyui.folder, world.doors.process.workspace, "/site-packages", "/usr/lib")
    secrets = (CALLERS_SECRET, "nanio-secret", "master-token", world.doors.auth["signature"])
    for hidden in ("Traceback", 'File "', *map(str, folders), *secrets):
        assert hidden not in text
    for word in says:
        assert word in text, f"{word!r} is not in {text[:500]}"
    body = reply.json()
    assert isinstance(body, dict)
    return body


def works(world: World) -> None:
    """ComfyUI still makes a picture."""
    reply = world.send("api", ask(picture(2)))
    assert reply.status_code == 200, reply.text


def ask(graph: Any = None, **fields: Any) -> dict[str, Any]:
    """A request; a picture unless another graph is given."""
    return {"input": {"workflow_json": picture(1) if graph is None else graph, **fields}}


def raw(template: str, value: str) -> bytes:
    """A request with ``value``, any text, in the place of ``0.125``."""
    return template.replace("0.125", value).encode()


def with_nodes(**nodes: Any) -> dict[str, Any]:
    """A good picture and further nodes; ``n7=...`` is node 7."""
    return ask(picture(1) | {name.removeprefix("n"): node for name, node in nodes.items()})


def loader(name: Any, kind: str = "LoadImage", field: str = "image") -> dict[str, Any]:
    return ask(
        {
            "1": {"class_type": kind, "inputs": {field: name}},
            "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "bad/x"}},
        }
    )


def prefix(value: Any) -> dict[str, Any]:
    return ask(picture(1, prefix=value))


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


# -- shape ------------------------------------------------------------------------------------------------------

NUMBER = json.dumps(ask(picture(0.125)))  # type: ignore[arg-type]
SHAPES: dict[str, tuple[dict[str, Any] | bytes, tuple[str, ...]]] = {
    "not json": (b'{"input": {', ()),
    "no input": ({}, ("input", "required")),
    "other key": ({"inputs": {}}, ("input", "required")),
    "input is text": ({"input": "a cat"}, ("input", "dictionary")),
    "workflow is text": (ask("a cat"), ("workflow_json", "dictionary")),
    "workflow is a list": (ask([1]), ("workflow_json", "dictionary")),
    "request_id is a number": (ask(request_id=7), ("request_id", "string")),
    "request_id is null": (ask(request_id=None), ("request_id", "string")),
    "request_id goes up": (ask(request_id="../../x"), ("request_id", "pattern")),
    "request_id is absolute": (ask(request_id="/etc/x"), ("request_id", "pattern")),
    "request_id has a backslash": (ask(request_id="a\\b"), ("request_id", "pattern")),
    "request_id has a NUL": (ask(request_id="a\0b"), ("request_id", "pattern")),
    "request_id ends in a line feed": (ask(request_id="a\n"), ("request_id", "pattern")),
    "request_id is hidden": (ask(request_id=".x"), ("request_id", "pattern")),
    "request_id is long": (ask(request_id="x" * 129), ("request_id", "pattern")),
    "two sources": (ask(modifier="Text2Image"), ("mutually exclusive",)),
    "no source": ({"input": {}}, ("workflow_json OR modifier",)),
    "empty workflow": (ask({}), ("workflow_json OR modifier",)),
    "modifications alone": (ask(modifications={"steps": 1}), ("modifications", "modifier is specified")),
    "unknown modifier": ({"input": {"modifier": "../Text2Image"}}, ("modifier", "Text2Image")),
    "modifier is a number": ({"input": {"modifier": 7}}, ("modifier", "string")),
    "modification of a wrong type": (
        {"input": {"modifier": "Text2Image", "modifications": {"steps": "many"}}},
        ("modifications", "steps", "integer"),
    ),
    "modification is a list": (
        {"input": {"modifier": "Text2Image", "modifications": {"width": [512]}}},
        ("modifications", "width", "integer"),
    ),
    "image without an image": ({"input": {"modifier": "Image2Image"}}, ("input_image",)),
    "base64 flag is text": (ask(return_outputs_as_base64="perhaps"), ("return_outputs_as_base64", "boolean")),
    "timeout below zero": (ask(timeout_s=-1), ("timeout_s", "greater than 0")),
    "s3 is text": (ask(s3="bucket"), ("input.s3",)),
    "s3 time-out is text": (
        ask(s3={"connect_timeout": "soon", "secret_access_key": CALLERS_SECRET}),
        ("s3.connect_timeout", "integer"),
    ),
    "s3 half of the keys": (ask(s3={"secret_access_key": CALLERS_SECRET}), ("s3.access_key_id", "needed")),
    "s3 no bucket": (
        ask(s3={"access_key_id": "me", "secret_access_key": CALLERS_SECRET}),
        ("s3.bucket_name", "needed"),
    ),
    "s3 of the operator elsewhere": (ask(s3={"endpoint_url": "https://s3.example.com"}), ("s3.endpoint_url", "needs")),
    "s3 another bucket of the operator": (ask(s3={"bucket_name": "private"}), ("s3.bucket_name", "S3_ALLOW_BUCKETS")),
    "webhook is a list": (ask(webhook=[]), ("webhook",)),
    "webhook extra is text": (ask(webhook={"extra_params": "x"}), ("webhook.extra_params", "dictionary")),
    "webhook is no URL": (ask(webhook={"url": "not a url"}), ("webhook.url", "http")),
    "webhook to a file": (ask(webhook={"url": "file:///etc/passwd"}), ("webhook.url", "http")),
    "NaN": (raw(NUMBER, "NaN"), ()),
    "Infinity": (raw(NUMBER, "Infinity"), ()),
    "minus Infinity": (raw(NUMBER, "-Infinity"), ()),
    "1e999": (raw(NUMBER, "1e999"), ()),
    "huge integer": (raw(NUMBER, "1" + "0" * 400), ()),
    "65 bits": (raw(NUMBER, str(2**64)), ("out of range", "color")),
    "100 levels": (ask(picture(nested(100))), ("nested", "64")),  # type: ignore[arg-type]
    "10000 levels": (raw(NUMBER, "[" * 10_000 + "]" * 10_000), ()),
    "lone surrogate": (raw(NUMBER, '"\\ud800"'), ()),
    "not UTF-8": (NUMBER.encode().replace(b"0.125", b'"\xff\xfe"'), ()),
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("case", SHAPES)
def test_a_request_of_the_wrong_shape(world: World, door: Door, case: str) -> None:
    """422 with the field and what was expected; nothing is accepted, nothing reaches ComfyUI."""
    body, says = SHAPES[case]
    before = posted_count(world.comfyui)
    refused(world.send(door, body), world, status=422, says=says)
    assert posted_count(world.comfyui) == before + 1


def test_the_api_listener_says_it_in_the_wrappers_form(world: World) -> None:
    """``detail`` is a list of ``{type, loc, msg}``, places from ``body``; the values, secrets maybe, stay out."""
    body = ask(request_id=7, s3={"connect_timeout": "soon", "secret_access_key": CALLERS_SECRET})
    answer = refused(world.send("api", body), world, status=422)
    assert {tuple(problem["loc"]) for problem in answer["detail"]} == {
        ("body", "input", "request_id"),
        ("body", "input", "s3", "connect_timeout"),
    }
    assert all(set(problem) == {"type", "loc", "msg"} for problem in answer["detail"])


ENVELOPES: dict[str, tuple[Callable[[dict[str, Any]], Any], int, dict[str, Any] | None]] = {
    "a list": (lambda good: [good], 422, {"error": "invalid JSON"}),
    "null": (lambda good: None, 422, {"error": "invalid JSON"}),
    "no auth_data": (lambda good: {"payload": good["payload"]}, 422, {"auth_data": "field missing"}),
    "nothing": (lambda good: {}, 422, {"auth_data": "field missing", "payload": "field missing"}),
    "auth_data is a list": (lambda good: good | {"auth_data": []}, 422, None),
    "auth_data lacks a key": (
        lambda good: good | {"auth_data": {k: v for k, v in good["auth_data"].items() if k != "cost"}},
        422,
        {"auth_data": {"cost": "missing parameter"}},
    ),
    "cost is text": (lambda good: good | {"auth_data": good["auth_data"] | {"cost": "100"}}, 422, None),
    "url is an object": (lambda good: good | {"auth_data": good["auth_data"] | {"url": {}}}, 422, None),
    "reqnum is a list": (lambda good: good | {"auth_data": good["auth_data"] | {"reqnum": []}}, 422, None),
    "payload is text": (
        lambda good: good | {"payload": "x"},
        422,
        {"payload": {"data": "payload must be a dictionary"}},
    ),
    "unknown session": (lambda good: good | {"session_id": "nobody"}, 410, {"error": "invalid session"}),
    "session is an object": (lambda good: good | {"session_id": {"a": 1}}, 410, {"error": "invalid session"}),
    "forged": (lambda good: good | {"auth_data": good["auth_data"] | {"signature": "bm8="}}, 401, None),
    "not base64": (lambda good: good | {"auth_data": good["auth_data"] | {"signature": "\u20ac"}}, 401, None),
    "another worker's": (
        lambda good: good | {"auth_data": good["auth_data"] | {"url": "http://10.1.1.1:1"}},
        401,
        None,
    ),
}


@pytest.mark.parametrize("case", ENVELOPES)
def test_a_wrong_envelope(world: World, case: str) -> None:
    """Vast's own statuses and bodies; where it answered with a bare 500 there is a 4xx."""
    change, status, expected = ENVELOPES[case]
    good = {"auth_data": world.doors.ticket(), "session_id": None, "payload": ask()}
    answer = refused(world.doors.post("public", json.dumps(change(good))), world, status=status)
    assert expected is None or answer == expected


# -- HTTP -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("door", DOORS)
def test_bodies_that_are_too_large(world: World, door: Door) -> None:
    """413 with the limit, declared or streamed or compressed."""
    large = json.dumps(ask(text="x" * MAX_BODY_BYTES)).encode()
    chunks = iter([large[i : i + 65536] for i in range(0, len(large), 65536)])
    refused(world.doors.post(door, large), world, status=413, says=(str(MAX_BODY_BYTES),))
    refused(world.doors.post(door, chunks), world, status=413)
    packed = gzip.compress(large)
    assert len(packed) < 10_000
    refused(world.doors.post(door, packed, **{"Content-Encoding": "gzip"}), world, status=413)


@pytest.mark.parametrize("door", DOORS)
def test_a_body_that_is_not_what_its_header_says(world: World, door: Door) -> None:
    """Broken compression and an empty body are the caller's mistakes."""
    refused(world.doors.post(door, b"no gzip", **{"Content-Encoding": "gzip"}), world)
    refused(world.doors.post(door, b""), world, status=422)


def test_web_pages_of_others_are_kept_out(world: World) -> None:
    """The loopback API: no body but declared JSON (forms only with our header), no foreign Host, no foreign Origin."""
    body = json.dumps(ask()).encode()
    for kind, says in (
        ("text/plain", "application/json"),
        ("application/x-www-form-urlencoded", "application/json"),
        ("multipart/form-data; boundary=x", "X-Pyworker-Multipart"),
    ):
        refused(world.doors.post("api", body, **{"Content-Type": kind}), world, status=415, says=(says,))
    foreign: dict[str, dict[str, str]] = {
        "Host": {"Host": "evil.example:18288"},
        "Origin": {"Origin": "https://evil.example"},
        "Sec-Fetch-Site": {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
    }
    for name, headers in foreign.items():
        refused(world.doors.post("api", body, **headers), world, status=403, says=(name,))
    for path in ("/health", "/docs", "/metrics", "/internal/live"):
        reply = requests.get(world.doors.process.api + path, headers={"Host": "evil.example"}, timeout=60)
        refused(reply, world, status=403)


def test_methods_and_paths_that_are_not_there(world: World) -> None:
    """404 and 405 as JSON; what belongs to the API listener is not on the public one."""
    process = world.doors.process
    for base in (process.api, process.public):
        refused(requests.get(f"{base}/generate/sync", timeout=60), world, status=405)
        refused(requests.post(f"{base}/generate/sync/", json={}, timeout=60), world, status=404)
        refused(requests.get(f"{base}/..%2f..%2fetc/passwd", timeout=60), world, status=404)
    for path in ("/metrics", "/docs", "/openapi.json", "/internal/live"):
        assert requests.get(process.public + path, timeout=60).status_code == 404
    shown = requests.get(f"{process.public}/health", timeout=60).json()
    assert not {"host", "backends", "benchmark", "queues"} & set(shown)


# -- graphs -----------------------------------------------------------------------------------------------------

EMPTY = {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 1}}
EARLY: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "node without inputs": (with_nodes(n7={"class_type": "EmptyImage"}), ("'7'", "inputs", "object")),
    "inputs are null": (with_nodes(n7={"class_type": "EmptyImage", "inputs": None}), ("'7'", "inputs", "object")),
    "unreachable node without inputs": (
        with_nodes(n7={"class_type": "NoSuchNode"}),
        ("'7'", "inputs", "object"),
    ),
    "junk link to nowhere": (
        ask({"1": EMPTY | {"inputs": EMPTY["inputs"] | {"junk": ["55", 0]}}, "2": picture(1)["2"]}),  # type: ignore[operator]
        ("'junk'", "'1'", "'55'", "not in the workflow"),
    ),
    "link to nowhere": (
        ask({"2": {"class_type": "SaveImage", "inputs": {"images": ["9", 0], "filename_prefix": "x"}}}),
        ("'images'", "'2'", "'9'", "not in the workflow"),
    ),
    "numeric link": (
        ask({"1": EMPTY, "2": {"class_type": "SaveImage", "inputs": {"images": [1, 0], "filename_prefix": "x"}}}),
        ("'images'", '[\\"1\\", 0]'),
    ),
    "slot below zero": (
        ask({"1": EMPTY, "2": {"class_type": "SaveImage", "inputs": {"images": ["1", -1], "filename_prefix": "x"}}}),
        ("'images'", "slot"),
    ),
    "slot is a fraction": (
        ask({"1": EMPTY, "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0.5], "filename_prefix": "x"}}}),
        ("'images'", "slot"),
    ),
    "node is text": (with_nodes(n7="x"), ("'7'", "not an object")),
    "client_id in the graph": (with_nodes(client_id=["a"]), ("'client_id'", "the worker sets that field itself")),
    "no class_type": (with_nodes(n7={"inputs": {}}), ("'7'", "class_type")),
    "class_type is a number": (with_nodes(n7={"class_type": 7, "inputs": {}}), ("'7'", "class_type")),
    "class_type is long": (with_nodes(n7={"class_type": "x" * 300, "inputs": {}}), ("'7'", "class_type")),
    "empty node id": (ask(picture(1) | {"": EMPTY}), ("Node id",)),
    "meta is text": (with_nodes(n7=EMPTY | {"_meta": "x"}), ("'7'", "_meta")),
    "a circle": (
        ask(
            {
                "1": {"class_type": "ImageInvert", "inputs": {"image": ["3", 0]}},
                "3": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}},
                "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}},
            }
        ),
        ("circle",),
    ),
    "the editor's format": (
        ask({"last_node_id": 2, "nodes": [{"id": 1, "type": "EmptyImage"}], "links": [], "version": 0.4}),
        ("Export (API)",),
    ),
    "wrapped in prompt": (ask({"prompt": picture(1)}), ("`prompt`",)),
    "no input named": (loader(""), ("image", "input folder")),
    "the input folder itself": (loader("./"), ("image", "input folder")),
    "absolute input": (loader("/etc/passwd"), ("'1'", "image", "input folder")),
    "input above the folder": (loader("../output/x.png"), ("image", "..")),
    "input goes up inside": (loader("a/../../x.png"), ("image", "..")),
    "input with a drive": (loader("C:\\x.png"), ("image",)),
    "input with backslashes": (loader("..\\x.png"), ("image",)),
    "input with a NUL": (loader("a\0b.png"), ("image", "NUL")),
    "mask": (loader("/etc/passwd", "LoadImageMask"), ("image",)),
    "output image": (loader("../x.png [output]", "LoadImageOutput"), ("image",)),
    "audio": (loader("/etc/passwd", "LoadAudio", "audio"), ("audio",)),
    "video": (loader("../../x.mp4", "LoadVideo", "file"), ("file",)),
    "3d": (loader("/etc/passwd", "Load3D", "model_file"), ("model_file",)),
    "prefix goes up": (prefix("../../x"), ("filename_prefix", "'2'", "..")),
    "prefix is absolute": (prefix("/x"), ("filename_prefix", "absolute")),
    "prefix with a NUL": (prefix("a\0b"), ("filename_prefix", "NUL")),
    "prefix is long": (prefix("x" * 300), ("filename_prefix", "200")),
    "prefix is long in bytes": (prefix("\u20ac" * 100), ("filename_prefix", "200")),
    "part of a prefix is long": (prefix("a/" + "x" * 300 + "/b"), ("filename_prefix", "200")),
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("case", EARLY)
def test_a_graph_that_can_be_seen_to_be_wrong(world: World, door: Door, case: str) -> None:
    """Every prompt that ComfyUI would die of, or say nothing useful about: 4xx, before it is posted."""
    body, says = EARLY[case]
    before = posted_count(world.comfyui)
    answer = refused(world.send(door, body), world, status=400 if door == "api" else 422, says=says)
    assert answer["error"] in ("invalid_workflow", "unsafe_input")
    assert answer["details"]["expected"]
    assert posted_count(world.comfyui) == before + 1
    works(world)


def vae(checkpoint: str) -> dict[str, Any]:
    return {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": checkpoint}},
        "2": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 100_000}},
        "3": {"class_type": "VAEDecode", "inputs": {"samples": ["2", 0], "vae": ["1", 2]}},
        "4": {"class_type": "SaveImage", "inputs": {"images": ["3", 0], "filename_prefix": "bad/w16"}},
    }


LATE: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "unknown class": (
        ask({"1": {"class_type": "EmptyImagee", "inputs": {}}, "2": picture(1)["2"]}),
        ("EmptyImagee", "did you mean EmptyImage"),
    ),
    "no output": (ask({"1": EMPTY}), ("no outputs",)),
    "missing model": (ask(vae("sd15-fp16.safetensors")), ("sd15-fp16.safetensors", "ckpt_name", "value_not_in_list")),
    "too big": (ask(vae("v1-5-pruned-emaonly-fp16.safetensors")), ("batch_size", "4096", "value_bigger_than_max")),
    "required input missing": (
        ask({"1": EMPTY, "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0]}}}),
        ("filename_prefix", "Required input is missing"),
    ),
    "partly valid": (
        with_nodes(n3={"class_type": "SaveImage", "inputs": {"images": ["1", 0]}}),
        ("node 3 (SaveImage)", "filename_prefix", "Required input is missing"),
    ),
    "number is text": (ask(picture("blue")), ("color", "INT")),
    "wrong type of link": (
        ask(
            {
                "1": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
                "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}},
            }
        ),
        ("images", "LATENT", "IMAGE"),
    ),
    "slot that is not there": (
        ask({"1": EMPTY, "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 5], "filename_prefix": "x"}}}),
        ("node 2",),
    ),
    "input that is not there": (loader("nope.png"), ("nope.png", "image")),
    "file URL": (loader("file:///etc/passwd"), ("image",)),
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("case", LATE)
def test_a_graph_that_comfyui_refuses(world: World, door: Door, case: str) -> None:
    """What only ComfyUI can know: its own message and its ``node_errors``, without host paths; nothing was run."""
    body, says = LATE[case]
    answer = refused(world.send(door, body), world, status=400 if door == "api" else 422, says=says)
    assert answer["status"] == "failed"
    assert answer["error"] in ("invalid_workflow", "unsafe_input")
    works(world)


def test_comfyuis_own_object_comes_through(world: World) -> None:
    """``details.node_errors`` is ComfyUI's, by node id, with type and input name; but no traceback."""
    answer = refused(world.send("api", ask(vae("nope.safetensors"))), world, status=400)
    errors = answer["details"]["node_errors"]
    assert errors["1"]["errors"][0]["type"] == "value_not_in_list"
    assert errors["1"]["errors"][0]["extra_info"]["input_name"] == "ckpt_name"
    assert errors["2"]["errors"][0]["type"] == "value_bigger_than_max"


@pytest.mark.parametrize("door", DOORS)
def test_a_node_that_fails_at_run_time(world: World, door: Door) -> None:
    """The wrapper's 500 on the API listener, 422 for Vast (its SDK repeats 5xx); node, type and message are named."""
    body = ask({"1": {"class_type": "SaveImage", "inputs": {"images": "oops", "filename_prefix": "bad/w14"}}})
    reply = world.send(door, body)
    assert reply.status_code == (500 if door == "api" else 422)
    answer = reply.json()
    assert (answer["status"], answer["error"], answer["retryable"]) == ("failed", "execution_failed", False)
    assert answer["details"]["node_id"] == "1"
    assert answer["details"]["exception_type"] == "AttributeError"
    assert "has no attribute" in answer["message"]
    assert "Traceback" not in reply.text
    assert str(REPOSITORY) not in reply.text
    works(world)


@pytest.mark.parametrize("door", DOORS)
def test_what_a_node_says_of_the_host_stays_here(world: World, door: Door) -> None:
    """Its message comes through, the paths in it do not."""
    graph = picture(1) | {"3": {"class_type": "HWFail", "inputs": {"image": ["1", 0], "kind": "value"}}}
    graph["2"]["inputs"]["images"] = ["3", 0]
    reply = world.send(door, ask(graph))
    assert reply.json()["details"]["exception_type"] == "ValueError"
    assert "boom from test node" in reply.json()["message"]
    assert "/opt/secret" not in reply.text
    assert "hw_pack" not in reply.text


def test_fields_of_comfyuis_own_request_are_not_passed_on(world: World) -> None:
    """``client_id`` as an object ends ComfyUI's process, ``extra_data: null`` is a 500: the caller's are dropped."""
    body = ask() | {"client_id": {}, "extra_data": None, "prompt_id": [], "number": None}
    body["input"] |= {"client_id": [], "extra_data": {"client_id": {}}, "number": "x", "partial_execution_targets": []}
    for door in DOORS:
        assert world.send(door, body).status_code == 200
    works(world)


# -- inputs by URL ----------------------------------------------------------------------------------------------

PRIVATE = [
    "http://127.0.0.1:1/x.png",
    "http://10.0.0.1/x.png",
    "http://192.168.1.1/x.png",
    "http://169.254.169.254/latest/meta-data/",
    "http://100.100.100.200/x.png",
    "http://0.0.0.0:8188/x.png",
    "http://127.1:8188/x.png",
    "http://127.0.1:8188/x.png",
    "http://2130706433:8188/x.png",
    "http://0x7f000001:8188/x.png",
    "http://0177.0.0.1:8188/x.png",
    "http://[::1]:8188/x.png",
    "http://[::ffff:127.0.0.1]:8188/x.png",
    "http://[::ffff:7f00:1]:8188/x.png",
    "http://[fe80::1]/x.png",
    "http://[fd00:ec2::254]/x.png",
    "http://localhost:8188/x.png",
    "http://LOCALHOST.:8188/x.png",
    "http://user:pa55word@8.8.8.8/x.png",
    "http://8.8.8.8:22/x.png",
    "ftp://8.8.8.8/x.png",
    "http://127.0.0.1\\@8.8.8.8/x.png",
]


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("url", PRIVATE)
def test_a_url_that_leads_inside(world: World, door: Door, url: str) -> None:
    """Refused with the field, whatever way the address is written; nothing is posted."""
    before = posted_count(world.comfyui)
    answer = refused(world.send(door, loader(url)), world, status=400 if door == "api" else 422)
    assert "workflow.1.inputs.image" in answer["message"]
    assert answer["error"] == "unsafe_input"
    assert "pa55word" not in answer["message"]
    assert posted_count(world.comfyui) == before + 1


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("inside", ["http://127.0.0.1:{router}/pubkey/", "http://localhost:{router}/pubkey/", "/loop"])
def test_a_redirect_that_leads_inside(world: World, door: Door, inside: str) -> None:
    """Each hop is checked anew: the host behind it hears nothing, and a loop ends."""
    target = inside.format(router=world.doors.router.rsplit(":", 1)[1])
    url = world.host.url(target if target.startswith("/") else f"/to?{target}")
    answer = refused(world.send(door, loader(url)), world)
    assert answer["details"]["field"] == "workflow.1.inputs.image"
    assert answer["error"] == ("input_fetch_failed" if target == "/loop" else "unsafe_input")


BAD_FILES = {
    "/endless": "too_large",
    "/hang": "timeout",
    "/drip": "timeout",
    "/status/404": "",
    "/status/403": "",
    "/page.html": "not_media",
    "/lie.png": "not_media",
    "/empty.png": "not_media",
    "/sound.wav": "wrong_kind",
    "/cut": "",
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("path", BAD_FILES)
def test_a_url_that_gives_no_picture(world: World, door: Door, path: str) -> None:
    """Huge, slow, missing, not a picture: 422 in bounded time with the field and the reason, not the query."""
    before, begun = posted_count(world.comfyui), time.monotonic()
    url = world.host.url(path) + "?token=callers-own-secret-key"
    answer = refused(world.send(door, loader(url)), world, status=422)
    assert answer["error"] == "input_fetch_failed"
    assert answer["details"]["field"] == "workflow.1.inputs.image"
    assert not BAD_FILES[path] or answer["details"]["reason"] == BAD_FILES[path]
    assert time.monotonic() - begun < 60
    assert posted_count(world.comfyui) == before + 1


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("data:image/png;base64,@@@@", "not_base64"),
        ("data:image/png;base64", "not_base64"),
        ("data:text/html,<b>x</b>", "not_media"),
        ("data:image/png;base64," + "A" * (INPUT_MAX_BYTES * 2), "too_large"),
    ],
    ids=["garbage", "no comma", "text", "large"],
)
def test_inline_data_that_is_no_picture(world: World, door: Door, uri: str, reason: str) -> None:
    """422 with the field and the reason."""
    answer = refused(world.send(door, loader(uri)), world, status=422)
    assert answer["details"]["field"] == "workflow.1.inputs.image"
    assert answer["details"]["reason"] == reason


@pytest.mark.parametrize("field", ["endpoint_url", "url"])
@pytest.mark.parametrize("door", DOORS)
def test_other_addresses_that_lead_inside(world: World, door: Door, field: str) -> None:
    """S3 endpoints and webhooks of a caller are held to the same rule; the operator's S3 is not."""
    keys = {"access_key_id": "me", "secret_access_key": CALLERS_SECRET, "bucket_name": "b"}
    for url in ("http://169.254.169.254/", "http://127.1:8188/", "http://[::1]:8188/"):
        block = {"webhook": {"url": url}} if field == "url" else {"s3": keys | {"endpoint_url": url}}
        answer = refused(world.send(door, ask(**block)), world, status=400 if door == "api" else 422)
        assert answer["details"]["field"] == ("input.webhook.url" if field == "url" else "input.s3.endpoint_url")


@pytest.mark.parametrize("door", DOORS)
def test_a_picture_that_is_corrupt(world: World, door: Door) -> None:
    """It looks like one until ComfyUI reads it: a failed job that names the loader and the cause."""
    world.host.files["/corrupt.png"] = (b"\x89PNG\r\n\x1a\ncorrupt", "image/png")
    reply = world.send(door, loader(world.host.url("/corrupt.png")))
    assert reply.status_code in (400, 422, 500 if door == "api" else 422), reply.text
    answer = reply.json()
    assert answer["status"] == "failed"
    assert answer["retryable"] is False
    assert "LoadImage" in answer["message"]
    works(world)


# -- mistakes that cost no picture --------------------------------------------------------------------------------


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("wrong", ["secret", "key", "bucket"])
def test_wrong_s3_settings(world: World, nanio_server: S3Server, door: Door, wrong: str) -> None:
    """The picture is there all the same: completed, the entry says why it was not uploaded and carries the file."""
    block = {
        "access_key_id": "nobody" if wrong == "key" else nanio_server.access_key_id,
        "secret_access_key": CALLERS_SECRET if wrong == "secret" else nanio_server.secret_access_key,
        "bucket_name": "nowhere" if wrong == "bucket" else "outputs",
        "endpoint_url": nanio_server.endpoint_url,
    }
    reply = world.send(door, ask(s3=block))
    assert reply.status_code == 200, reply.text
    (entry,) = reply.json()["output"]
    reason = {"secret": "SignatureDoesNotMatch", "key": "InvalidAccessKeyId", "bucket": "NoSuchBucket"}[wrong]
    assert reason in entry["upload_error"]
    assert urlsplit(entry["url"]).path.startswith("/outputs/")
    assert entry["data"]
    assert entry["mimetype"] == "image/png"
    assert block["secret_access_key"] not in reply.text


@pytest.mark.parametrize("door", DOORS)
def test_a_webhook_that_hangs(world: World, door: Door) -> None:
    """The answer does not wait for it, nor do the next jobs."""
    begun = time.monotonic()
    reply = world.send(door, ask(webhook={"url": world.host.url("/hang"), "timeout": 60}))
    assert reply.status_code == 200
    works(world)
    assert time.monotonic() - begun < 50


# -- anything ---------------------------------------------------------------------------------------------------

SMALL_INTEGERS = st.sampled_from([-(2**63) - 1, -(2**63), -1, 0, 1, 2, 3, 2**31, 2**63, 2**64 - 1, 2**64])
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    SMALL_INTEGERS,
    st.sampled_from([0.5, -1.5, 1e308, -0.0, float("nan"), float("inf")]),
    st.text(max_size=8),
    st.sampled_from(["", "1", "__RANDOM_INT__", "../x", "\0", "EmptyImage", "SaveImage", "http://[", "a" * 300]),
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
)


def seeds() -> list[dict[str, Any]]:
    """Valid requests to spoil."""
    full = ask(
        request_id="prop",
        s3={"access_key_id": "", "secret_access_key": "", "bucket_name": "", "endpoint_url": ""},
        webhook={"url": "", "extra_params": {}},
        return_outputs_as_base64=True,
        timeout_s=30.0,
    )
    text = {
        "1": {"class_type": "PrimitiveString", "inputs": {"value": "x"}},
        "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}, "_meta": {"title": "t"}},
    }
    data = {"1": {"class_type": "LoadImage", "inputs": {"image": "nope.png"}}, "2": picture(1)["2"]}
    return [full, ask(text), ask(data), {"input": {"modifier": "Image2Image", "modifications": {"input_image": "x"}}}]


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in inner for place in places(item, (*path, key)))]


@st.composite
def spoiled(draw: st.DrawFn) -> Any:
    """A valid request with one to three places replaced, removed or joined by something else."""
    body: Any = json.loads(json.dumps(draw(st.sampled_from(seeds()))))
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.sampled_from([place for place in places(body) if place] or [("input",)]))
        parent = body
        for key in place[:-1]:
            parent = parent[key]
        change = draw(st.sampled_from(["replace", "replace", "remove", "add"]))
        if change == "remove" and place[-1:] and not isinstance(parent, list):
            parent.pop(place[-1], None)
        elif change == "add" and isinstance(parent, dict):
            parent[draw(st.text(max_size=5))] = draw(VALUES)
        else:
            parent[place[-1]] = draw(VALUES)
        if not isinstance(body, dict) or not body:
            break
    return body


@settings(
    max_examples=300,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(body=spoiled(), door=st.sampled_from(DOORS))
def test_no_request_is_an_internal_error(world: World, body: Any, door: Door) -> None:
    """Whatever comes in: JSON goes out, and never a 500 but for a node that failed at run time."""
    reply = world.send(door, json.dumps(body).encode())
    answer = reply.json()
    assert isinstance(answer, dict)
    assert "Traceback" not in reply.text
    if reply.status_code == 500:
        assert (door, answer["status"], answer["error"]) == ("api", "failed", "execution_failed")
    else:
        assert reply.status_code == 200 or 400 <= reply.status_code < 500, f"{reply.status_code} {reply.text}"


def test_after_all_this_the_worker_is_well(world: World) -> None:
    """Ready, nothing left in any queue, no job of ComfyUI left over, no unexpected error in the log; runs last."""
    process = world.doors.process
    assert process.get("/ready").status_code == 200
    assert set(process.health()["queues"].values()) == {0}
    queue = requests.get(f"{world.comfyui.base_url}/queue", timeout=60).json()
    assert queue == {"queue_running": [], "queue_pending": []}
    log = process.log.read_text()
    assert "Traceback" not in log
    assert CALLERS_SECRET not in log
    works(world)
