"""Traces, as a collector on loopback receives them."""

import logging
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from lib.settings import TelemetrySettings
from lib.telemetry.traces import Step, open_traces
from tests.fakes.otlp import Collector

BEGUN = datetime(2026, 1, 1, 12, 0, 0, 250_000, tzinfo=UTC)
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def settings(endpoint: str) -> TelemetrySettings:
    return TelemetrySettings(OTEL_EXPORTER_OTLP_ENDPOINT=endpoint, OTEL_SERVICE_NAME="gpu-box")


def step(name: str, start_s: float = 0.0, took_s: float = 1.0, **changes: object) -> Step:
    begun_at = BEGUN + timedelta(seconds=start_s)
    return Step(name=name, begun_at=begun_at, ended_at=begun_at + timedelta(seconds=took_s), **changes)  # type: ignore[arg-type]


def took_s(span: Span) -> float:
    return (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9


async def test_a_job_becomes_a_trace() -> None:
    """A root with its parts below it, at the times of then, under the caller's trace; what comes later joins."""
    async with Collector() as collector:
        async with open_traces(settings(collector.endpoint + "/")) as traces:
            assert traces is not None
            parts = [step("queue", 0, 2.5), step("comfy.execute", 2.5, 4)]
            traces.add_job(
                "j-1", step("job", 0, 7, facts={"job.cost": 50.0}), parts, traceparent=f"00-{TRACE}-{PARENT}-01"
            )
            traces.add_part("j-1", step("webhook", 8, error="503"))
            traces.add_part("j-unknown", step("stray"))
        assert collector.service == "gpu-box"
        spans = collector.spans
    assert set(spans) == {"job", "queue", "comfy.execute", "webhook"}
    assert {span.trace_id.hex() for span in spans.values()} == {TRACE}
    root = spans["job"]
    assert root.parent_span_id.hex() == PARENT
    assert {span.parent_span_id for span in spans.values() if span is not root} == {root.span_id}
    assert [took_s(spans[name]) for name in ("job", "queue", "comfy.execute")] == [7, 2.5, 4]
    assert root.start_time_unix_nano == int(BEGUN.timestamp() * 1000) * 1_000_000
    assert {item.key: item.value.double_value for item in root.attributes} == {"job.cost": 50.0}
    assert spans["webhook"].status.code == Status.STATUS_CODE_ERROR
    assert root.status.code == Status.STATUS_CODE_UNSET


@pytest.mark.parametrize("traceparent", [None, "", "nonsense", f"00-{'0' * 32}-{PARENT}-01"])
async def test_a_job_without_a_trace_gets_one(traceparent: str | None) -> None:
    """What is no trace context counts as none."""
    async with Collector() as collector:
        async with open_traces(settings(collector.endpoint)) as traces:
            assert traces is not None
            traces.add_job("j-1", step("job"), [step("queue")], traceparent=traceparent)
        assert collector.spans["job"].parent_span_id == b""
        assert collector.spans["queue"].trace_id == collector.spans["job"].trace_id


async def test_a_caller_who_does_not_sample_is_heard() -> None:
    """The parent decides; its parts follow."""
    async with Collector() as collector:
        async with open_traces(settings(collector.endpoint)) as traces:
            assert traces is not None
            traces.add_job("j-1", step("job"), [step("queue")], traceparent=f"00-{TRACE}-{PARENT}-00")
        assert collector.spans == {}


async def test_a_collector_that_is_away_harms_nobody() -> None:
    """Jobs end as ever, and so does the worker."""
    async with open_traces(settings("http://127.0.0.1:9")) as traces:
        assert traces is not None
        traces.add_job("j-1", step("job"), [])


async def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """The worker runs on, and its log says what to install."""
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with caplog.at_level(logging.ERROR):
        async with open_traces(settings("http://127.0.0.1:9")) as traces:
            assert traces is None
    assert "pip install -r requirements-traces.txt" in caplog.text


def test_nothing_is_loaded_without_an_endpoint() -> None:
    """Off means off: no import, no object."""
    code = (
        "import asyncio, sys\n"
        "from lib.settings import TelemetrySettings\n"
        "from lib.telemetry.traces import open_traces\n"
        "async def main():\n"
        "    async with open_traces(TelemetrySettings()) as traces:\n"
        "        assert traces is None\n"
        "asyncio.run(main())\n"
        "assert not [name for name in sys.modules if name.startswith('opentelemetry')]\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={}, timeout=240)
