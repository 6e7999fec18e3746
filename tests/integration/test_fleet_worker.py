"""What a Vast.ai Serverless user sees: signed requests, seeds, S3, reports; on a real ComfyUI."""

import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.comfyui_fixture import RealComfyUI
from tests.integration.harness import WorkerProcess, calling, held, picture, slow
from tests.s3_fixture import S3Server

pytestmark = pytest.mark.comfyui
PNG = b"\x89PNG\r\n\x1a\n"
DEFAULT_MODEL = "v1-5-pruned-emaonly-fp16.safetensors"


def documented_request(s3: S3Server) -> dict[str, Any]:
    """The request of Vast's ComfyUI page: random seed, the request's own S3 settings."""
    graph = {
        "3": {
            "class_type": "KSampler",
            "inputs": {
                "seed": "__RANDOM_INT__", "steps": 1, "cfg": 8, "sampler_name": "euler", "scheduler": "normal",
                "denoise": 1, "model": ["4", 0], "positive": ["6", 0], "negative": ["7", 0], "latent_image": ["5", 0],
            },
        },
        "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": DEFAULT_MODEL}},
        "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
        "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a bottle in space", "clip": ["4", 1]}},
        "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "text, watermark", "clip": ["4", 1]}},
        "8": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["4", 2]}},
        "9": {"class_type": "SaveImage", "inputs": {"filename_prefix": "ComfyUI", "images": ["8", 0]}},
    }  # fmt: skip
    return {
        "input": {
            "request_id": "",
            "workflow_json": graph,
            "s3": {
                "access_key_id": s3.access_key_id,
                "secret_access_key": s3.secret_access_key,
                "endpoint_url": s3.endpoint_url,
                "bucket_name": "outputs",
                "region": "us-east-1",
            },
            "webhook": {"url": "", "extra_params": {}},
        }
    }


def route(autoscaler_url: str, **fields: Any) -> dict[str, Any]:
    """Ask the autoscaler for a worker, as the SDK does."""
    body = {"endpoint": "ep", "api_key": "endpoint-key", "cost": 100, "request_idx": 0, **fields}
    reply = requests.post(f"{autoscaler_url}/route/", json=body, timeout=60)
    assert reply.status_code == 200
    return dict(reply.json())


def signed(autoscaler_url: str, payload: dict[str, Any], **fields: Any) -> requests.Response:
    """Route and send one request in the envelope."""
    auth = route(autoscaler_url, **fields)
    envelope = {"auth_data": auth, "session_id": None, "payload": payload}
    return requests.post(auth["url"] + "/generate/sync", json=envelope, timeout=240)


def recorded(autoscaler_url: str) -> dict[str, Any]:
    return dict(requests.get(f"{autoscaler_url}/recorded/", timeout=60).json())


def running(process: WorkerProcess) -> bool:
    return bool(process.health()["queues"]["running"])


def deleted(autoscaler_url: str, request_idx: int, timeout_s: float = 60.0) -> dict[str, Any]:
    """Wait for what the worker told of one finished request."""
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        for body in recorded(autoscaler_url)["deletes"]:
            for item in body["requests"]:
                if item["request_idx"] == request_idx:
                    return dict(item)
        time.sleep(0.05)
    raise AssertionError(f"request {request_idx} was never told to be over")


def test_the_documented_request_gives_a_picture_by_presigned_url(
    fleet_worker: WorkerProcess, autoscaler_url: str, nanio_server: S3Server
) -> None:
    """Plain curl downloads the picture; the same request again gives another picture."""
    pictures = []
    for _ in range(2):
        reply = signed(autoscaler_url, documented_request(nanio_server))
        assert reply.status_code == 200, reply.text
        result = reply.json()
        assert result["status"] == "completed"
        (output,) = result["output"]
        assert "X-Amz-Algorithm=AWS4-HMAC-SHA256" in output["url"]
        assert f"/{result['id']}/" in output["url"]
        done = subprocess.run(["curl", "-sf", output["url"]], capture_output=True, check=True)
        assert done.stdout.startswith(PNG)
        pictures.append(done.stdout)
    assert pictures[0] != pictures[1]


def test_secrets_stay_here(fleet_worker: WorkerProcess, autoscaler_url: str, nanio_server: S3Server) -> None:
    """No credential in the result, in the log, or in what the picture carries."""
    result = signed(autoscaler_url, documented_request(nanio_server)).text
    for text in (result, fleet_worker.log.read_text()):
        assert nanio_server.secret_access_key not in text
        assert "master-token" not in text
    assert "X-Amz-Signature" not in fleet_worker.log.read_text()


def test_the_autoscaler_is_told_everything(fleet_worker: WorkerProcess, autoscaler_url: str) -> None:
    """First report unloaded, then loaded with a score; each finished request by its id; load back to zero."""
    statuses = recorded(autoscaler_url)["statuses"]
    assert statuses[0]["loadtime"] == 0.0
    assert statuses[0]["id"] == 42
    assert statuses[0]["mtoken"] == "master-token"
    loaded = next(status for status in statuses if status["loadtime"])
    assert loaded["max_perf"] > 0
    assert loaded["error_msg"] == ""
    assert loaded["url"] == fleet_worker.public
    auth = route(autoscaler_url)
    envelope = {"auth_data": auth, "session_id": None, "payload": {"input": {"workflow_json": picture(1)}}}
    assert requests.post(auth["url"] + "/generate/sync", json=envelope, timeout=240).status_code == 200
    told = deleted(autoscaler_url, auth["request_idx"])
    assert (told["status"], told["success"]) == ("Success", True)
    assert 0 < told["entered_queue_at"] <= told["work_started_at"] <= told["work_completed_at"]


@pytest.mark.parametrize("change", ["signature", "url"])
def test_what_is_not_signed_for_us_is_refused(fleet_worker: WorkerProcess, autoscaler_url: str, change: str) -> None:
    """A forged signature, or a good one for another worker, is 401 with a reason."""
    auth = route(autoscaler_url) | {change: "bm90aGluZw==" if change == "signature" else "http://203.0.113.9:1"}
    envelope = {"auth_data": auth, "session_id": None, "payload": {"input": {"workflow_json": picture(2)}}}
    reply = requests.post(fleet_worker.public + "/generate/sync", json=envelope, timeout=60)
    assert reply.status_code == 401
    assert reply.json()["message"]


def test_a_wrong_graph_stops_the_sdk(fleet_worker: WorkerProcess, autoscaler_url: str) -> None:
    """Mistakes of the caller are 4xx, found early or by ComfyUI, so that nobody retries them on another GPU."""
    missing = {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "nope.safetensors"}},
        "2": {"class_type": "VAEDecode", "inputs": {"samples": ["1", 0], "vae": ["1", 2]}},
        "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "x"}},
    }
    fails = {"1": {"class_type": "SaveImage", "inputs": {"images": "oops", "filename_prefix": "x"}}}
    for graph in (missing, fails):
        reply = signed(autoscaler_url, {"input": {"workflow_json": graph}})
        assert 400 <= reply.status_code < 500, reply.text
        assert reply.json()["status"] == "failed"
    assert "nope.safetensors" in signed(autoscaler_url, {"input": {"workflow_json": missing}}).text


def test_a_lost_connection_cancels_down_to_comfyui(fleet_worker: WorkerProcess, real_comfyui: RealComfyUI) -> None:
    """The client leaves: the prompt is interrupted, and the next job runs."""
    with calling(f"{fleet_worker.api}/generate/sync", {"input": {"workflow_json": slow(60)}}):
        fleet_worker.wait_for(lambda: running(fleet_worker), "running")
    assert fleet_worker.generate({"workflow_json": picture(3)}, timeout=240).status_code == 200
    queue = requests.get(f"{real_comfyui.base_url}/queue", timeout=60).json()
    assert queue == {"queue_running": [], "queue_pending": []}


def test_a_retry_with_the_same_number_gets_the_running_job(
    fleet_worker: WorkerProcess, autoscaler_url: str, gate: Path
) -> None:
    """The SDK gives up and sends the request again: it is attached, not run twice."""
    auth = route(autoscaler_url)
    payload = {"input": {"workflow_json": held(gate, color=11)}}
    envelope = {"auth_data": auth, "session_id": None, "payload": payload}
    with calling(auth["url"] + "/generate/sync", envelope):
        fleet_worker.wait_for(lambda: running(fleet_worker), "running")
    again = route(autoscaler_url, request_idx=auth["request_idx"])
    envelope["auth_data"] = again
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(requests.post, again["url"] + "/generate/sync", json=envelope, timeout=240)
        gate.touch()
        first = call.result().json()
    replayed = requests.post(again["url"] + "/generate/sync", json=envelope, timeout=240).json()
    assert first["status"] == "completed"
    assert first["id"] == replayed["id"]
    assert first["output"] == replayed["output"] or first["output"][0]["filename"] == replayed["output"][0]["filename"]


def test_a_session_holds_the_worker_and_ends_by_webhook(fleet_worker: WorkerProcess, autoscaler_url: str) -> None:
    """Vast's session pattern: the job's webhook ends the session over the plain listener."""
    auth = route(autoscaler_url)
    terms = {"auth_data": auth, "payload": {"lifetime": 60.0}, "session_id": None}
    created = requests.post(fleet_worker.public + "/session/create", json=terms, timeout=60)
    assert created.status_code == 201, created.text
    session_id = created.json()["session_id"]
    owner = {"session_id": session_id, "session_auth": auth}
    assert requests.post(fleet_worker.public + "/session/health", json=owner, timeout=60).json() == {"ok": True}
    envelope = {"auth_data": auth, "session_id": session_id, "payload": {"input": {"workflow_json": picture(4)}}}
    assert requests.post(fleet_worker.public + "/generate/sync", json=envelope, timeout=240).status_code == 200
    ended = requests.post(fleet_worker.plain + "/session/end", json=owner, timeout=60)
    assert ended.json() == {"ended": True, "removed_session": session_id}
    assert requests.post(fleet_worker.public + "/generate/sync", json=envelope, timeout=60).status_code == 410
    assert deleted(autoscaler_url, auth["request_idx"])["status"] == "Success"


def test_the_api_listener_in_serverless_mode(fleet_worker: WorkerProcess) -> None:
    """Operator's S3 without a word from the caller; base64 on request; probes, metrics and docs are there."""
    result = fleet_worker.generate({"request_id": "api-1", "workflow_json": picture(5)}).json()
    assert result["output"][0]["url"].startswith("http")
    assert "/outputs/api-1/w1_00001_.png" in result["output"][0]["url"]
    again = fleet_worker.generate({"request_id": "api-1", "workflow_json": picture(5)}).json()
    assert "/outputs/api-1/2/w1_00001_.png" in again["output"][0]["url"]
    for path in ("/healthz", "/health", "/ready", "/metrics", "/docs", "/openapi.json"):
        assert fleet_worker.get(path).status_code == 200
    assert 'pyworker_jobs_total{dialect="wrapper",outcome="completed"}' in fleet_worker.get("/metrics").text


def test_64_callers_at_once(fleet_worker: WorkerProcess) -> None:
    """Everybody gets the own picture: names, colours and ids are not mixed up."""
    barrier = threading.Barrier(16)

    def one(number: int) -> bool:
        barrier.wait(timeout=120)
        mine = [fleet_worker.generate({"request_id": f"many-{number}-{i}", "workflow_json": picture(number * 100 + i)})
                for i in range(4)]  # fmt: skip
        return all(r.status_code == 200 and r.json()["id"] == f"many-{number}-{i}" for i, r in enumerate(mine))

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(one, range(16)))
