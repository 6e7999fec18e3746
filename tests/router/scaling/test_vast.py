"""Instances at Vast, through the unmodified ``vastai`` package, against a console on loopback that records."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lib.settings import child_environment
from router.scaling import vast
from router.scaling.command import CommandLine
from router.scaling.ports import InstanceState, Launch, ProviderFailed
from router.scaling.provider_settings import VastProvider
from tests.fakes.vast_console import KEY, VastConsole, vast_console
from tests.peers.vast.sdk import sdk_python

LAUNCH = Launch(
    endpoint="images",
    group="rtx",
    environment={"REPORT_ADDR": "https://router.example.org/e/images", "MASTER_TOKEN": "token-0123456789"},
)
LABEL = "pyrouter/images/rtx"


@pytest.fixture(scope="module")
def python() -> Path:
    return sdk_python()


@pytest.fixture
def console() -> Iterator[VastConsole]:
    with vast_console() as found:
        found.offers = [{"id": 10 + place, "dph_total": 0.2 + place / 10, "dlperf": 50.0} for place in range(4)]
        yield found


def provider(python: Path, console: VastConsole, *, key: str = KEY, **settings: Any) -> CommandLine:
    """As the part makes it of these settings."""
    configured = VastProvider(kind="vast", **{"template_hash": "abc123", **settings})
    return CommandLine(
        (str(python), str(Path(vast.__file__))),
        endpoint="images",
        group="rtx",
        environment=child_environment({}) | {"VAST_API_KEY": key, "VAST_URL": console.url},
        options=configured.model_dump(exclude={"kind", "env", "timeout", "list_every", "keeps_stopped"}),
        timeout_s=240.0,
        fresh_s=30.0,
        keeps_stopped=True,
        secrets=[key],
    )


async def test_the_best_offers_are_rented(python: Path, console: VastConsole) -> None:
    """In the order that the operator wants; one that is gone meanwhile is left out; what a worker needs goes along."""
    console.taken = {10}
    found = await provider(python, console, search_params="gpu_name=RTX_4090", max_price=0.5).start(2, LAUNCH)
    assert [one.price for one in found] == [pytest.approx(0.3), pytest.approx(0.4)]
    assert [one.id for one in found] == sorted(console.instances)
    (search,) = [body for method, path, body in console.calls if path == "/api/v0/bundles/"]
    assert search["gpu_name"] == {"eq": "RTX 4090"}
    assert search["dph_total"] == {"lte": "0.5"} or search["dph_total"] == {"lte": 0.5}
    assert search["order"][0][1] == "desc" and search["type"] == "on-demand"
    rented = [(path, body) for method, path, body in console.calls if path.startswith("/api/v0/asks/")]
    assert [path for path, _ in rented] == [f"/api/v0/asks/{number}/" for number in (10, 11, 12)]
    body = rented[-1][1]
    assert (body["label"], body["template_hash_id"]) == (LABEL, "abc123")
    assert {**LAUNCH.environment, "-p 3000:3000": "1"} == body["env"]


async def test_only_the_groups_own_instances_are_listed(python: Path, console: VastConsole) -> None:
    """By their label; stopped ones are told apart, and what Vast says of each."""
    running, stopped = console.add(LABEL), console.add(LABEL, intended_status="stopped", actual_status="exited")
    loading = console.add(LABEL, actual_status="loading", status_msg="pulling\nimage")
    console.add("somebody-elses")
    console.add("pyrouter/images/other")
    found = {one.id: one for one in await provider(python, console).list()}
    assert {number: one.state for number, one in found.items()} == {
        running: InstanceState.RUNNING,
        stopped: InstanceState.STOPPED,
        loading: InstanceState.RUNNING,
    }
    assert (found[running].price, found[loading].detail) == (0.4, "pulling image")


async def test_instances_are_stopped_resumed_restarted_and_destroyed(python: Path, console: VastConsole) -> None:
    """One that is gone already is no error."""
    number, own = console.add(LABEL), provider(python, console)
    await own.stop(number)
    assert [one.state for one in await own.list()] == [InstanceState.STOPPED]
    await own.resume(number, LAUNCH)
    assert [one.state for one in await own.list()] == [InstanceState.RUNNING]
    await own.restart(number, LAUNCH)
    assert ("PUT", f"/api/v0/instances/reboot/{number}/", {}) in console.calls
    await own.remove(number)
    await own.remove(number)
    assert console.instances == {}


@pytest.mark.parametrize(
    ("offers", "key", "words"),
    [([], KEY, "no offer"), ([{"id": 1, "dph_total": 0.1}], "wrong-key-0123456789", "401")],
)
async def test_why_nothing_was_rented_is_told(
    python: Path, console: VastConsole, offers: list[dict[str, Any]], key: str, words: str
) -> None:
    """Without the key."""
    console.offers = offers
    with pytest.raises(ProviderFailed, match=words) as failed:
        await provider(python, console, key=key).start(1, LAUNCH)
    assert key not in failed.value.message


async def test_a_python_without_the_package_is_told(console: VastConsole) -> None:
    """With the setting that names another."""
    with pytest.raises(ProviderFailed, match="ROUTER_SCALING_VAST_PYTHON"):
        await provider(Path("python3"), console).list()
