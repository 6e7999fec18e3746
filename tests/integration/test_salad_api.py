"""Salad's HTTP API as a contract, sections 1, 4 and 6 of its reference: bodies, statuses, sync and async, webhooks,
system events, interrupts, probes. On a real ComfyUI."""

import json
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.comfyui_fixture import NODES, RealComfyUI, install_record
from tests.integration.runpod import files_with, wait_idle
from tests.integration.salad import (
    BUCKET,
    Salad,
    Storages,
    eventually,
    failing,
    fresh,
    held,
    loading,
    long,
    noise,
    opened,
    salad,
    storages,
    verified,
)
from tests.peers.azure.azurite import AzureServer, azurite_server
from tests.s3_fixture import S3Server

__all__ = ["azurite_server"]
pytestmark = pytest.mark.comfyui


@pytest.fixture(scope="module")
def places(nanio_server: S3Server, azurite_server: AzureServer) -> Iterator[Storages]:
    with storages(nanio_server, azurite_server) as made:
        yield made


@pytest.fixture(scope="module")
def api(real_comfyui: RealComfyUI, places: Storages, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Salad]:
    with salad(tmp_path_factory.mktemp("salad-api"), real_comfyui.base_url, places, MAX_BODY_SIZE_MB="1") as made:
        yield made


@pytest.fixture(autouse=True)
def nothing_is_left(real_comfyui: RealComfyUI) -> Iterator[None]:
    """No test leaves work on the GPU."""
    yield
    wait_idle(real_comfyui)


def prefixes(graph: dict[str, Any]) -> list[str]:
    return [node["inputs"]["filename_prefix"] for node in graph.values() if "filename_prefix" in node["inputs"]]


# -- 1.5: success -------------------------------------------------------------------------------------------------


def test_sync(api: Salad) -> None:
    """The request, then base64 of every picture, names, times; no ``status``. Keys in upstream's order."""
    graph = fresh(2)
    done = api.prompt(graph, id="sync-1")
    assert list(done) == ["prompt", "id", "images", "filenames", "stats", "outputs"]
    assert done["id"] == "sync-1"
    assert done["filenames"] == ["sync-1_ComfyUI_00001_.png", "sync-1_ComfyUI_00002_.png"]
    assert prefixes(done["prompt"]) == ["sync-1_ComfyUI"]
    assert [(opened(image).width, opened(image).height) for image in done["images"]] == [(64, 48)] * 2
    entry = done["outputs"][0]
    assert (entry["node_id"], entry["key"], entry["type"], entry["mime"]) == ("2", "images", "output", "image/png")


def test_an_id_is_made(api: Salad) -> None:
    """A UUID of version 4, and the prefix of the names."""
    done = api.prompt(fresh())
    assert uuid.UUID(done["id"]).version == 4
    assert done["filenames"] == [f"{done['id']}_ComfyUI_00001_.png"]


def test_stats(api: Salad) -> None:
    """Milliseconds in upstream's nesting: ComfyUI's part within the whole, each node's start in it."""
    stats = api.prompt(long(0.3))["stats"]
    assert list(stats) == [
        "comfy_execution",
        "preprocess_time",
        "comfy_round_trip_time",
        "postprocess_time",
        "upload_time",
        "total_time",
    ]
    execution = stats["comfy_execution"]
    assert execution["end"] - execution["start"] == execution["duration"]
    assert 250 < execution["duration"] <= stats["comfy_round_trip_time"] + 1 <= stats["total_time"] + 2 < 60_000
    assert {"1", "2", "3"} == set(execution["nodes"])
    for node in execution["nodes"].values():
        assert execution["start"] - 5 <= node["start"] <= execution["end"] + 5


def test_unknown_keys_are_dropped(api: Salad) -> None:
    """At the top and in nodes; ``_meta`` stays."""
    graph = fresh()
    graph["1"] |= {"_meta": {"title": "T"}, "is_changed": ["x"]}
    done = api.prompt(graph, something={"else": 1})
    assert "something" not in done
    assert done["prompt"]["1"] == {key: graph["1"][key] for key in ("inputs", "class_type", "_meta")}


@pytest.mark.parametrize("given", ["../../up", "a/b\\c", "Grüße 你好", "%date%", "x" * 300, ".hidden", "con:1|<>"])
def test_an_id_is_untrusted(api: Salad, real_comfyui: RealComfyUI, given: str) -> None:
    """Echoed as sent; as a name it stays inside ComfyUI's folder."""
    done = api.prompt(fresh(), id=given)
    assert done["id"] == given
    (name,) = done["filenames"]
    assert "/" not in name and "\\" not in name and len(name.encode()) < 256
    assert not list(real_comfyui.folder.glob("*.png")) and not list(real_comfyui.folder.parent.glob("up_*"))


def test_an_empty_webhook_is_none(api: Salad) -> None:
    """As upstream takes it: the caller waits."""
    assert api.prompt(fresh(), webhook="", webhook_v2="")["images"]


# -- 1.1, 1.2, 1.12: transport ------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/health", "/ready", "/models", "/docs", "/docs/json", "/docs/yaml"])
def test_get_and_head(api: Salad, path: str) -> None:
    """Every GET route has its HEAD."""
    assert api.ask("GET", path).status_code == api.ask("HEAD", path).status_code == 200


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/x"), ("POST", "/prompt/"), ("GET", "/models/"), ("POST", "/x"), ("GET", "/prompt")]
)
def test_no_such_route(api: Salad, method: str, path: str) -> None:
    """404 in Fastify's form, since Salad's dialect is the primary one here; a slash at the end is another route."""
    reply = api.ask(method, path, json={} if method == "POST" else None)
    assert reply.status_code == 404
    text = f"Route {method}:{path} not found"
    assert reply.json() == {"message": text, "error": "Not Found", "statusCode": 404}


def test_probes_with_salad_as_the_primary_dialect(api: Salad) -> None:
    """Both tell version and upstream's word."""
    health, ready = api.ask("GET", "/health").json(), api.ask("GET", "/ready").json()
    assert (health["status"], ready["status"]) == ("healthy", "ready")
    assert health["version"] == ready["version"] != ""


def test_the_document(api: Salad) -> None:
    """OpenAPI 3.0 with a server that tools can name, and every route, those of workflow files included."""
    document = api.ask("GET", "/docs/json").json()
    assert document["openapi"].startswith("3.0")
    assert document["servers"][0]["url"] == "{accessDomainName}"
    routes = {"/prompt", "/interrupt", "/download", "/models", "/health", "/ready", "/workflow/sd1.5/txt2img"}
    assert routes <= set(document["paths"])
    assert api.ask("GET", "/docs/yaml").text.startswith("openapi: ")
    assert "swagger" in api.ask("GET", "/docs").text.lower()


# -- 1.6: failure -------------------------------------------------------------------------------------------------

PROMPT: dict[str, Any] = {"prompt": fresh()}


@pytest.mark.parametrize(
    ("body", "location"),
    [
        ({}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({**PROMPT, "id": 5}, "id"),
        ({**PROMPT, "webhook": None}, "webhook"),
        ({**PROMPT, "webhook_v2": 1}, "webhook_v2"),
        ({**PROMPT, "webhook_v2": "ftp://127.0.0.1/x"}, "webhook_v2"),
        ({**PROMPT, "convert_output": {"format": "png"}}, "convert_output"),
        ({**PROMPT, "convert_output": {"format": "jpeg", "options": {"quality": "80"}}}, "convert_output"),
        ({**PROMPT, "convert_output": {"format": "jpeg", "options": {"quality": 101}}}, "convert_output"),
        ({**PROMPT, "convert_output": {"format": "webp", "options": {"effort": 7}}}, "convert_output"),
        ({**PROMPT, "s3": {"prefix": "x"}}, "s3.bucket"),
        ({**PROMPT, "s3": {"bucket": "b", "async": "yes"}}, "s3.async"),
        ({**PROMPT, "hf_upload": {"repo": "a/b", "repo_type": "space"}}, "hf_upload.repo_type"),
        ({**PROMPT, "azure_blob_upload": {}}, "azure_blob_upload.container"),
        ({**PROMPT, "http_upload": {"async": True}}, "http_upload.url_prefix"),
        ({**PROMPT, "credentials": [{"url_pattern": "**", "auth": {"type": "magic"}}]}, "credentials.0.auth"),
    ],
    ids=lambda value: json.dumps(value)[-60:] if isinstance(value, dict) else None,
)
def test_a_wrong_request_is_told_why(api: Salad, body: Any, location: str) -> None:
    """400, the reason in ``error`` and ``message``, its place in ``location``; upstream says `Bad Request`."""
    answer = api.answer("/prompt", body, status=400)
    assert (answer["statusCode"], answer["error"]) == (400, answer["message"])
    assert answer["error"] != "Bad Request"
    assert answer["location"].startswith(location)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"{", "application/json"),
        (b"", "application/json"),
        (b"{}", "text/plain"),
        (b'{"prompt":NaN}', "application/json"),
    ],
)
def test_no_json(api: Salad, data: bytes, kind: str) -> None:
    """400 whatever is wrong with the body itself."""
    reply = api.ask("POST", "/prompt", data=data, headers={"Content-Type": kind})
    assert reply.status_code == 400
    assert {"error", "message", "statusCode"} <= set(reply.json())


def test_too_large(api: Salad) -> None:
    """413 above MAX_BODY_SIZE_MB, in Fastify's words."""
    answer = api.answer("/prompt", {"prompt": {"1": "x" * (1 << 20)}}, status=413)
    assert answer["code"] == "FST_ERR_CTP_BODY_TOO_LARGE"
    assert answer["message"] == "Request body is too large"


@pytest.mark.parametrize("save", [{}, {"filename_prefix": ""}, {"filename_prefix": ["1", 0]}])
def test_no_output_node(api: Salad, save: dict[str, Any]) -> None:
    """Upstream's text, and ``location``; a linked prefix is none."""
    graph = fresh()
    graph["2"]["inputs"] = {"images": ["1", 0], **save}
    answer = api.prompt(graph, status=400)
    assert answer["error"] == 'Prompt must contain a node with a "filename_prefix" input, such as "SaveImage"'
    assert answer["location"] == "prompt"


def test_a_node_without_inputs(api: Salad) -> None:
    """A sentence; upstream shows JavaScript's."""
    answer = api.prompt({**fresh(), "9": {"class_type": "SaveImage"}}, status=400)
    assert answer["location"].startswith("prompt.9")
    assert "undefined" not in answer["error"]


def test_comfyui_rejects_the_graph(api: Salad) -> None:
    """400 with ComfyUI's own ``node_errors``; upstream answers 500."""
    graph = fresh()
    graph["1"]["inputs"]["width"] = -5
    answer = api.prompt(graph, status=400)
    assert answer["error"].startswith("Failed to queue prompt: ")
    assert answer["location"] == "prompt"
    assert answer["node_errors"]["1"]["class_type"] == "EmptyImage"


def test_a_node_fails(api: Salad) -> None:
    """500 with what it said and where; upstream says `Failed to get prompt outputs` alone. The traceback has ComfyUI's
    own paths, and none of this host."""
    answer = api.prompt(failing(), status=500, id="fails-1")
    assert (answer["statusCode"], answer["error"], answer["id"]) == (500, "Internal Server Error", "fails-1")
    assert "boom from test node" in answer["message"]
    assert (answer["exception_type"], answer["node_id"], answer["node_type"]) == ("ValueError", "3", "HWFail")
    frames = answer["traceback"]
    assert frames[0].startswith('  File "execution.py", line ') and 'raise ValueError("' in frames[-1]
    root = str(install_record()["root"])
    assert not any(path in json.dumps(answer) for path in ("/opt/secret", root, str(NODES)))


def test_secrets_are_nowhere(api: Salad) -> None:
    """Credentials come back without what is secret in them; no log and no plain file has them."""
    auth = {"type": "bearer", "token": "a-very-secret-token"}
    given = [{"url_pattern": "https://models.example/**", "auth": auth}]
    done = api.prompt(fresh(), credentials=given)
    assert done["credentials"] == [{"url_pattern": "https://models.example/**", "auth": {"type": "bearer"}}]
    accepted = api.prompt(fresh(), status=202, credentials=given, webhook_v2=api.hook("secrets"))
    assert accepted["credentials"] == done["credentials"]
    assert api.verified("secrets")["credentials"] == done["credentials"]
    assert files_with(api.process.workspace, b"a-very-secret-token") == []


# -- 1.4: sync and async ------------------------------------------------------------------------------------------


def test_webhook_v2(api: Salad) -> None:
    """202 at once: the request and `ok`. Then one signed message: what 200 would have said."""
    accepted = api.prompt(fresh(2), status=202, id="v2-1", webhook_v2=api.hook("v2"))
    assert list(accepted) == ["prompt", "id", "webhook_v2", "status"]
    assert accepted["status"] == "ok"
    (seen,) = api.told("v2")
    body = verified(seen)
    assert list(body)[:7] == ["type", "timestamp", "prompt", "id", "webhook_v2", "images", "filenames"]
    assert (body["type"], body["id"], body["webhook_v2"]) == ("prompt.complete", "v2-1", api.hook("v2"))
    assert seen.headers["webhook-id"] == "v2-1"
    assert seen.headers["Content-Type"].startswith("application/json")
    assert body["filenames"] == ["v2-1_ComfyUI_00001_.png", "v2-1_ComfyUI_00002_.png"]
    assert [opened(image).width for image in body["images"]] == [64, 64]
    assert body["prompt"] == accepted["prompt"]
    assert body["stats"]["total_time"] > 0
    assert body["timestamp"].endswith("Z") and len(body["timestamp"]) == len("2026-11-21T18:00:00.000Z")


def test_webhook_v1(api: Salad) -> None:
    """202, then a message an output, unsigned."""
    api.prompt(fresh(3), status=202, id="v1-1", webhook=api.hook("v1"))
    posts = api.told("v1", 3)
    bodies = [json.loads(seen.body) for seen in posts]
    assert {body["filename"] for body in bodies} == {f"v1-1_ComfyUI_0000{n}_.png" for n in (1, 2, 3)}
    for seen, body in zip(posts, bodies, strict=True):
        assert list(body) == ["event", "image", "id", "filename", "prompt", "stats"]
        assert (body["event"], body["id"]) == ("output.complete", "v1-1")
        assert opened(body["image"]).width == 64
        assert "webhook-signature" not in {name.lower() for name in seen.headers}
        assert not {"upload_time", "total_time"} & set(body["stats"])


def test_both_webhooks(api: Salad) -> None:
    """Both on success, the second with base64; of a failure hears the second alone."""
    api.prompt(fresh(), status=202, id="both", webhook=api.hook("both-1"), webhook_v2=api.hook("both-2"))
    (first,) = api.told("both-1")
    assert json.loads(first.body)["image"] == api.verified("both-2")["images"][0]
    api.prompt(failing(), status=202, id="not", webhook=api.hook("not-1"), webhook_v2=api.hook("not-2"))
    assert api.verified("not-2")["type"] == "prompt.failed"
    assert api.files.told("/hook/not-1") == []


@pytest.mark.parametrize("graph", [failing, lambda: fresh(width=-1)], ids=["a node fails", "rejected"])
def test_failures_are_told(api: Salad, graph: Any) -> None:
    """`prompt.failed` once, in each webhook's form, with the real reason."""
    name = uuid.uuid4().hex
    api.prompt(graph(), status=202, id=name, webhook=api.hook(f"{name}-1"))
    (seen,) = api.told(f"{name}-1")
    body = json.loads(seen.body)
    assert list(body)[:4] == ["event", "id", "prompt", "error"]
    assert (body["event"], body["id"]) == ("prompt.failed", name)
    api.prompt(graph(), status=202, id=f"{name}b", webhook_v2=api.hook(f"{name}-2"))
    told = api.verified(f"{name}-2")
    assert list(told)[:5] == ["type", "timestamp", "id", "prompt", "error"]
    assert (told["type"], told["id"]) == ("prompt.failed", f"{name}b")
    assert "boom from test node" in told["error"] or told["error"].startswith("Failed to queue prompt: ")


def test_what_cannot_be_brought_is_told(api: Salad) -> None:
    """We accept at once and tell the failure by webhook; a caller who waits gets 400 and the place."""
    graph = fresh()
    graph["10"] = {"class_type": "LoadImage", "inputs": {"image": api.files.url("/status/404")}}
    graph["2"]["inputs"]["images"] = ["10", 0]
    answer = api.prompt(graph, status=400)
    assert answer["error"].startswith("Failed to download image for node 10: ")
    assert answer["location"] == "prompt.10.inputs.image"
    api.prompt(graph, status=202, webhook_v2=api.hook("unbrought"))
    told = api.verified("unbrought")
    assert (told["type"], told["error"]) == ("prompt.failed", answer["error"])
    assert told["location"] == answer["location"]


def test_async_upload(api: Salad, places: Storages) -> None:
    """202 with the block as it counts; the caller finds the file in the storage."""
    block = {"bucket": BUCKET, "prefix": "async/", "async": True}
    accepted = api.prompt(fresh(), status=202, id="as", s3=block)
    assert list(accepted) == ["prompt", "id", "s3", "status"]
    assert (accepted["s3"], accepted["status"]) == (block, "ok")
    assert eventually(lambda: places.keys("async/as")) == ["async/as_ComfyUI_00001_.png"]


def test_webhook_v2_with_an_upload(api: Salad, places: Storages) -> None:
    """Uploaded first, then told with URLs; with or without ``async``."""
    for flag in (True, False):
        name = f"up-{flag}"
        block = {"bucket": BUCKET, "prefix": "v2/", "async": flag}
        api.prompt(fresh(), status=202, id=name, s3=block, webhook_v2=api.hook(name))
        (url,) = api.verified(name)["images"]
        assert url == f"s3://{BUCKET}/v2/{name}_ComfyUI_00001_.png"
        assert places.object(url).startswith(b"\x89PNG")


def test_webhook_v1_beats_an_upload(api: Salad, places: Storages) -> None:
    """As upstream: the block is ignored, the webhook gets base64."""
    api.prompt(fresh(), status=202, id="beat", s3={"bucket": BUCKET, "prefix": "beat/"}, webhook=api.hook("beat"))
    (seen,) = api.told("beat")
    assert opened(json.loads(seen.body)["image"]).width == 64
    assert places.keys("beat/") == []


def test_a_webhook_is_tried_again(api: Salad) -> None:
    """Same id, same body, until it is taken; signed anew, so that a late attempt is not too old to be believed."""
    api.files.statuses[:] = [500, 200]
    try:
        api.prompt(fresh(), status=202, id="again", webhook_v2=api.hook("again"))
        first, second = api.told("again", 2)
    finally:
        api.files.statuses.clear()
    assert first.body == second.body
    assert first.headers["webhook-id"] == second.headers["webhook-id"] == "again"
    assert verified(first) == verified(second)


# -- 1.10: interrupt ----------------------------------------------------------------------------------------------


def test_interrupt_what_runs(api: Salad, real_comfyui: RealComfyUI) -> None:
    """It leaves the GPU; its caller gets 500, a webhook `prompt.failed`."""
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(api.prompt, long(60), status=500, id="runs")
        api.until_running()
        assert api.answer("/interrupt", {"id": "runs"}) == {"id": "runs", "interrupted": "success"}
        wait_idle(real_comfyui, 30)
        assert "interrupt" in waiting.result()["message"].lower()
    assert api.answer("/interrupt", {"id": "runs"}, status=404) == {"id": "runs", "interrupted": "failed"}


def test_interrupt_what_waits(api: Salad, gate: Path) -> None:
    """Upstream says success and does nothing. Here it never runs, and the webhook hears why."""
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(api.prompt, held(gate), id="first")
        api.until_running()
        api.prompt(fresh(), status=202, id="waits", webhook_v2=api.hook("waits"))
        assert api.answer("/interrupt", {"id": "waits"}) == {"id": "waits", "interrupted": "success"}
        told = api.verified("waits")
        assert (told["type"], "interrupted" in told["error"]) == ("prompt.failed", True)
        gate.touch()
        assert running.result()["images"]


def test_interrupt_nobody(api: Salad) -> None:
    """404 for an unknown id, 400 without one, with the reason."""
    assert api.answer("/interrupt", {"id": "nobody"}, status=404) == {"id": "nobody", "interrupted": "failed"}
    assert "id" in api.answer("/interrupt", {}, status=400)["message"]
    assert api.answer("/interrupt", {"id": 5}, status=400)["statusCode"] == 400


def test_who_leaves_takes_the_job_along(api: Salad, real_comfyui: RealComfyUI) -> None:
    """A waiting caller that goes away frees the GPU."""
    with pytest.raises(requests.Timeout):
        api.ask("POST", "/prompt", json={"prompt": long(60)}, timeout=1.5)
    wait_idle(real_comfyui, 30)


# -- 4.5: system events -------------------------------------------------------------------------------------------


def events(api: Salad, name: str, request_id: str | None = None) -> list[dict[str, Any]]:
    """The system events of one kind so far, of one request; each is signed."""
    bodies = [verified(seen) for seen in api.files.told("/hook/system")]
    found = [body for body in bodies if body["event"] == name]
    return found if request_id is None else [b for b in found if b["data"]["data"].get("prompt_id") == request_id]


def test_system_events_of_one_prompt(api: Salad) -> None:
    """Exactly one `executed`, exactly one `execution_success`, progress at least once; under the caller's id."""
    api.prompt(long(0.5), id="watched")
    eventually(lambda: events(api, "comfy.execution_success", "watched"))
    api.prompt(fresh(), id="after")
    eventually(lambda: events(api, "comfy.execution_success", "after"))  # in order: nothing more comes of the first
    count = {
        name: len(events(api, f"comfy.{name}", "watched"))
        for name in ("executed", "execution_success", "execution_start", "execution_cached")
    }
    assert count == dict.fromkeys(count, 1)
    (executed,) = events(api, "comfy.executed", "watched")
    assert list(executed) == ["event", "data", "metadata"]
    assert executed["data"]["type"] == "executed"
    assert executed["data"]["data"]["node"] == "2"
    assert executed["data"]["data"]["output"]["images"][0]["filename"] == "watched_ComfyUI_00001_.png"
    assert executed["metadata"]["batch"] == "abc"
    assert executed["metadata"]["salad_machine_id"] == "machine-1"
    progress = events(api, "comfy.progress", "watched")
    assert progress and {"value", "max", "prompt_id", "node"} <= set(progress[0]["data"]["data"])
    (state, *_) = events(api, "comfy.progress_state", "watched")
    assert {node["prompt_id"] for node in state["data"]["data"]["nodes"].values()} == {"watched"}
    assert events(api, "comfy.status")[0]["data"]["data"]["status"]["exec_info"]["queue_remaining"] >= 0
    assert events(api, "comfy.executing", "watched")


def test_system_events_of_a_failure(api: Salad) -> None:
    """`execution_error` with ComfyUI's fields."""
    api.prompt(failing(), status=500, id="errs")
    (event,) = eventually(lambda: events(api, "comfy.execution_error", "errs"))
    data = event["data"]["data"]
    assert (data["node_id"], data["node_type"], data["exception_type"]) == ("3", "HWFail", "ValueError")
    assert events(api, "comfy.execution_success", "errs") == []


def test_system_events_of_files(api: Salad, places: Storages) -> None:
    """`file_uploaded` when it is there, with a path and a size, never the file itself."""
    done = api.prompt(fresh(), id="filed", s3={"bucket": BUCKET, "prefix": "filed/"})
    (event,) = eventually(lambda: [e for e in events(api, "storage.file_uploaded") if "filed/" in e["data"]["url"]])
    assert event["data"]["url"] == done["images"][0]
    assert set(event["data"]) == {"url", "local_path", "size", "duration"}
    assert isinstance(event["data"]["local_path"], str)
    assert event["data"]["size"] == len(places.object(done["images"][0]))


def test_system_events_of_inputs(api: Salad) -> None:
    """`file_downloaded` for a transfer, without the URL's query; none for what was here already, and is the same."""
    url = api.files.put("/event.png", noise(), "image/png")
    api.files.etags["/event.png"] = '"1"'
    for number in range(2):
        api.prompt(loading(f"{url}?token=hidden-in-a-query"), id=f"fetched-{number}")
    eventually(lambda: events(api, "comfy.execution_success", "fetched-1"))
    (event,) = [event for event in events(api, "storage.file_downloaded") if event["data"]["url"] == url]
    assert set(event["data"]) == {"url", "local_path", "size", "duration"}
    assert event["data"]["size"] == len(noise())


def test_system_events_of_an_interrupt(api: Salad) -> None:
    """`execution_interrupted`, and who was at work."""
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(api.prompt, long(60), status=500, id="stopped")
        api.until_running()
        api.answer("/interrupt", {"id": "stopped"})
        waiting.result()
    (event,) = eventually(lambda: events(api, "comfy.execution_interrupted", "stopped"))
    assert (event["data"]["data"]["node_id"], event["data"]["data"]["node_type"]) == ("3", "HWTicks")


# -- 6.2, 6.4: a queue that is full; PREPEND_FILENAMES -------------------------------------------------------------


@pytest.fixture(scope="module")
def narrow(real_comfyui: RealComfyUI, places: Storages, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Salad]:
    """Room for one, old names, no storage, one attempt a webhook, base64 of small files."""
    none = {"AWS_REGION": "", "AZURE_STORAGE_CONNECTION_STRING": "", "HF_TOKEN": "", "SYSTEM_WEBHOOK_URL": ""}
    own = {"MAX_QUEUE_DEPTH": "1", "PREPEND_FILENAMES": "false"}
    with salad(tmp_path_factory.mktemp("salad-narrow"), real_comfyui.base_url, places, **none, **own) as made:
        yield made


def test_max_queue_depth(narrow: Salad, gate: Path) -> None:
    """/ready is 503 while the queue is full, and so is what comes; /health does not mind."""
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(narrow.prompt, held(gate))
        narrow.until_running()
        ready, health = narrow.ask("GET", "/ready"), narrow.ask("GET", "/health")
        assert (ready.status_code, ready.json()["status"]) == (503, "not ready")
        assert (health.status_code, health.json()["status"]) == (200, "healthy")
        refused = narrow.ask("POST", "/prompt", json={"prompt": fresh()})
        assert refused.status_code == 503 and "Retry-After" in refused.headers
        gate.touch()
        assert running.result()["images"]
    narrow.process.wait_for(lambda: narrow.ask("GET", "/ready").status_code == 200, "ready")


def test_prepend_filenames_false(narrow: Salad) -> None:
    """The names of 1.9."""
    assert narrow.prompt(fresh(2), id="old")["filenames"] == ["old_00001_.png", "old_00002_.png"]


@pytest.mark.parametrize(
    ("name", "block"),
    [("s3", {"bucket": "b", "prefix": "p"}), ("azure_blob_upload", {"container": "c"}), ("hf_upload", {"repo": "a/b"})],
)
def test_a_storage_that_is_not_configured(narrow: Salad, name: str, block: dict[str, Any]) -> None:
    """400 that says so; upstream hands out base64 in silence."""
    answer = narrow.prompt(fresh(), status=400, **{name: block})
    assert answer["error"] == f"storage provider {name.partition('_')[0]} is not configured"
    assert answer["location"] == name
