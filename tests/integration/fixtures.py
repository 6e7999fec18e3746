"""Fixtures of whole workers; a ``conftest`` registers them by importing them."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.comfyui_fixture import RealComfyUI
from tests.integration.harness import WorkerProcess, autoscaler, worker
from tests.s3_fixture import S3Server


@pytest.fixture(scope="session")
def autoscaler_url() -> Iterator[str]:
    """The recording autoscaler of this test session."""
    with autoscaler() as url:
        yield url


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Path]:
    """A file: jobs go on until it is there, which it is when a test is over."""
    path = tmp_path / "gate"
    yield path
    path.touch()


@pytest.fixture(scope="session")
def fleet_worker(
    real_comfyui: RealComfyUI,
    autoscaler_url: str,
    nanio_server: S3Server,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[WorkerProcess]:
    """Serverless: reports, signatures, the operator's S3; no TLS, as behind a TLS proxy."""
    port_setting = WorkerProcess(tmp_path_factory.mktemp("ports"), {})
    public = port_setting.env["WORKER_PORT"]
    with worker(
        tmp_path_factory.mktemp("fleet"),
        COMFYUI_API_BASE=real_comfyui.base_url,
        SERVERLESS="true",
        REPORT_ADDR=autoscaler_url,
        CONTAINER_ID="42",
        MASTER_TOKEN="master-token",
        PUBLIC_IPADDR="127.0.0.1",
        WORKER_PORT=public,
        WORKER_HOST="127.0.0.1",
        USE_SSL="false",
        S3_ACCESS_KEY_ID=nanio_server.access_key_id,
        S3_SECRET_ACCESS_KEY=nanio_server.secret_access_key,
        S3_BUCKET_NAME="outputs",
        S3_ENDPOINT_URL=nanio_server.endpoint_url,
        S3_REGION="us-east-1",
        FETCH_ALLOW_HOSTS="127.0.0.1",
    ) as process:
        process.public = f"http://127.0.0.1:{public}"
        process.wait_for(lambda: _routed(autoscaler_url), "known to its autoscaler")  # told a moment after it is ready
        yield process


def _routed(autoscaler_url: str) -> bool:
    body = {"endpoint": "ep", "api_key": "endpoint-key", "cost": 100, "request_idx": 0}
    return "url" in requests.post(f"{autoscaler_url}/route/", json=body, timeout=60).json()
