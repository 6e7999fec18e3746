"""What an error of ComfyUI's is: out of memory, a GPU that is lost, or just a node that failed.

Upstream searches the whole text, inputs included. Here only ``exception_type`` and ``exception_message`` count, never
what a caller wrote. And nothing is latched for good: an engine with a lost GPU is out of service until its ComfyUI was
restarted.
"""

import asyncio

import pytest

from lib.app.condition import Condition
from lib.app.health import Health
from lib.comfy.faults import execution_error, gpu_fault
from lib.comfy.messages import Failed
from lib.errors import EngineDied, ExecutionFailed, OutOfMemory
from lib.jobs.speed import SpeedGauge
from tests.fakes import workflows as w
from tests.fakes.clock import FakeClock
from tests.fakes.comfy_server import OwnedServer
from tests.fakes.engine_world import World
from tests.fakes.jobs import build_jobs
from tests.upstream.stand_ins import StubEngine


def failed(exception_type: str, message: str) -> Failed:
    return Failed(
        prompt_id="p", node_id="2", node_type="KSampler", exception_type=exception_type, message=message, at_ms=None
    )


@pytest.mark.parametrize(
    ("exception_type", "message", "expected"),
    [
        ("torch.OutOfMemoryError", "", OutOfMemory),
        ("torch.cuda.OutOfMemoryError", "", OutOfMemory),
        ("MemoryError", "", OutOfMemory),
        ("RuntimeError", "CUDA error: out of memory", OutOfMemory),
        ("RuntimeError", "CUDA Out Of Memory. Tried to allocate 2.00 GiB", OutOfMemory),
        ("RuntimeError", "HIP out of memory", OutOfMemory),
        ("RuntimeError", "OutOfMemoryError: the process ran out of memory", OutOfMemory),
        ("RuntimeError", "[enforce fail] DefaultCPUAllocator: not enough memory", OutOfMemory),
        ("RuntimeError", "Insufficient memory for this operation", OutOfMemory),
        ("Fail", "Failed to allocate memory for requested buffer of size 1048576", OutOfMemory),
        ("RuntimeError", "Memory allocation failed", OutOfMemory),
        ("torch.AcceleratorError", "Allocation on device 0 would exceed", OutOfMemory),
        ("ValueError", "boom", ExecutionFailed),
        ("ValueError", "", ExecutionFailed),
        ("", "", ExecutionFailed),
        ("RuntimeError", "CUDA error: device-side assert triggered", ExecutionFailed),
        ("ConnectionError", "Connection refused", ExecutionFailed),
    ],
)
def test_out_of_memory_is_told_apart(exception_type: str, message: str, expected: type) -> None:
    """By type; by message where torch has no type for it."""
    error = execution_error(failed(exception_type, message))
    assert type(error) is expected
    assert error.details["node_id"] == "2"


@pytest.mark.parametrize(
    ("exception_type", "message", "sticky"),
    [
        ("RuntimeError", "CUDA error: an illegal memory access was encountered", True),
        ("torch.AcceleratorError", "CUDA error: device-side assert triggered", True),
        ("RuntimeError", "CUDA error: Unspecified Launch Failure", True),
        ("RuntimeError", "Triton Error [CUDA]: context is destroyed", True),
        ("RuntimeError", "cuda runtime error (59) : device assert", True),
        ("RuntimeError", "CUDA error: misaligned address", True),
        ("RuntimeError", "CUDA error: invalid device function", True),
        ("RuntimeError", "CUDA error: invalid configuration argument", True),
        ("RuntimeError", "CUDA error: out of memory", False),
        ("RuntimeError", "cuda runtime error (2) : out of memory", False),
        ("torch.OutOfMemoryError", "illegal memory access", False),
        ("ValueError", "my prompt says illegal memory access", False),
        ("RuntimeError", "shapes do not match", False),
        ("RuntimeError", "", False),
    ],
)
def test_a_lost_gpu_is_told_apart(exception_type: str, message: str, sticky: bool) -> None:
    """Only torch's own exceptions can mean it, and a shortage of memory never does."""
    assert (gpu_fault(failed(exception_type, message)) is not None) is sticky


async def test_an_engine_with_a_lost_gpu_is_out_of_service_until_it_is_restarted(world: World) -> None:
    """Where upstream latches: the reason is told, the restart clears it, and the next job runs."""
    reasons: list[str | None] = []
    world.engine.on_health(lambda healthy: reasons.append(world.engine.down_reason))
    with pytest.raises(EngineDied, match="illegal memory access"):
        await world.execute(w.through("HWFail", kind="cuda"))
    async with asyncio.timeout(60):
        await world.engine.wait_ready()
    assert "illegal memory access" in (reasons[0] or "")
    assert reasons[-1] is None
    assert (await world.run(w.picture())).outputs


def health_of(*engines: StubEngine) -> Health:
    return Health(
        condition=Condition(clock=FakeClock()),
        service=build_jobs().service,
        engines=engines,  # type: ignore[arg-type]
        servers=[OwnedServer(f"http://{engine.name}", folders=None) for engine in engines],
        speed=SpeedGauge(),
        version="1",
        store="memory",
        primary="wrapper",
    )


def test_health_tells_of_each_backend_and_of_all() -> None:
    """One that is lost is named and leaks into no other; the worker is well while one is (upstream: any bad one makes
    it bad, though the others could serve)."""
    good, bad = StubEngine("a"), StubEngine("b", healthy=False, down_reason="illegal memory access")
    reply = health_of(good, bad).health()
    assert reply.ok
    assert [backend["gpu"]["reason"] for backend in reply.body["backends"]] == ["", "illegal memory access"]
    assert reply.body["gpu"] == {"unrecoverable": False, "reason": ""}
    worse = health_of(StubEngine("a", healthy=False, down_reason="first"), bad).health()
    assert not worse.ok
    assert worse.body["gpu"] == {"unrecoverable": False, "reason": "first"}


def test_health_of_nothing_bad_is_empty() -> None:
    """The keys are there all the same."""
    reply = health_of(StubEngine()).health()
    assert (reply.ok, reply.body["gpu"], reply.body["backends_healthy"]) == (
        True,
        {"unrecoverable": False, "reason": ""},
        "1/1",
    )
