"""The tests of the ``runpod`` package's client (``test_runner.py``), with the real client and a real other side."""

import base64
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.workflows import picture, through
from tests.integration.runpod import Endpoint, request
from tests.peers.runpod.clients import Told, drive_python, one, sdk_python
from tests.upstream.runpod.conftest import KEY

PNG = b"\x89PNG\r\n\x1a\n"
SLOW = through("HWTicks", seconds=30.0, ticks=30)


@pytest.fixture(scope="module")
def python() -> Path:
    return sdk_python()


@pytest.fixture(scope="module")
def told(here: Endpoint, python: Path) -> Told:
    """Every call once, in one run of the client."""
    return drive_python(
        python, "contract", here.process.api, request(picture("contract/it")), slow=request(SLOW), key=KEY
    )


@pytest.fixture(scope="module")
def refused(here: Endpoint, python: Path) -> Told:
    """The same with a key that nobody knows."""
    return drive_python(python, "refused", here.process.api, request(picture()), key="a-key-that-nobody-knows")


def check(output: dict[str, Any]) -> None:
    (image,) = output["images"]
    assert base64.b64decode(image["data"]).startswith(PNG)


def test_run(told: Told) -> None:
    """An id, and a state that the client knows."""
    assert one(told, "run")["id"]
    assert one(told, "run")["status"] in ("IN_QUEUE", "IN_PROGRESS", "COMPLETED")


def test_run_sync(told: Told) -> None:
    """The output."""
    check(one(told, "run sync")["value"])


def test_run_sync_with_timeout(told: Told) -> None:
    """Not in time: the client raises. (Upstream's mock answers before the time is over and gets TimeoutError; a wait
    that the client cuts short is ReadTimeout.)"""
    assert one(told, "run sync with timeout")["raised"] in ("TimeoutError", "ReadTimeout")


def test_endpoint_health(told: Told) -> None:
    """Both groups of counters."""
    assert set(one(told, "health")["value"]) == {"jobs", "workers"}


def test_endpoint_purge_queue(told: Told) -> None:
    """How many, and ``completed`` in small letters."""
    assert one(told, "purge queue")["value"] == {"removed": 0, "status": "completed"}


def test_status(told: Told) -> None:
    """Final once the output is there."""
    assert one(told, "job status")["first"] == "COMPLETED"


def test_job_status(told: Told) -> None:
    """And it stays so."""
    assert one(told, "job status")["second"] == "COMPLETED"


def test_output_with_sleep(told: Told) -> None:
    """Asked for until it is there."""
    check(one(told, "output with sleep")["value"])


def test_output_timeout(told: Told) -> None:
    """TimeoutError."""
    assert one(told, "output timeout")["raised"] == "TimeoutError"


def test_cancel(told: Told) -> None:
    """Answered with the state."""
    assert one(told, "cancel")["value"]["status"] == "CANCELLED"


def test_job_stream(told: Told) -> None:
    """Chunks until the state is final and the list empty; the last one is the output."""
    streamed = one(told, "job stream")
    assert streamed["status"] == "COMPLETED"
    check(streamed["chunks"][-1])


@pytest.mark.parametrize("call", ["run", "run_sync", "health"])
def test_post_with_401(refused: Told, call: str) -> None:
    """RuntimeError for POST and GET alike: upstream's ``test_get_with_401``, ``test_run_with_401`` too."""
    assert one(refused, call)["raised"] == "RuntimeError"
