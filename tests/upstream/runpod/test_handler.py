"""worker-comfyui's ``tests/test_handler.py``: validation, ComfyUI, pictures in, pictures out, the bucket."""

import base64
import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests

from tests.fakes.http_hosts import png
from tests.fakes.workflows import picture
from tests.integration.harness import WorkerProcess
from tests.integration.mishaps import Aside
from tests.integration.runpod import Endpoint, loading
from tests.upstream.runpod.conftest import UploadingComfyUI

PICTURE = base64.b64encode(png(32, 16)).decode()
IMAGES = [{"name": "image1.png", "image": PICTURE}]


def answered(here: Endpoint, given: Any) -> dict[str, Any]:
    """The job that came of an ``input``."""
    return here.post("/runsync", {"input": given})


def ran(comfyui: Aside[UploadingComfyUI]) -> dict[str, str]:
    """The classes of the nodes that ComfyUI was sent last."""
    return {name: node["class_type"] for name, node in comfyui.server.posted[-1]["prompt"].items()}


# -- validate_input -----------------------------------------------------------------------------------------------


def test_valid_input_with_workflow_only(here: Endpoint, comfyui: Aside[UploadingComfyUI]) -> None:
    """A workflow is all that is needed; ComfyUI gets its nodes. (Upstream takes ``{"key": "value"}`` for one.)"""
    assert answered(here, {"workflow": picture()})["status"] == "COMPLETED"
    assert ran(comfyui) == {"1": "EmptyImage", "2": "SaveImage"}


def test_valid_input_with_workflow_and_images(here: Endpoint) -> None:
    """A workflow with a picture beside it."""
    assert answered(here, {"workflow": picture(), "images": IMAGES})["status"] == "COMPLETED"


def test_input_missing_workflow(here: Endpoint) -> None:
    """The text that upstream compares."""
    done = answered(here, {"images": IMAGES})
    assert (done["status"], done["error"]) == ("FAILED", "Missing 'workflow' parameter")


def test_input_with_invalid_images_structure(here: Endpoint) -> None:
    """The text that upstream compares; ours may say more after it."""
    done = answered(here, {"workflow": picture(), "images": [{"name": "image1.png"}]})
    assert done["status"] == "FAILED"
    assert done["error"].startswith("'images' must be a list of objects with 'name' and 'image' keys")


def test_invalid_json_string_input(here: Endpoint) -> None:
    """The text that upstream compares."""
    done = answered(here, "invalid json")
    assert (done["status"], done["error"]) == ("FAILED", "Invalid JSON format in input")


def test_valid_json_string_input(here: Endpoint, comfyui: Aside[UploadingComfyUI]) -> None:
    """A text that is the JSON of an input counts as that."""
    assert answered(here, json.dumps({"workflow": picture()}))["status"] == "COMPLETED"
    assert ran(comfyui) == {"1": "EmptyImage", "2": "SaveImage"}


def test_empty_input(here: Endpoint) -> None:
    """The text that upstream compares. (An ``input`` that is ``null`` is there; none at all is refused with 400.)"""
    done = answered(here, None)
    assert (done["status"], done["error"]) == ("FAILED", "Please provide input")


# -- ComfyUI ------------------------------------------------------------------------------------------------------


def test_check_server_server_up(here: Endpoint) -> None:
    """ComfyUI answers: the worker is ready."""
    here.process.wait_ready()


def test_check_server_server_down(here: Endpoint, comfyui: Aside[UploadingComfyUI]) -> None:
    """It does not: neither is the worker, and it says so; when ComfyUI is back so is the worker."""
    comfyui.do(comfyui.server.kill())
    try:
        here.process.wait_for(lambda: here.process.get("/ready").status_code == 503, "down")
        workers = here.at("/v2/x").get("/health")["workers"]
        assert (workers["ready"], workers["idle"], workers["unhealthy"] + workers["initializing"]) == (0, 0, 1)
        assert here.process.get("/ping").status_code != 200
    finally:
        comfyui.do(comfyui.server.start())
    here.process.wait_ready()


def test_queue_prompt(here: Endpoint, comfyui: Aside[UploadingComfyUI]) -> None:
    """ComfyUI is sent the prompt once, with the client that listens for it."""
    before = len(comfyui.server.posted)
    assert answered(here, {"workflow": picture()})["status"] == "COMPLETED"
    (posted,) = comfyui.server.posted[before:]
    assert posted["client_id"] in comfyui.server.client_ids


def test_get_history(here: Endpoint, comfyui: Aside[UploadingComfyUI]) -> None:
    """What came of a prompt is read from the history, under its id."""
    answered(here, {"workflow": picture()})
    prompt_id = comfyui.server.posted[-1]["prompt_id"]
    assert f"GET /history/{prompt_id}" in comfyui.server.requests


# -- outputs ------------------------------------------------------------------------------------------------------


def test_base64_encode(here: Endpoint, comfyui: Aside[UploadingComfyUI]) -> None:
    """The file, plain base64, no data URI."""
    done = answered(here, {"workflow": picture("encoded/it")})
    (image,) = done["output"]["images"]
    files = [path.read_bytes() for path in comfyui.server.executor.output.rglob("*.png")]
    assert base64.b64decode(image["data"], validate=True) in files


def test_bucket_endpoint_not_configured(here: Endpoint) -> None:
    """No bucket: base64, and a success."""
    done = answered(here, {"workflow": picture()})
    assert (done["status"], done["output"]["images"][0]["type"]) == ("COMPLETED", "base64")


def test_bucket_endpoint_configured(with_bucket: Endpoint) -> None:
    """Uploaded under the job's id. Two files of one name in different folders are both there, each its own picture."""
    graph = picture("first/same", color=0xFF0000)
    blue = picture("second/same", color=0x0000FF)
    graph |= {"3": blue["1"], "4": {**blue["2"], "inputs": {**blue["2"]["inputs"], "images": ["3", 0]}}}
    done = answered(with_bucket, {"workflow": graph})
    images = done["output"]["images"]
    assert [(image["filename"], image["type"]) for image in images] == [("same_00001_.png", "s3_url")] * 2
    assert all(f"/{done['id']}/" in urlsplit(image["data"]).path for image in images)
    first, second = (requests.get(image["data"], timeout=60).content for image in images)
    assert first.startswith(b"\x89PNG")
    assert second.startswith(b"\x89PNG")
    assert first != second


def test_bucket_endpoint_configured_but_env_vars_wrong_or_missing(
    comfyui: Aside[UploadingComfyUI], tmp_path: Path
) -> None:
    """Upstream writes the file into a local folder and calls that a success. Here the worker says what is missing, and
    does not start."""
    settings = {"COMFYUI_API_BASE": comfyui.server.base_url, "BUCKET_ENDPOINT_URL": "http://127.0.0.1:1/outputs"}
    process = WorkerProcess(tmp_path, settings)
    process.start()
    assert process.process is not None
    assert process.process.wait(120) != 0
    assert "BUCKET_ACCESS_KEY_ID" in process.tail()


# -- pictures -----------------------------------------------------------------------------------------------------


def test_upload_images_successful(here: Endpoint, comfyui: Aside[UploadingComfyUI]) -> None:
    """The picture is there, under its name, before the prompt."""
    done = answered(here, {"workflow": loading("image1.png"), "images": IMAGES})
    assert done["status"] == "COMPLETED"
    assert "POST /upload/image" in comfyui.server.requests


def test_upload_images_failed(here: Endpoint, comfyui: Aside[UploadingComfyUI]) -> None:
    """ComfyUI refuses the picture: the job failed, and nothing was queued."""
    before = len(comfyui.server.posted)
    comfyui.server.refuses_uploads = True
    try:
        done = answered(here, {"workflow": loading("image2.png"), "images": [{"name": "image2.png", "image": PICTURE}]})
    finally:
        comfyui.server.refuses_uploads = False
    assert done["status"] == "FAILED"
    assert done["error"]
    assert len(comfyui.server.posted) == before
