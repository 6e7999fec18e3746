"""One worker, two ComfyUIs (fakes, as processes): work is shared, and the loss of one is not the loss of the worker."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.integration.doors import DOORS, Door, Doors, FakeEngine, fake_engines, fleet, reports
from tests.integration.harness import held, picture, slow

MEASURED_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    doors: Doors
    first: FakeEngine
    second: FakeEngine

    def run(self, graph: dict[str, Any], request_id: str = "", *, door: Door = "api") -> requests.Response:
        return self.doors.send(door, {"input": {"workflow_json": graph, "request_id": request_id}})

    def backends(self) -> str:
        return str(self.doors.process.health()["backends_healthy"])

    def wait_backends(self, expected: str) -> None:
        self.doors.process.wait_for(lambda: self.backends() == expected, f"{expected} healthy")

    def made_by(self, reply: requests.Response) -> FakeEngine:
        """Which engine saved the job's picture; the worker has fetched it, it sees no folder of theirs."""
        assert reply.status_code == 200, reply.text
        result = reply.json()
        assert Path(result["output"][0]["local_path"]).read_bytes().startswith(b"\x89PNG")
        engines = [engine for engine in (self.first, self.second) if saved(engine, result["id"])]
        assert len(engines) == 1
        return engines[0]


def saved(engine: FakeEngine, request_id: str) -> bool:
    return any(path.is_file() for path in (engine.folder / "output" / request_id).rglob("*.png"))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("two")
    measured = folder / "ticks.json"
    graph = slow(MEASURED_S)
    graph["2"]["inputs"]["anew"] = "__RANDOM_INT__"
    measured.write_text(json.dumps(graph))
    folders = (tmp_path_factory.mktemp("first"), tmp_path_factory.mktemp("second"))
    with (
        fake_engines(*folders) as (first, second),
        fleet(folder, f"{first.base_url}, {second.base_url}/", BENCHMARK_JSON_PATH=str(measured)) as doors,
    ):
        yield World(doors=doors, first=first, second=second)


def test_the_score_is_the_sum(world: World) -> None:
    """Both are measured, and the autoscaler hears what both do together."""
    health = world.doors.process.health()
    assert world.backends() == "2/2"
    assert [backend["base"] for backend in health["backends"]] == [world.first.base_url, world.second.base_url]
    seconds = [engine["median_s"] for engine in health["benchmark"]["engines"]]
    assert len(seconds) == 2
    assert min(seconds) >= MEASURED_S
    assert health["perf"] == pytest.approx(sum(100 / each for each in seconds))
    assert next(report for report in reports(world.doors.router) if report["loadtime"])["max_perf"] == health["perf"]


def test_jobs_spread(world: World, tmp_path: Path) -> None:
    """Six jobs at once: always two of them run, each engine makes its half, no picture twice."""
    gates = {f"spread-{number}": tmp_path / f"gate-{number}" for number in range(6)}
    process = world.doors.process

    def running() -> set[str]:
        jobs = process.get("/jobs", params={"status": "running"}).json()["jobs"]
        return {job["request_id"] for job in jobs if not gates[job["request_id"]].exists()}

    with ThreadPoolExecutor(6) as pool:
        calls = [pool.submit(world.run, held(gate, color=n), name) for n, (name, gate) in enumerate(gates.items())]
        for _ in range(3):
            process.wait_for(lambda: len(running()) == 2, "two that run")
            for name in running():
                gates[name].touch()
        replies = [call.result() for call in calls]
    engines = [world.made_by(reply) for reply in replies]
    assert engines.count(world.first) == engines.count(world.second) == 3
    assert len({reply.json()["output"][0]["local_path"] for reply in replies}) == 6


def test_one_engine_dies(world: World, tmp_path: Path) -> None:
    """Its jobs end on the other one, the worker stays ready throughout, and takes the engine back when it returns."""
    process = world.doors.process
    once, again = tmp_path / "once", tmp_path / "again"

    def both_run() -> bool:
        return bool(process.health()["queues"]["running"] == 2)

    with ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(world.run, held(once, color=n)) for n in range(10, 14)]
        process.wait_for(both_run, "running on both")
        world.first.kill()
        world.wait_backends("1/2")
        assert process.get("/ready").status_code == 200
        once.touch()
        assert {id(world.made_by(call.result())) for call in calls} == {id(world.second)}
    assert world.made_by(world.run(picture(20))) is world.second
    assert process.get("/ready").status_code == 200
    assert reports(world.doors.router)[-1]["error_msg"] == ""
    world.first.start()
    world.wait_backends("2/2")
    with ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(world.run, held(again, color=n)) for n in (21, 22)]
        process.wait_for(both_run, "running on both")
        again.touch()
        replies = [call.result() for call in calls]
    assert {id(world.made_by(reply)) for reply in replies} == {id(world.first), id(world.second)}


def test_both_die_and_come_back(world: World) -> None:
    """503 with ``Retry-After`` through both doors and the cause in the report; work again when one is back."""
    process = world.doors.process
    world.first.kill()
    world.second.kill()
    process.wait_for(lambda: process.get("/ready").status_code == 503, "not ready")
    assert "ComfyUI is down" in process.get("/ready").json()["reason"]
    for door in DOORS:
        reply = world.run(picture(30), door=door)
        assert reply.status_code == 503
        assert int(reply.headers["Retry-After"]) >= 1
        assert reply.json()["retryable"] is True
    router = world.doors.router
    process.wait_for(lambda: "ComfyUI is down" in reports(router)[-1]["error_msg"], "reported")
    world.second.start()
    process.wait_ready()
    assert world.made_by(world.run(picture(31))) is world.second
    process.wait_for(lambda: reports(router)[-1]["error_msg"] == "", "reported well")
    world.first.start()
    world.wait_backends("2/2")
