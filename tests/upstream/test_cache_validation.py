"""When a history entry is believed.

Upstream takes any entry that has files for the result, even of a prompt that failed, and posts again where there are
none. Here it is the second witness of a prompt's end: it must be this prompt's, say success, and have run every output
node that was asked for. Files are not asked for: a workflow may put out a text, or nothing.
"""

from pathlib import Path
from typing import Any

import pytest

from lib.errors import EngineUnreachable, ExecutionFailed
from lib.jobs.model import OutputKind
from tests.fakes import workflows as w
from tests.fakes.comfyui import FakeComfyUI
from tests.fakes.engine_world import World, job_of


def with_outputs(**nodes: Any) -> Any:
    """What the entry reports, instead of what it had."""
    return lambda entry: {**entry, "outputs": nodes}


async def test_an_entry_with_files_of_this_prompt_is_valid(world: World) -> None:
    """The usual case."""
    (output,) = (await world.run(w.picture())).outputs
    assert Path(output.local_path).is_file()


async def test_an_entry_of_another_prompt_is_none(world: World, fake: FakeComfyUI) -> None:
    """Asked for by its id, and looked up by it."""
    await world.run(w.picture())
    assert len(fake.executor.history) == 1
    assert await world.client.history("another") is None


async def test_no_entry_is_no_success(world: World, fake: FakeComfyUI) -> None:
    """``{}``, as for an unknown prompt: upstream completes the job without files."""
    fake.wrong.forget_history = True
    job = job_of()
    execution = await world.execute(w.picture(), job=job)
    with pytest.raises(EngineUnreachable):
        await world.engine.collect(job, execution)


@pytest.mark.parametrize("entry", [None, [], "text", 7], ids=repr)
async def test_an_entry_that_is_no_object_is_no_success(world: World, fake: FakeComfyUI, entry: Any) -> None:
    """It can't be read, so nothing is concluded from it."""
    job = job_of()
    execution = await world.execute(w.picture(), job=job)
    fake.wrong.spoil = lambda _: entry
    with pytest.raises(EngineUnreachable, match="can't be read"):
        await world.engine.collect(job, execution)


@pytest.mark.parametrize("nodes", [{}, {"2": {}}, {"2": {"images": []}}, {"2": {"images": [], "gifs": []}}], ids=repr)
async def test_an_entry_without_files_is_a_result_without_files(
    world: World, fake: FakeComfyUI, nodes: dict[str, Any]
) -> None:
    """Its output nodes ran, says ComfyUI: running them again would not change that."""
    fake.wrong.spoil = with_outputs(**nodes)
    assert (await world.run(w.picture())).outputs == ()
    assert len(fake.posted) == 1


async def test_an_entry_whose_output_node_did_not_run_is_a_failure(world: World, fake: FakeComfyUI) -> None:
    """It says success, and names no output node that was executed."""
    fake.wrong.spoil = lambda entry: {**entry, "prompt": [*entry["prompt"][:4], []]}
    with pytest.raises(ExecutionFailed, match="did not run output node 2"):
        await world.run(w.picture())


@pytest.mark.parametrize("garbage", [None, "text", 7, [], {"images": "no list"}, {"images": [None, 7, {}]}], ids=repr)
async def test_a_garbage_sibling_does_not_spoil_a_good_node(world: World, fake: FakeComfyUI, garbage: Any) -> None:
    """What can be read is the result."""
    fake.wrong.spoil = lambda entry: {**entry, "outputs": {"0": garbage, **entry["outputs"], "7": garbage}}
    collected = await world.run(w.picture())
    assert [(output.node_id, output.kind) for output in collected.outputs] == [("2", OutputKind.IMAGE)]
