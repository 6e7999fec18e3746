"""A worker that was killed and started again finds its prompts in a ComfyUI that lived on; on the fake and a real one.

The earlier life is ``World.leave_behind``: its prompt's events go to a socket that is gone.
"""

import asyncio
import json
import time
import uuid
from pathlib import Path
from typing import Any

import orjson
import pytest

from lib.errors import EngineDied, ExecutionFailed, JobCancelled, JobTimeout, OutOfMemory
from lib.jobs.ports import Withdrawn
from tests.fakes import workflows as w
from tests.fakes.engine_world import SETTINGS, Recorder, World, engine_world, job_of, until


async def _finished(world: World, prompt_id: str) -> None:
    async def there() -> bool:
        return await world.client.history(prompt_id) is not None

    await until(there)


async def _running(world: World, prompt_id: str) -> None:
    async def runs() -> bool:
        return prompt_id in (await world.client.queue()).running

    await until(runs)


async def _gone(world: World, prompt_id: str) -> bool:
    return prompt_id not in await world.client.queue()


async def test_a_prompt_that_finished_meanwhile_is_harvested(world: World) -> None:
    """Nothing runs twice, and the result is what it would have been."""
    job, observer = job_of(), Recorder()
    prompt_id = await world.leave_behind(w.picture("hw/kept"), job=job)
    await _finished(world, prompt_id)
    execution = await world.execute(w.picture("hw/kept"), job=job, observer=observer, prompt_id=prompt_id, attach=True)
    collected = await world.engine.collect(job, execution)
    assert (execution.prompt_id, observer.saw) == (prompt_id, ["posted", "started"])
    (output,) = collected.outputs
    assert (output.filename, output.subfolder, output.error) == ("kept_00001_.png", "hw", None)
    folder = world.output / job.spec.request_id / "hw"
    assert Path(output.local_path) == folder / "kept_00001_.png"
    assert len(list(folder.iterdir())) == 1
    assert 0 <= execution.execute_s < 60


async def test_what_callers_see_does_not_show_the_mark_and_is_what_ran(world: World) -> None:
    """A seed drawn anew after the restart is not the one that was used."""
    job, posted, anew = job_of(), w.picture("hw/seed"), w.picture("hw/seed")
    prompt_id = await world.leave_behind(posted, job=job)
    assert anew["1"]["inputs"]["color"] != posted["1"]["inputs"]["color"]
    collected = await world.run(anew, job=job, prompt_id=prompt_id, attach=True)
    assert collected.response[prompt_id]["prompt"][2] == posted
    text = orjson.dumps(collected.response).decode()
    assert "pyworker" not in text and "_nonce" not in text and job.spec.request_id not in text
    fresh = await world.run(w.picture())
    assert b"pyworker" not in orjson.dumps(fresh.response)


async def test_a_running_prompt_is_followed_to_its_end(world: World, tmp_path: Path) -> None:
    """Its node goes on, nothing is posted, the observer hears of post and start."""
    job, observer = job_of(), Recorder()
    graph = w.held(tmp_path / "gate")
    prompt_id = await world.leave_behind(graph, job=job)
    await _running(world, prompt_id)
    following = world.begin(graph, job=job, observer=observer, prompt_id=prompt_id, attach=True)
    await observer.began.wait()
    (tmp_path / "gate").touch()
    collected = await world.engine.collect(job, await following)
    assert observer.saw == ["posted", "started"]
    assert [output.error for output in collected.outputs] == [None]


async def test_the_end_is_noticed_at_once_although_its_events_go_nowhere(comfyui: Any, tmp_path: Path) -> None:
    """The queue's broadcast wakes us: no poll is near."""
    settings = SETTINGS.model_copy(update={"history_poll_s": 60.0})
    async with engine_world(comfyui=comfyui, root=comfyui.folder, fetched=tmp_path, settings=settings) as world:
        job, graph = job_of(), w.through("HWTicks", seconds=0.6, ticks=6)
        prompt_id = await world.leave_behind(graph, job=job)
        execution = await world.execute(graph, job=job, prompt_id=prompt_id, attach=True)
        ended_at = (await world.client.history(prompt_id) or {})["status"]["messages"][-1][1]["timestamp"] / 1000
        assert time.time() - ended_at < 30
        assert 0.5 < execution.execute_s < 60


async def test_a_pending_prompt_is_waited_for_and_still_counts_as_queued(world: World, tmp_path: Path) -> None:
    """Until it starts it is not told as started."""
    first, observer, job = Recorder(), Recorder(), job_of()
    running = world.begin(w.held(tmp_path / "gate"), observer=first)
    await first.began.wait()
    prompt_id = await world.leave_behind(w.picture(), job=job)
    attached = world.begin(w.picture(), job=job, observer=observer, prompt_id=prompt_id, attach=True)
    await until(lambda: _posted(observer))
    assert observer.saw == ["posted"]
    (tmp_path / "gate").touch()
    await asyncio.gather(running, attached)
    assert observer.saw == ["posted", "started"]


async def _holds(world: World, count: int) -> bool:
    return await world.queued() == count


async def _posted(observer: Recorder) -> bool:
    return bool(observer.saw)


async def test_a_prompt_that_is_not_there_is_posted_under_its_id(world: World) -> None:
    """ComfyUI was restarted too, or the post was never made."""
    job = job_of()
    execution = await world.execute(w.picture(), job=job, prompt_id=job.job_id, attach=True)
    assert execution.prompt_id == job.job_id
    assert (await world.engine.collect(job, execution)).outputs[0].error is None


async def test_a_prompt_that_failed_meanwhile_fails_the_same_way(world: World) -> None:
    """Same class, same details as if it had been followed."""
    graph, job = w.through("HWFail", kind="value"), job_of()
    with pytest.raises(ExecutionFailed) as followed:
        await world.execute(graph)
    prompt_id = await world.leave_behind(graph, job=job)
    await _finished(world, prompt_id)
    with pytest.raises(ExecutionFailed) as attached:
        await world.execute(graph, job=job, prompt_id=prompt_id, attach=True)
    assert attached.value.details == followed.value.details
    assert attached.value.message == followed.value.message
    out_of_memory, other = w.through("HWFail", kind="oom"), job_of()
    await _finished(world, await world.leave_behind(out_of_memory, job=other))
    with pytest.raises(OutOfMemory):
        await world.execute(out_of_memory, job=other, prompt_id=other.job_id, attach=True)


async def test_a_prompt_that_was_interrupted_meanwhile_is_a_cancelled_job(world: World) -> None:
    """As if it had been followed."""
    graph, job = w.through("HWTicks", seconds=20, ticks=800), job_of()
    prompt_id = await world.leave_behind(graph, job=job)
    await _running(world, prompt_id)

    async def stopped() -> bool:
        await world.client.interrupt(prompt_id)
        return await world.client.history(prompt_id) is not None

    await until(stopped)
    with pytest.raises(JobCancelled):
        await world.execute(graph, job=job, prompt_id=prompt_id, attach=True)


async def test_cancelling_and_time_limits_reach_a_prompt_of_an_earlier_life(world: World) -> None:
    """Nothing stays behind."""
    graph, job, observer = w.through("HWTicks", seconds=20, ticks=800), job_of(), Recorder()
    prompt_id = await world.leave_behind(graph, job=job)
    work = world.begin(graph, job=job, observer=observer, prompt_id=prompt_id, attach=True)
    await observer.began.wait()
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert await world.queued() == 0
    other = job_of()
    await world.leave_behind(graph, job=other)
    with pytest.raises(JobTimeout):
        await world.execute(graph, job=other, prompt_id=other.job_id, attach=True, timeout_s=0.3)
    assert await world.queued() == 0


async def test_cancelling_while_it_is_looked_for_leaves_nothing_behind(world: World) -> None:
    """At any moment of the look-up."""
    graph = w.through("HWTicks", seconds=20, ticks=800)
    for turns in range(0, 24, 4):
        job = job_of()
        await world.leave_behind(graph, job=job)
        work = world.begin(graph, job=job, prompt_id=job.job_id, attach=True)
        for _ in range(turns + 1):
            await asyncio.sleep(0)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        assert await world.queued() == 0


async def test_a_pending_prompt_of_an_earlier_life_is_given_back_on_request(world: World, tmp_path: Path) -> None:
    """It moves to an idle engine like any other."""
    first, withdraw, job = Recorder(), asyncio.Event(), job_of()
    running = world.begin(w.held(tmp_path / "gate"), observer=first)
    await first.began.wait()
    await world.leave_behind(w.picture(), job=job)
    withdraw.set()
    with pytest.raises(Withdrawn):
        await world.execute(w.picture(), job=job, prompt_id=job.job_id, attach=True, withdraw=withdraw)
    assert await _gone(world, job.job_id)
    (tmp_path / "gate").touch()
    await running


async def test_pictures_that_went_over_the_lost_socket_make_the_prompt_a_lost_one(world: World) -> None:
    """The job is run again; without its pictures it would be an empty success."""
    job, graph = job_of(), w.over_the_socket(2)
    prompt_id = await world.leave_behind(graph, job=job)
    await _finished(world, prompt_id)
    with pytest.raises(EngineDied, match="pictures") as caught:
        await world.execute(graph, job=job, prompt_id=prompt_id, attach=True)
    assert caught.value.started is True


async def test_a_prompt_is_found_in_queue_and_history(world: World) -> None:
    """Running, pending, finished; none of them is None."""
    done, runs, waits = job_of(), job_of(), job_of()
    await _finished(world, await world.leave_behind(w.picture(), job=done))
    await world.leave_behind(w.through("HWTicks", seconds=20, ticks=800), job=runs)
    await _running(world, runs.job_id)
    await world.leave_behind(w.picture(), job=waits)
    unknown = str(uuid.uuid4())
    for job in (done, runs, waits):
        assert await world.engine.holds([unknown, job.job_id]) == job.job_id
    assert await world.engine.holds([unknown]) is None
    assert await world.engine.holds([]) is None
    assert await world.engine.remove_strays(lambda _: False) == 2


async def test_strays_of_an_earlier_life_are_removed_on_request_only(world: World, tmp_path: Path) -> None:
    """Connecting leaves them alone; known ones, followed ones and other people's stay."""
    stray, known, followed = job_of(), job_of(), job_of()
    running = world.begin(w.held(tmp_path / "gate"), job=followed, prompt_id=followed.job_id)
    await _running(world, followed.job_id)
    for job in (stray, known):
        await world.leave_behind(w.picture(), job=job)
    foreign = str(uuid.uuid4())
    await world.client.post_prompt(orjson.dumps({"prompt": w.picture(), "prompt_id": foreign, "client_id": "someone"}))
    async with engine_world(comfyui=world.comfyui, root=world.root, fetched=world.fetched):
        assert not await _gone(world, stray.job_id)
    assert await world.engine.remove_strays(lambda prompt_id: prompt_id == known.job_id) == 1
    queue = await world.client.queue()
    assert set(queue.running) | set(queue.pending) == {followed.job_id, known.job_id, foreign}
    (tmp_path / "gate").touch()
    await running
    await _finished(world, foreign)


async def test_a_folder_of_a_prompt_that_waits_is_not_given_to_another_job(world: World, tmp_path: Path) -> None:
    """It does not exist yet, so the disk does not tell."""
    first, job = Recorder(), job_of()
    running = world.begin(w.held(tmp_path / "gate"), observer=first)
    await first.began.wait()
    await world.leave_behind(w.picture("a"), job=job)
    found = Recorder()
    attached = world.begin(w.picture("a"), job=job, observer=found, prompt_id=job.job_id, attach=True)
    await until(lambda: _posted(found))
    namesake = job_of(job.spec.request_id)
    other = world.begin(w.picture("a"), job=namesake, prompt_id=namesake.job_id)
    await until(lambda: _holds(world, 3))
    (tmp_path / "gate").touch()
    await running
    paths = [(await world.engine.collect(j, await task)).outputs[0].local_path for j, task in
             ((job, attached), (namesake, other))]  # fmt: skip
    folders = [Path(path).parent.relative_to(world.output) for path in paths]
    assert [str(folder) for folder in folders] == [job.spec.request_id, f"{job.spec.request_id}/2"]


async def test_a_post_after_a_lost_one_of_the_same_id_runs_anew(world: World) -> None:
    """ComfyUI's cache may still know the nodes of the first: texts and files must come again all the same."""
    job, graph = job_of(), w.reporting(json.dumps({"text": ["made"]}))
    await _finished(world, await world.leave_behind(graph, job=job))
    await world.client.forget([job.job_id])
    execution = await world.execute(graph, job=job, prompt_id=job.job_id, attach=True)
    posted = (await world.client.history(job.job_id) or {})["prompt"][2]
    assert not posted["2"]["inputs"]["_nonce"].startswith(job.job_id)
    assert [output.text for output in (await world.engine.collect(job, execution)).outputs] == ["made"]
