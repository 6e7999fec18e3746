"""Files that RunPod's requests bring and get: pictures in every form, every kind of output, S3, webhooks."""

import base64
import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import requests

from tests.comfyui_fixture import RealComfyUI
from tests.fakes.http_hosts import Seen, WebHost, png
from tests.integration.doors import foreign_host
from tests.integration.harness import picture
from tests.integration.runpod import Endpoint, busy, endpoint, failing, files_with, loading, request
from tests.s3_fixture import S3Server

pytestmark = pytest.mark.comfyui
PNG, EBML, FLAC, RIFF = b"\x89PNG\r\n\x1a\n", b"\x1a\x45\xdf\xa3", b"fLaC", b"RIFF"
WEEK_S = "604800"


@pytest.fixture(scope="module")
def host() -> Iterator[WebHost]:
    """A host with a picture, and with receivers of webhooks under ``/hook/``."""
    with foreign_host() as host:
        host.files["/ref.png"] = (png(32, 16, shade=100), "image/png")
        yield host


@pytest.fixture(scope="module")
def api(real_comfyui: RealComfyUI, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    """A worker as it comes."""
    with endpoint(tmp_path_factory.mktemp("runpod-files"), real_comfyui.base_url) as made:
        yield made


@pytest.fixture(scope="module")
def bucket(
    real_comfyui: RealComfyUI, nanio_server: S3Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Endpoint]:
    """A worker with worker-comfyui's S3 variables; it tells webhooks the input too."""
    settings = {
        "BUCKET_ENDPOINT_URL": f"{nanio_server.endpoint_url}/outputs",
        "BUCKET_ACCESS_KEY_ID": nanio_server.access_key_id,
        "BUCKET_SECRET_ACCESS_KEY": nanio_server.secret_access_key,
        "BUCKET_PREFIX": "made/here",
        "RUNPOD_WEBHOOK_INPUT": "true",
    }
    with endpoint(tmp_path_factory.mktemp("runpod-bucket"), real_comfyui.base_url, **settings) as made:
        yield made


@pytest.fixture(scope="module")
def legacy(real_comfyui: RealComfyUI, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    """A worker whose answers are those of worker-comfyui before 5.0."""
    folder = tmp_path_factory.mktemp("runpod-legacy")
    with endpoint(folder, real_comfyui.base_url, RUNPOD_OUTPUT="legacy") as made:
        yield made


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def decoded(entry: dict[str, Any]) -> bytes:
    assert entry["type"] == "base64"
    return base64.b64decode(entry["data"], validate=True)


def size(data: bytes) -> tuple[int, int]:
    """Width and height of a PNG."""
    assert data.startswith(PNG)
    width, height = struct.unpack(">II", data[16:24])
    return width, height


# -- pictures of the request --------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["base64", "data URI", "URL", "URL with a query"])
@pytest.mark.parametrize("name", ["in.png", "some/folder/in put.png"])
def test_a_picture_in_every_form(api: Endpoint, host: WebHost, form: str, name: str) -> None:
    """Under its name, a folder in it or not, LoadImage finds it."""
    value = {
        "base64": text(png(32, 16)),
        "data URI": f"data:image/png;base64,{text(png(32, 16))}",
        "URL": host.url("/ref.png"),
        "URL with a query": host.url("/ref.png?token=a,b"),
    }[form]
    output = api.output(loading(name), images=[{"name": name, "image": value}])
    assert size(decoded(output["images"][0])) == (32, 16)


def test_pictures_of_one_name_belong_to_their_jobs(api: Endpoint) -> None:
    """Two requests at once bring different pictures under one name; each gets its own back."""
    wanted = [(16 + number, 8) for number in range(4)]
    jobs = [
        api.run(loading("same.png"), images=[{"name": "same.png", "image": text(png(width, height))}])
        for width, height in wanted
    ]
    outputs = [api.final(job_id)["output"] for job_id in jobs]
    assert [size(decoded(output["images"][0])) for output in outputs] == wanted


@pytest.mark.parametrize(
    ("images", "said"),
    [
        ([{"name": "in.png", "image": "!!! no base64 !!!"}], "in.png"),
        ([{"name": "in.png", "image": "https://169.254.169.254/latest/meta-data"}], "in.png"),
        ([{"name": "in.png", "image": "http://127.0.0.2:1/x.png"}], "in.png"),
        ([{"name": "../../in.png", "image": text(png())}], "images[0].name"),
        ([{"name": "/etc/in.png", "image": text(png())}], "images[0].name"),
        ([{"name": "in.png", "image": text(png())}] * 2, "in.png"),
    ],
    ids=["no base64", "metadata", "private", "upwards", "absolute", "twice"],
)
def test_a_picture_that_cannot_be(api: Endpoint, images: list[dict[str, str]], said: str) -> None:
    """The job fails, and its error says which picture; nothing inside is reached, nothing outside written."""
    done = api.run_sync(loading("in.png"), images=images)
    assert done["status"] == "FAILED"
    assert said in done["error"] + str(done.get("output"))


def test_a_host_that_has_no_such_picture(api: Endpoint, host: WebHost) -> None:
    """404 of the other side: failed, and the error says which picture."""
    done = api.run_sync(loading("in.png"), images=[{"name": "in.png", "image": host.url("/status/404")}])
    assert done["status"] == "FAILED"
    assert "in.png" in done["error"] + str(done.get("output"))
    assert "404" in done["error"] + str(done.get("output"))


def test_paths_from_windows(api: Endpoint) -> None:
    r"""``\`` in the name of a file is a ``/``; in a prompt it stays, since there it means something."""
    graph = loading("some\\folder\\in.png")
    graph["3"] = {"class_type": "PrimitiveStringMultiline", "inputs": {"value": "a \\(cat\\) sits"}}
    graph["4"] = {"class_type": "PreviewAny", "inputs": {"source": ["3", 0]}}
    output = api.output(graph, images=[{"name": "some/folder/in.png", "image": text(png(32, 16))}])
    assert size(decoded(output["images"][0])) == (32, 16)
    assert output["text"] == [{"node_id": "4", "text": "a \\(cat\\) sits"}]


# -- outputs ------------------------------------------------------------------------------------------------------


def frames(count: int) -> dict[str, Any]:
    return {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": count, "color": 1193046}}


def test_every_kind_of_output(api: Endpoint) -> None:
    """What ComfyUI lists under ``images`` is in ``images``, videos too; sound and text have keys of their own."""
    graph = {
        "1": frames(8),
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "kinds/still"}},
        "3": {
            "class_type": "SaveAnimatedWEBP",
            "inputs": {
                "images": ["1", 0],
                "filename_prefix": "kinds/moving",
                "fps": 6.0,
                "lossless": True,
                "quality": 80,
                "method": "fastest",
            },
        },
        "4": {
            "class_type": "SaveWEBM",
            "inputs": {"images": ["1", 0], "filename_prefix": "kinds/w", "codec": "vp9", "fps": 8.0, "crf": 40.0},
        },
        "5": {"class_type": "CreateVideo", "inputs": {"images": ["1", 0], "fps": 8.0}},
        "6": {
            "class_type": "SaveVideo",
            "inputs": {"video": ["5", 0], "filename_prefix": "kinds/v", "format": "mp4", "codec": "h264"},
        },
        "7": {"class_type": "EmptyAudio", "inputs": {"duration": 0.25, "sample_rate": 8000, "channels": 1}},
        "8": {"class_type": "SaveAudio", "inputs": {"audio": ["7", 0], "filename_prefix": "kinds/sound"}},
        "9": {"class_type": "PrimitiveStringMultiline", "inputs": {"value": "words"}},
        "10": {"class_type": "PreviewAny", "inputs": {"source": ["9", 0]}},
    }
    output = api.output(graph)
    assert set(output) == {"images", "audio", "text"}
    assert {set(entry) == {"filename", "type", "data"} for entry in output["images"]} == {True}
    files = {entry["filename"]: decoded(entry) for entry in output["images"]}
    assert len([name for name in files if name.startswith("still_")]) == 8
    assert files["moving_00001_.webp"].startswith(RIFF)
    assert files["w_00001_.webm"].startswith(EBML)
    assert files["v_00001_.mp4"][4:8] == b"ftyp"
    (sound,) = output["audio"]
    assert (sound["filename"], sound["mime_type"], sound["node_id"]) == ("sound_00001_.flac", "audio/flac", "8")
    assert decoded(sound).startswith(FLAC)
    assert output["text"] == [{"node_id": "10", "text": "words"}]


def test_files_under_other_keys(api: Endpoint, real_comfyui: RealComfyUI) -> None:
    """A pack's ``gifs`` are videos, and a file of no known kind is a file; for image-only clients there is no image."""
    for name, data in (("clip.mp4", b"\0\0\0\x20ftypisom" + bytes(64)), ("scene.glb", b"glTF" + bytes(64))):
        (real_comfyui.output / name).write_bytes(data)
    place = {"subfolder": "", "type": "output"}
    reported = {"gifs": [{"filename": "clip.mp4", **place}], "3d": [{"filename": "scene.glb", **place}]}
    graph = {
        "1": frames(1),
        "2": {"class_type": "HWReport", "inputs": {"image": ["1", 0], "ui": json.dumps(reported)}},
    }
    output = api.output(graph)
    assert set(output) == {"status", "images", "videos", "files"}
    assert (output["status"], output["images"]) == ("success_no_images", [])
    (video,), (file,) = output["videos"], output["files"]
    assert (video["filename"], video["mime_type"], video["node_id"]) == ("clip.mp4", "video/mp4", "2")
    assert decoded(video)[4:8] == b"ftyp"
    assert file["filename"] == "scene.glb"


def test_previews_are_no_output(api: Endpoint) -> None:
    """As in the hub's own test: two SaveImage, one PreviewImage, and a picture that no node reads: two files."""
    graph = picture(91, prefix="hub/first")
    graph["3"] = {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}
    graph["4"] = {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "hub/second"}}
    unused = [{"name": "test.png", "image": f"data:image/png;base64,{text(png(32, 32))}"}]
    output = api.output(graph, images=unused)
    assert sorted(entry["filename"] for entry in output["images"]) == ["first_00001_.png", "second_00001_.png"]
    assert set(output) == {"images", "warnings"}
    assert "test.png" in output["warnings"][0]
    only = {"1": graph["1"], "3": graph["3"]}
    assert api.output(only) == {"status": "success_no_images", "images": []}


def test_a_part_of_the_outputs(api: Endpoint) -> None:
    """A node fails after a picture was saved: completed with the picture, and ``errors`` say what failed."""
    graph = picture(92, prefix="part/good") | {
        "3": {"class_type": "HWTicks", "inputs": {"image": ["1", 0], "seconds": 0.3, "ticks": 3}},
        "4": {"class_type": "HWFail", "inputs": {"image": ["3", 0], "kind": "value"}},
        "5": {"class_type": "SaveImage", "inputs": {"images": ["4", 0], "filename_prefix": "part/bad"}},
    }
    output = api.output(graph)
    assert [entry["filename"] for entry in output["images"]] == ["good_00001_.png"]
    (error,) = output["errors"]
    assert error.startswith("Workflow execution error: Node Type: HWFail, Node ID: 4, Message: boom from test node")


def test_outputs_that_comfyui_refuses(api: Endpoint) -> None:
    """It takes one branch of a graph and drops another: the rest is made, and what was dropped is said."""
    graph = picture(93, prefix="taken/good") | {
        "3": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "nope.safetensors"}},
        "4": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
        "5": {"class_type": "VAEDecode", "inputs": {"samples": ["4", 0], "vae": ["3", 2]}},
        "6": {"class_type": "SaveImage", "inputs": {"images": ["5", 0], "filename_prefix": "taken/bad"}},
    }
    output = api.output(graph)
    assert [entry["filename"] for entry in output["images"]] == ["good_00001_.png"]
    assert any("nope.safetensors" in error for error in output["errors"])


def test_a_graph_that_comfyui_refuses(api: Endpoint) -> None:
    """The whole of it: the job failed, and its error names the value, the node, and what there is instead."""
    graph = {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "nope.safetensors"}},
        "2": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
        "3": {"class_type": "VAEDecode", "inputs": {"samples": ["2", 0], "vae": ["1", 2]}},
        "4": {"class_type": "SaveImage", "inputs": {"images": ["3", 0], "filename_prefix": "x"}},
    }
    done = api.run_sync(graph)
    assert done["status"] == "FAILED"
    for word in ("nope.safetensors", "ckpt_name", "v1-5-pruned-emaonly-fp16.safetensors"):
        assert word in done["error"]


def test_nothing_to_show(api: Endpoint) -> None:
    """A node fails and nothing was saved: failed, with the cause in ``error`` and once more in the details."""
    done = api.run_sync(failing())
    assert done["status"] == "FAILED"
    assert "boom from test node" in done["error"]
    assert any("Node Type: HWFail, Node ID: 3" in detail for detail in done["output"]["details"])
    assert "/opt/secret" not in json.dumps(done)


def test_the_answer_before_version_5(legacy: Endpoint) -> None:
    """One picture in ``message``, no list."""
    output = legacy.output(picture(94, prefix="legacy"))
    assert output["status"] == "success"
    assert base64.b64decode(output["message"], validate=True).startswith(PNG)
    assert "images" not in output


# -- S3 -----------------------------------------------------------------------------------------------------------


def keys(server: S3Server, prefix: str, bucket: str = "outputs") -> set[str]:
    listed = server.client().list_objects_v2(Bucket=bucket, Prefix=prefix)
    return {item["Key"] for item in listed.get("Contents", [])}


def test_the_operators_bucket(bucket: Endpoint, nanio_server: S3Server) -> None:
    """A URL that opens for a week; the key is prefix, job and ComfyUI's own file name, so that a person finds it."""
    done = bucket.run_sync(picture(95, prefix="deep/in/it"))
    (entry,) = done["output"]["images"]
    assert (entry["filename"], entry["type"]) == ("it_00001_.png", "s3_url")
    url = urlsplit(entry["data"])
    assert url.path == f"/outputs/made/here/{done['id']}/it_00001_.png"
    assert parse_qs(url.query)["X-Amz-Expires"] == [WEEK_S]
    reply = requests.get(entry["data"], timeout=60)
    assert (reply.content[:8], reply.headers["Content-Type"]) == (PNG, "image/png")


def test_outputs_of_one_name_in_the_bucket(bucket: Endpoint) -> None:
    """Two folders, one file name: two keys."""
    graph = picture(0xFF0000, prefix="a/same")
    graph["3"] = {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "b/same"}}
    images = bucket.output(graph)["images"]
    assert len({entry["data"].split("?")[0] for entry in images}) == 2
    assert {requests.get(entry["data"], timeout=60).status_code for entry in images} == {200}


def test_a_bucket_of_the_request(api: Endpoint, nanio_server: S3Server) -> None:
    """``s3Config`` with keys of its own: there, under its ``objectPath``; the keys are nowhere to be read."""
    nanio_server.client().create_bucket(Bucket="callers")
    config = {
        "accessId": nanio_server.access_key_id,
        "accessSecret": nanio_server.secret_access_key,
        "bucketName": "callers",
        "endpointUrl": nanio_server.endpoint_url,
        "objectPath": "my/path",
    }
    done = api.run_sync(picture(96, prefix="own"), s3Config=config)
    (entry,) = done["output"]["images"]
    assert entry["type"] == "s3_url"
    assert urlsplit(entry["data"]).path == f"/callers/my/path/{done['id']}/own_00001_.png"
    assert requests.get(entry["data"], timeout=60).content.startswith(PNG)
    assert nanio_server.secret_access_key not in api.process.log.read_text() + json.dumps(done)


def test_a_bucket_that_refuses(api: Endpoint, nanio_server: S3Server) -> None:
    """Never a success without the file: what could not be stored is said, and nothing is pretended."""
    config = {
        "accessId": nanio_server.access_key_id,
        "accessSecret": "a-wrong-secret",
        "bucketName": "outputs",
        "endpointUrl": nanio_server.endpoint_url,
    }
    done = api.run_sync(picture(97), s3Config=config)
    said = (
        done.get("error", "") + str(done.get("output", {}).get("errors")) + str(done.get("output", {}).get("details"))
    )
    assert "SignatureDoesNotMatch" in said
    assert "a-wrong-secret" not in json.dumps(done)
    for entry in done.get("output", {}).get("images", []):
        assert "simulated" not in entry["data"]


@pytest.mark.parametrize(
    "config",
    ["x", {}, {"bucketName": "outputs"}, {"accessId": "a", "accessSecret": "b", "bucketName": 7, "endpointUrl": "x"}],
    ids=repr,
)
def test_an_s3_config_that_is_none(api: Endpoint, config: Any) -> None:
    """Refused with its name in the error, as a failed job or at once; never taken for "no bucket"."""
    reply = api.ask("POST", "/runsync", json=request(picture(98), s3Config=config))
    if config == {}:
        assert reply.json()["status"] == "COMPLETED"
        return
    assert reply.status_code in (200, 400)
    assert reply.json()["status"] == "FAILED"
    assert "s3Config" in reply.json()["error"]


# -- webhooks -----------------------------------------------------------------------------------------------------


def told(api: Endpoint, host: WebHost, path: str, count: int = 1, timeout_s: float = 100) -> list[Seen]:
    """What the host was sent at a path, once there are so many."""

    def seen() -> list[Seen]:
        return [one for one in list(host.seen) if one.path == path]

    api.process.wait_for(lambda: len(seen()) >= count, f"{count} posts to {path}", timeout_s)
    return seen()


@pytest.mark.parametrize("key", ["webhook", "webhookV2"])
def test_a_webhook(api: Endpoint, host: WebHost, key: str) -> None:
    """The job as its status is, and the address it went to; no input, no signature."""
    url = host.url(f"/hook/{key}")
    job_id = api.run(picture(99), **{key: url})
    done = api.final(job_id)
    (post,) = told(api, host, f"/hook/{key}")
    assert (post.method, post.headers["Content-Type"].split(";")[0]) == ("POST", "application/json")
    assert json.loads(post.body) == {**done, "webhook": url}


@pytest.mark.parametrize("end", ["FAILED", "CANCELLED", "refused"])
def test_a_webhook_of_a_job_that_did_not_succeed(api: Endpoint, host: WebHost, end: str) -> None:
    """Told of every end, also of a request that never became work."""
    path = f"/hook/{end}"
    graph = {"FAILED": failing(), "CANCELLED": busy(60), "refused": {}}[end]
    asked = request(graph, webhook=host.url(path))
    if end == "refused":
        del asked["input"]["workflow"]
    job_id = str(api.post("/run", asked)["id"])
    if end == "CANCELLED":
        api.until(job_id, "IN_PROGRESS")
        api.post(f"/cancel/{job_id}")
    done = api.final(job_id)
    (post,) = told(api, host, path)
    body = json.loads(post.body)
    if end == "CANCELLED":  # told as it was when it had left the GPU
        assert body.pop("executionTime") >= done.pop("executionTime")
    assert body == {**done, "webhook": host.url(path)}
    assert done["status"] == ("CANCELLED" if end == "CANCELLED" else "FAILED")


def test_a_webhook_is_tried_again(api: Endpoint, host: WebHost) -> None:
    """Nothing but 200 counts; 10 s later it comes again, the same to the byte, and once it is taken no more."""
    host.statuses[:] = [204, 200]
    begun = time.monotonic()
    api.run_sync(picture(100), webhook=host.url("/hook/again"))
    first, second = told(api, host, "/hook/again", 2)
    assert 9 < time.monotonic() - begun < 60
    assert first.body == second.body
    assert host.statuses == []


def test_the_input_in_a_webhook(bucket: Endpoint, host: WebHost) -> None:
    """Where the operator wants it, without the bytes of its pictures and without its secrets."""
    url = host.url("/hook/input")
    data = text(png(32, 16, shade=77))
    graph = loading("in.png")
    body = request(graph, images=[{"name": "in.png", "image": data}], webhook=url)
    body["input"]["comfy_org_api_key"] = "comfyui-a-secret-of-the-callers"
    job_id = str(bucket.post("/run", body)["id"])
    bucket.final(job_id)
    (post,) = told(bucket, host, "/hook/input")
    given = json.loads(post.body)["input"]
    assert given["workflow"] == graph
    assert data.encode() not in post.body
    assert b"a-secret-of-the-callers" not in post.body


def test_a_webhook_that_may_not_be(api: Endpoint) -> None:
    """A private address is refused before anything runs."""
    reply = api.ask("POST", "/run", json=request(picture(101), webhook="http://10.1.2.3/hook"))
    answer = reply.json()
    if reply.status_code == 200:
        answer = api.final(answer["id"])
    assert answer["status"] == "FAILED"
    assert "webhook" in answer["error"]


def test_secrets_stay_secret(api: Endpoint, tmp_path: Path) -> None:
    """A key for partner nodes is in no answer, no log and no plain file of the worker."""
    body = request(picture(102))
    body["input"]["comfy_org_api_key"] = "comfyui-0123456789-a-secret"
    done = api.post("/runsync", body)
    assert done["status"] == "COMPLETED"
    assert "0123456789-a-secret" not in json.dumps(done) + api.process.log.read_text()
    assert files_with(api.process.workspace / "state", b"0123456789-a-secret") == []
