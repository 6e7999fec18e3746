"""What one prompt's session makes of messages and history entries."""

import asyncio
from typing import Any

from lib.comfy import messages as m
from lib.comfy.session import MAX_PICTURE_BYTES, MAX_UPDATES, PromptSession, when
from tests.fakes.engine_world import Recorder

P = "p"


def _session(observer: Recorder | None = None, nodes: int = 4) -> PromptSession:
    graph: dict[str, Any] = {str(index): {"class_type": f"Class{index}"} for index in range(nodes)}
    session = PromptSession(prompt_id=P, observer=observer or Recorder())
    session.takes(graph, wanted=("9",))
    return session


def _tick(value: float, maximum: float = 4, node_id: str = "1") -> m.NodeProgressed:
    return m.NodeProgressed(prompt_id=P, node_id=node_id, value=value, maximum=maximum)


async def test_the_start_of_each_node_is_kept() -> None:
    """Counted from the start of the execution, the first time that a node is seen; cached ones never start."""
    session = _session()
    session.apply(m.Started(prompt_id=P, at_ms=5))
    session.apply(m.Cached(prompt_id=P, node_ids=("0",)))
    session.apply(m.NodeStarted(prompt_id=P, node_id="1"))
    first = session.story.node_starts_s["1"]
    await asyncio.sleep(0)
    session.apply(m.NodeStarted(prompt_id=P, node_id="2"))
    session.apply(m.NodeStarted(prompt_id=P, node_id="1"))
    assert list(session.story.node_starts_s) == ["1", "2"]
    assert 0 <= first == session.story.node_starts_s["1"] <= session.story.node_starts_s["2"] < 5


async def test_what_comes_before_the_posts_answer_is_told_after_it() -> None:
    """``posted`` is the first call, whichever was faster."""
    observer = Recorder()
    session = _session(observer)
    session.apply(m.Started(prompt_id=P, at_ms=5))
    session.apply(_tick(1))
    assert observer.saw == [] and observer.progress == []
    session.accepted()
    assert observer.saw == ["posted", "started"]


async def test_success_is_over_at_the_end_marker_only() -> None:
    """``execution_success`` comes before the history exists."""
    session = _session()
    session.accepted()
    session.apply(m.Started(prompt_id=P, at_ms=1000))
    session.apply(m.Succeeded(prompt_id=P, at_ms=1500))
    assert not session.over
    session.apply(m.Ended(prompt_id=P))
    assert session.over and session.ended and session.story.succeeded
    assert (session.story.started_at_ms, session.story.ended_at_ms) == (1000, 1500)


async def test_a_blocked_branch_is_not_a_failure() -> None:
    """The prompt goes on."""
    session = _session()
    blocked = m.Failed(
        prompt_id=P, node_id="2", node_type="X", exception_type="ExecutionBlocked", message="no", at_ms=None
    )
    session.apply(blocked)
    assert session.story.failure is None and session.story.blocked == blocked


async def test_progress_counts_nodes_and_ticks_and_never_goes_back() -> None:
    """Cached nodes are done from the start; 100 is for the job's end."""
    observer = Recorder()
    session = _session(observer)
    session.accepted()
    session.apply(m.Cached(prompt_id=P, node_ids=("0", "1")))
    session.apply(m.NodeStarted(prompt_id=P, node_id="2"))
    session.apply(_tick(2, node_id="2"))
    session.apply(_tick(1, node_id="2"))
    session.apply(m.NodeStarted(prompt_id=P, node_id="3"))
    session.apply(_tick(4, node_id="3"))
    assert [progress.percent for progress in observer.progress] == [50, 62.5, 62.5, 75, 99]
    assert session.story.node_ids == ["0", "1", "2", "3"]
    assert [progress.node_type for progress in observer.progress][-1] == "Class3"


async def test_progress_of_odd_nodes_is_no_error() -> None:
    """A maximum of nothing; more than the maximum; more nodes than the graph has."""
    observer = Recorder()
    session = _session(observer, nodes=1)
    session.accepted()
    session.apply(_tick(1, 0))
    for index in range(5):
        session.apply(m.NodeStarted(prompt_id=P, node_id=f"x{index}"))
    session.apply(_tick(9, 4))
    assert observer.progress[-1].percent == 99


async def test_updates_are_bounded() -> None:
    """The latest ones are kept."""
    session = _session()
    session.begin()
    for value in range(MAX_UPDATES + 10):
        session.apply(_tick(value, 1000))
    assert len(session.story.updates) == MAX_UPDATES
    assert session.story.updates[-1]["value"] == MAX_UPDATES + 9
    assert set(session.story.updates[0]) == {"time", "value", "max", "percentage"}


async def test_previews_are_told_and_outputs_kept_within_bounds() -> None:
    """Only nodes that have no other way out; nothing is told before the post."""
    observer = Recorder()
    session = _session(observer)
    preview = m.Picture(prompt_id=P, node_id="1", mime_type="image/jpeg", data=b"preview")
    session.apply(preview)
    assert observer.previews == []
    session.accepted()
    session.apply(preview)
    assert [(told.node_id, told.data) for told in observer.previews] == [("1", b"preview")]
    assert session.story.pictures == []
    session.apply(m.Picture(prompt_id=P, node_id="9", mime_type="image/png", data=b"x"))
    session.apply(m.Picture(prompt_id=P, node_id="9", mime_type="image/png", data=bytes(MAX_PICTURE_BYTES)))
    assert (len(session.story.pictures), session.story.pictures_dropped) == (1, 1)


def _entry(status: str, *messages: list[Any]) -> dict[str, Any]:
    return {"status": {"status_str": status, "completed": status == "success", "messages": list(messages)}}


async def test_the_history_tells_what_the_socket_did_not() -> None:
    """Start, end and outcome."""
    observer = Recorder()
    session = _session(observer)
    session.accepted()
    start = ["execution_start", {"prompt_id": P, "timestamp": 1000}]
    done = ["execution_success", {"prompt_id": P, "timestamp": 3000}]
    entry = _entry("success", start, ["execution_cached", {"prompt_id": P, "nodes": ["1"]}], done)
    session.conclude(entry)
    assert session.ended and session.story.succeeded and session.story.entry is entry
    assert (session.story.started_at_ms, session.story.ended_at_ms) == (1000, 3000)
    assert session.story.node_ids == ["1"]
    assert observer.saw == ["posted", "started"]


async def test_failures_and_interrupts_in_the_history_are_no_success() -> None:
    """Whatever comes of the messages, ``status_str`` alone is not read as success."""
    error = {"prompt_id": P, "node_id": "2", "node_type": "X", "exception_type": "ValueError"}
    failed, stopped = _session(), _session()
    failed.conclude(_entry("error", ["execution_error", error]))
    stopped.conclude(_entry("error", ["execution_interrupted", {"prompt_id": P, "node_id": "2"}]))
    assert failed.story.failure is not None and not failed.story.succeeded
    assert stopped.story.interrupted and not stopped.story.succeeded


async def test_an_entry_without_messages_is_judged_by_its_status() -> None:
    """Newer servers may say it another way."""
    good, bad = _session(), _session()
    good.conclude(_entry("success"))
    bad.conclude({})
    assert good.story.succeeded and not bad.story.decided


async def test_a_prompt_that_is_over_can_not_be_lost() -> None:
    """The end came first."""
    session = _session()
    session.apply(m.Ended(prompt_id=P))
    session.lose("the process ended")
    assert session.lost is None


async def test_news_come_once() -> None:
    """Waiting ends with a loss, and at its time without one."""
    session, time = _session(), asyncio.get_running_loop().time
    begun = time()
    await session.news(0.001)
    assert time() - begun >= 0.001
    session.lose("gone")
    await session.news(None)
    begun = time()
    await session.news(0.001)
    assert time() - begun >= 0.001


def test_stamps_are_milliseconds_in_utc() -> None:
    """Aware times."""
    stamp = when(1795223674983)
    assert stamp is not None and stamp.isoformat() == "2026-11-21T01:14:34.983000+00:00"
    assert when(None) is None
