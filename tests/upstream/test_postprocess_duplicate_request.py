"""The same request, and the same ``request_id``, again: nothing that was handed out is touched.

Upstream copies each output into the request's folder and leaves a link in its place. Here a job writes into a folder
of its own from the start, the second run of an id into one below it; there are no links.
"""

from pathlib import Path

from tests.fakes import workflows as w
from tests.fakes.comfyui import FakeComfyUI
from tests.fakes.engine_world import World, job_of


async def test_a_repeated_request_has_its_entry_and_leaves_the_first_ones_file(world: World) -> None:
    """All but the output node comes from ComfyUI's cache; both files are there, each with its own bytes."""
    graph = w.picture("same")
    (first,) = (await world.run(graph, job=job_of("again"))).outputs
    content, changed_at = Path(first.local_path).read_bytes(), Path(first.local_path).stat().st_mtime_ns
    again = await world.run(graph, job=job_of("again", run=2))
    (second,) = again.outputs
    assert again.response["execution_details"]["cached"] is True
    assert second.local_path != first.local_path
    assert Path(second.local_path).read_bytes() == content
    assert (Path(first.local_path).read_bytes(), Path(first.local_path).stat().st_mtime_ns) == (content, changed_at)


async def test_a_first_run_writes_where_its_entry_says(world: World, fake: FakeComfyUI) -> None:
    """A real file in the request's own folder, under the caller's name; nothing is copied, nothing linked."""
    (entry,) = (await world.run(w.picture("one"), job=job_of("first"))).outputs
    assert Path(entry.local_path) == world.output / "first" / "one_00001_.png"
    files = [path for path in world.output.rglob("*") if not path.is_dir()]
    assert files == [Path(entry.local_path)]
    assert not any(path.is_symlink() for path in world.output.rglob("*"))
