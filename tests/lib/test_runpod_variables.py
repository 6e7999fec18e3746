"""Every variable of RunPod's worker-comfyui: accepted, with the meaning that it has there."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from docs.build_reference import TARGET
from docs.outside import IMAGE, NOT_READ
from lib.settings import Settings, load_settings
from provisioning.settings import read_host_settings
from tests.comfyui_fixture import REPOSITORY

Read = Callable[[Settings], object]


def secret(value: Any) -> object:
    return value.get_secret_value() if value is not None else None


ROWS: list[tuple[str, str, Read, object]] = [
    ("COMFY_ORG_API_KEY", "k", lambda s: secret(s.engine.comfy_org_api_key), "k"),
    ("COMFY_LOG_LEVEL", "WARNING", lambda s: s.engine.log_level, "WARNING"),
    ("COMFY_API_AVAILABLE_INTERVAL_MS", "50", lambda s: s.engine.probe_interval_ms, 50.0),
    ("COMFY_API_AVAILABLE_MAX_RETRIES", "500", lambda s: s.engine.probe_attempts, 500),
    ("WEBSOCKET_RECONNECT_ATTEMPTS", "5", lambda s: s.engine.failure_threshold, 5),
    ("WEBSOCKET_RECONNECT_DELAY_S", "3", lambda s: s.engine.reconnect_delay_s, 3.0),
    ("WEBSOCKET_TRACE", "true", lambda s: s.engine.socket_trace, True),
    ("BUCKET_ENDPOINT_URL", "https://s3.example", lambda s: s.runpod.bucket_endpoint_url, "https://s3.example"),
    ("BUCKET_ACCESS_KEY_ID", "k", lambda s: secret(s.runpod.bucket_access_key_id), "k"),
    ("BUCKET_SECRET_ACCESS_KEY", "k", lambda s: secret(s.runpod.bucket_secret_access_key), "k"),
    ("BUCKET_PREFIX", "shop", lambda s: s.runpod.bucket_prefix, "shop"),
    ("REFRESH_WORKER", "True", lambda s: s.runpod.refresh_worker, True),
    ("SERVE_API_LOCALLY", "true", lambda s: s.runpod.serve_locally, True),
    ("NETWORK_VOLUME_DEBUG", "true", lambda s: s.runpod.volume_debug, True),
    ("RUNPOD_WEBHOOK_GET_JOB", "https://take", lambda s: s.runpod.job_url, "https://take"),
    ("RUNPOD_AI_API_KEY", "k", lambda s: secret(s.runpod.job_key), "k"),
    ("RUNPOD_POD_ID", "p", lambda s: s.runpod.pod_id, "p"),
    ("RUNPOD_ENDPOINT_ID", "e", lambda s: s.runpod.endpoint_id, "e"),
    ("RUNPOD_LOG_LEVEL", "ERROR", lambda s: s.runpod.sdk_log_level, "ERROR"),
    ("RUNPOD_DEBUG_LEVEL", "ERROR", lambda s: s.runpod.sdk_log_level, "ERROR"),
]
DOCKERFILE = REPOSITORY / "provisioning" / "runpod" / "Dockerfile"
OF_THE_IMAGE = {"PUBLIC_KEY", *re.findall(r"^ARG (\w+)", DOCKERFILE.read_text(encoding="utf-8"), re.MULTILINE)}
NOTHING_HERE = ("ENABLE_PYTORCH_UPGRADE", "HUGGINGFACE_ACCESS_TOKEN", "WEBSOCKET_MESSAGE_TIMEOUT")


@pytest.mark.parametrize(("name", "value", "read", "meant"), ROWS, ids=[row[0] for row in ROWS])
def test_it_means_what_it_meant(name: str, value: str, read: Read, meant: object) -> None:
    """Set alone; and it is no default of ours, or the row would prove nothing."""
    assert read(load_settings({name: value})) == meant
    assert read(load_settings({})) != meant


def test_a_clean_state_outside_of_runpod() -> None:
    """``REFRESH_WORKER`` restarts ComfyUI after each job; inside RunPod's queue the platform restarts the worker. Who
    says how often is believed."""

    def after(**environ: str) -> int | None:
        return load_settings({"REFRESH_WORKER": "true", **environ}).engine.recycle_after_jobs

    assert after() == 1
    assert after(RUNPOD_WEBHOOK_GET_JOB="https://take") is None
    assert after(COMFYUI_RECYCLE_AFTER_JOBS="50") == 50


def test_the_managers_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Provisioning reads it."""
    monkeypatch.setenv("COMFYUI_MANAGER_CONFIG", "/x/config.ini")
    assert read_host_settings().manager_config == Path("/x/config.ini")


@pytest.mark.parametrize(
    "name", [*(row[0] for row in ROWS), "COMFYUI_MANAGER_CONFIG", *sorted(OF_THE_IMAGE), *NOTHING_HERE]
)
def test_the_reference_lists_it(name: str) -> None:
    """What means nothing here with the reason."""
    assert f"`{name}`" in TARGET.read_text(encoding="utf-8")
    assert (name in NOT_READ) == (name in NOTHING_HERE)


def test_the_images_own_are_listed_as_such() -> None:
    """The Dockerfile's arguments, and the key for ssh."""
    assert set(IMAGE) == OF_THE_IMAGE
