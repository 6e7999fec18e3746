"""The router's benchmark in small: it runs, and its figures make sense."""

import json
import math
import shutil

import pytest

from benchmark.facts import HostFacts
from benchmark.router import RouterReport, plot_router
from benchmark.router_decisions import measure_decisions
from benchmark.router_load import Found, Spent, http_post
from benchmark.router_relay import Relayed, measure_relay
from benchmark.router_routes import CASES, Case, Routes, measure_routes


def quiet(line: str) -> None:
    """Progress lines are for people."""


def made_up(case: Case, *, rate: float) -> Routes:
    spent = Spent(calls=1000, seconds=1000 / rate, cpu_s=0.2)
    found = Found(routes=spent, ends=spent, reports=spent, waited=0, alone_s=(0.001, 0.002), together_s=(0.003,))
    return Routes(case=case, found=found)


async def test_routes_are_measured() -> None:
    """A real router process gives workers to real callers, with either signature and store; nobody waits for one."""
    cases = [case for case in CASES if not case.redis or shutil.which("redis-server")]
    measured = await measure_routes(quiet, cases=cases, seconds=0.1, workers=20, busy=10)
    assert [one.case for one in measured] == cases
    for one in measured:
        assert one.found.routes.calls == one.found.ends.calls - len(one.found.alone_s) > 0
        assert one.found.waited == 0 and one.rate > 0


def test_decisions_are_measured() -> None:
    """Hundreds of workers, a handful of decisions; each figure is one, and a target is there for each fleet."""
    report = measure_decisions(quiet, decisions=50, fleets=(40, 80))
    assert [one.workers for one in report.measured[::4]] == [40, 80]
    for one in report.measured:
        assert min(one.decisions, one.per_second, one.mean_ms, one.p99_ms, one.pass_p99_ms, one.placed_ms) > 0
    assert len(report.targets()) == 6 and len(report.rows()) == 10


def test_a_rate_is_held_against_its_promise() -> None:
    """A missed target is said, with the share of the core that the router had."""
    met, missed = made_up(CASES[0], rate=4000.0).target(), made_up(CASES[0], rate=3999.0).target()
    assert met is not None and met.met is True and missed is not None and missed.met is False
    assert "0.80 of the core" in missed.found
    assert made_up(Case(name="other"), rate=1.0).target() is None


async def test_calls_are_relayed_and_made_directly() -> None:
    """A real router in front of a worker that does nothing: all calls are answered, both ways."""
    found = await measure_relay(quiet, rounds=2, calls=5)
    assert [len(one) for one in (*found.direct_s, *found.relayed_s)] == [5] * 4
    assert min(min(one) for one in (*found.direct_s, *found.relayed_s)) > 0 and found.cpu_us >= 0
    assert math.isfinite(found.added_ms().value)


def test_what_the_relay_adds_is_a_difference_of_medians() -> None:
    """Of each round; the upper end of the interval is held against the promise."""
    direct = ((0.001, 0.001, 0.9), (0.002, 0.002, 0.002))
    found = Relayed(direct_s=direct, relayed_s=((0.0018, 0.0018, 0.9), (0.0028, 0.0028, 0.0028)), cpu_us=500.0)
    assert found.added_ms().value == pytest.approx(0.8) and found.target().met is True
    slow = Relayed(direct_s=direct, relayed_s=((0.0018, 0.0018, 0.9), (0.0038, 0.0038, 0.0038)), cpu_us=500.0)
    assert slow.target().met is False


def test_the_report_has_tables_targets_and_a_picture(tmp_path) -> None:
    """All three parts; figures as JSON."""
    report = RouterReport(
        facts=HostFacts(cpu="a processor", cpu_count=2),
        decisions=measure_decisions(quiet, decisions=30, fleets=(40, 80)),
        routes=tuple(made_up(case, rate=5000.0) for case in CASES),
        relay=Relayed(direct_s=((0.001,),), relayed_s=((0.0015,),), cpu_us=400.0),
    )
    text = report.markdown()
    assert all(f"### {title}" in text for title in ("Decisions", "Routes over HTTP, one core", "Relay", "Targets"))
    assert len(report.targets()) == 10
    assert json.loads(json.dumps(report.to_json()))["relay"]["cpu_us"] == 400.0
    plot_router(report, tmp_path / "router.png")
    assert (tmp_path / "router.png").stat().st_size > 10_000


def test_requests_are_whole() -> None:
    """A path behind the base URL, headers, and the length of the body."""
    request = http_post("http://127.0.0.1:8080/e/x", "/route/", {"a": 1}, {"X-A": "b"})
    head, _, body = request.partition(b"\r\n\r\n")
    assert head.startswith(b"POST /e/x/route/ HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nX-A: b\r\n")
    assert b"Content-Length: 7" in head and body == b'{"a":1}'
