"""One answer to "are jobs taken now, and if not, why": phases, troubles, recovery."""

from lib.app.condition import Condition
from lib.app.summary import Addresses, text
from tests.fakes.clock import FakeClock


async def test_from_start_to_ready() -> None:
    """A phase is a reason, but no error; once open there is neither; the load time is that of the first opening."""
    clock = FakeClock()
    condition = Condition(clock=clock)
    condition.enter("waiting for ComfyUI")
    assert (condition.reason, condition.error) == ("waiting for ComfyUI", "")
    await clock.advance(12)
    condition.opened()
    assert (condition.reason, condition.error, condition.loadtime_s) == (None, "", 12)
    await clock.advance(5)
    condition.opened()
    assert condition.loadtime_s == 12


async def test_troubles_close_and_recovery_opens() -> None:
    """Each trouble counts until it is cleared by name; listeners hear of every change, and of nothing twice."""
    condition = Condition(clock=FakeClock())
    condition.opened()
    heard: list[str | None] = []
    condition.listen(lambda: heard.append(condition.reason))
    condition.trouble("engines", "ComfyUI is down")
    condition.trouble("engines", "ComfyUI is down")
    condition.trouble("public key", "no key")
    condition.cleared("engines")
    condition.cleared("engines")
    assert condition.error == "no key"
    condition.cleared("public key")
    assert heard == ["ComfyUI is down", "ComfyUI is down; no key", "no key", None]
    condition.drain()
    assert condition.draining
    assert condition.reason == "the worker is shutting down"


def test_the_summary_says_what_is_wrong() -> None:
    """Addresses always; the line to paste only when it would work."""
    addresses = Addresses(api="http://127.0.0.1:1", public="http://127.0.0.1:2", plain="http://127.0.0.1:3")
    good = text(addresses, score={"perf": 12.5, "workflow_title": "a picture"}, output_hint="/out", problem=None)
    assert "curl -s http://127.0.0.1:1/generate/sync" in good
    assert "12.5" in good
    bad = text(addresses, score=None, output_hint="/out", problem="provisioning failed: x")
    assert "NOT READY  provisioning failed: x" in bad
    assert "curl" not in bad
    assert "not measured" in bad
