"""``filename_prefix: "video/foo"``: the file is found, and its entry keeps the subfolder."""

from pathlib import Path

import pytest

from lib.dialects.wrapper.render import render
from tests.fakes import workflows as w
from tests.fakes.engine_world import World, job_of
from tests.upstream.stand_ins import DONE


@pytest.mark.parametrize(("prefix", "subfolder"), [("video/foo", "video"), ("a/b/foo", "a/b"), ("foo", "")])
async def test_a_prefix_with_a_folder(world: World, prefix: str, subfolder: str) -> None:
    """``subfolder`` and ``filename`` are what the caller's own prompt gives; ``local_path`` is the file."""
    collected = await world.run(w.picture(prefix), job=job_of("abc"))
    (entry,) = render(DONE.with_(outputs=collected.outputs), include_response=False)["output"]
    assert (entry["subfolder"], entry["filename"]) == (subfolder, "foo_00001_.png")
    assert Path(entry["local_path"]).is_file()
    assert Path(entry["local_path"]).parent == world.output / "abc" / subfolder


async def test_a_cache_hit_of_another_request_has_a_file_of_its_own(world: World) -> None:
    """What upstream has to copy out of the other's folder is written anew: an output node always runs."""
    graph = w.picture("video/foo")
    (first,) = (await world.run(graph, job=job_of("one"))).outputs
    (second,) = (await world.run(graph, job=job_of("two"))).outputs
    assert second.subfolder == "video"
    assert Path(second.local_path) == world.output / "two" / "video" / "foo_00001_.png"
    assert Path(second.local_path).read_bytes() == Path(first.local_path).read_bytes()


async def test_a_file_in_the_requests_own_folder_is_accepted(world: World) -> None:
    """A caller whose prefix names the request id gets that subfolder below the job's own."""
    (entry,) = (await world.run(w.picture("mine/foo"), job=job_of("mine"))).outputs
    assert entry.subfolder == "mine"
    assert Path(entry.local_path) == world.output / "mine" / "mine" / "foo_00001_.png"
