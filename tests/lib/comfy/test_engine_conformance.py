"""What ComfyEngine promises, on the fake and on a real ComfyUI."""

import asyncio
import json
import uuid
from pathlib import Path
from typing import Any

import orjson
import pytest

from lib.comfy.ports import CareAction
from lib.errors import (
    ErrorCode,
    ExecutionFailed,
    InvalidWorkflow,
    JobCancelled,
    JobTimeout,
    OutOfMemory,
    UnsafeInput,
)
from lib.jobs.model import Credential, OutputKind
from lib.jobs.ports import Collected, Withdrawn
from tests.fakes import workflows as w
from tests.fakes.comfyui_nodes import image_png
from tests.fakes.engine_world import Recorder, World, engine_world, job_of, until


async def test_picture_lies_in_the_jobs_own_folder_under_the_callers_name(world: World) -> None:
    """The caller sees the name that the own prompt would have given; the file is in the job's folder."""
    job = job_of()
    collected = await world.run(w.picture("hw/w1"), job=job)
    (output,) = collected.outputs
    assert (output.node_id, output.source_key, output.folder_type) == ("2", "images", "output")
    assert (output.filename, output.subfolder) == ("w1_00001_.png", "hw")
    path = Path(output.local_path)
    assert path == world.output / job.spec.request_id / "hw" / "w1_00001_.png"
    assert (output.kind, output.mime_type, output.size_bytes) == (OutputKind.IMAGE, "image/png", path.stat().st_size)
    assert (output.width, output.height, output.error) == (64, 64, None)
    assert collected.warnings == ()


async def test_response_shows_the_callers_graph_and_none_of_our_rewrites(world: World) -> None:
    """``comfyui_response`` is ComfyUI's history, as the caller's own prompt would have left it."""
    job, graph = job_of(), w.picture("hw/w1")
    execution = await world.execute(graph, job=job)
    collected = await world.engine.collect(job, execution)
    entry = collected.response[execution.prompt_id]
    assert entry["prompt"][2] == graph
    assert entry["outputs"]["2"]["images"] == [{"filename": "w1_00001_.png", "subfolder": "hw", "type": "output"}]
    assert entry["status"]["status_str"] == "success"
    details = collected.response["execution_details"]
    assert (details["prompt_id"], details["completed"], details["error"]) == (execution.prompt_id, True, None)
    assert set(details["nodes_executed"]) == {"1", "2"}
    text = orjson.dumps(collected.response).decode()
    assert job.spec.request_id not in text
    assert "_nonce" not in text
    assert str(world.root) not in text


async def test_no_response_is_built_for_whom_does_not_want_it(world: World) -> None:
    """``keep_response=False`` leaves it empty."""
    assert (await world.run(w.picture(), job=job_of(keep_response=False))).response == {}


async def test_equal_graphs_give_a_new_file_each_while_the_rest_is_cached(world: World) -> None:
    """An output node always runs; what comes before it does not run twice."""
    graph = w.picture("hw/same")
    first, second = await world.run(graph), await world.run(graph)
    assert first.outputs[0].local_path != second.outputs[0].local_path
    assert second.outputs[0].filename == first.outputs[0].filename == "same_00001_.png"
    assert second.response["execution_details"]["cached"] is True
    assert first.response["execution_details"]["cached"] is False


async def test_a_second_run_of_a_request_does_not_touch_the_first_ones_files(world: World) -> None:
    """Folder of the first run: the request id; of later ones: below it."""
    name = f"again-{uuid.uuid4()}"  # the shared ComfyUI keeps what other tests wrote
    first = await world.run(w.picture("a"), job=job_of(name))
    second = await world.run(w.picture("a"), job=job_of(name, run=2))
    after_restart = await world.run(w.picture("a"), job=job_of(name))
    folders = [Path(c.outputs[0].local_path).parent.relative_to(world.output) for c in (first, second, after_restart)]
    assert [str(folder) for folder in folders] == [name, f"{name}/2", f"{name}/3"]
    assert {c.outputs[0].filename for c in (first, second, after_restart)} == {"a_00001_.png"}


async def test_batch_keeps_its_order(world: World) -> None:
    """One entry a picture, in the order of the batch."""
    collected = await world.run(w.picture("hw/w3_%batch_num%", count=3))
    names = [output.filename for output in collected.outputs]
    assert [name.split("_")[1] for name in names] == ["0", "1", "2"]


async def test_outputs_come_in_the_callers_order_and_temp_only_when_asked(world: World) -> None:
    """ComfyUI's order is random per start; previews are not outputs unless wanted."""
    graph = {
        "9": w.node("SaveImage", images=["1", 0], filename_prefix="hw/a"),
        "3": w.node("PreviewImage", images=["1", 0]),
        "4": w.node("SaveImage", images=["1", 0], filename_prefix="hw/b"),
        "1": w.empty(),
    }
    assert [output.node_id for output in (await world.run(graph)).outputs] == ["9", "4"]
    wanted = await world.run(graph, job=job_of(include_temp=True))
    assert [(output.node_id, output.folder_type) for output in wanted.outputs] == [
        ("9", "output"),
        ("3", "temp"),
        ("4", "output"),
    ]
    assert all(Path(output.local_path).is_file() for output in wanted.outputs)


@pytest.mark.parametrize(
    ("graph", "kind", "mime_type"),
    [
        (w.animated_webp(), OutputKind.IMAGE, "image/webp"),
        (w.animated_png(), OutputKind.IMAGE, "image/apng"),
        (w.webm(), OutputKind.VIDEO, "video/webm"),
        (w.mp4(), OutputKind.VIDEO, "video/mp4"),
        (w.audio(), OutputKind.AUDIO, "audio/flac"),
    ],
    ids=["webp", "apng", "webm", "mp4", "flac"],
)
async def test_every_medium_is_told_by_its_content(
    world: World, graph: w.Graph, kind: OutputKind, mime_type: str
) -> None:
    """Videos come under ``images`` too: the file decides."""
    (output,) = (await world.run(graph)).outputs
    assert (output.kind, output.mime_type) == (kind, mime_type)
    assert Path(output.local_path).stat().st_size == output.size_bytes > 0


async def test_latents_and_3d_previews_are_outputs_too(world: World) -> None:
    """A latent by its own key; a model by a path as it stands."""
    (latent,) = (await world.run(w.latent())).outputs
    assert (latent.source_key, latent.kind) == ("latents", OutputKind.LATENT)
    assert Path(latent.local_path).stat().st_size == latent.size_bytes > 0
    (world.output / "mesh").mkdir(exist_ok=True)
    (world.output / "mesh" / "a.glb").write_bytes(b"glTF\2\0\0\0 and so on")
    (model,) = (await world.run(w.preview_3d("mesh/a.glb"))).outputs
    assert (model.source_key, model.kind, model.mime_type) == ("result", OutputKind.MODEL_3D, "model/gltf-binary")
    assert (model.filename, model.subfolder, model.size_bytes) == ("a.glb", "mesh", 18)


async def test_text_is_an_output_without_a_file(world: World) -> None:
    """PreviewAny's text is handed over as it is."""
    (output,) = (await world.run(w.text("hello"))).outputs
    assert (output.kind, output.text, output.local_path, output.size_bytes) == (OutputKind.TEXT, "hello", "", 5)


async def test_pictures_sent_over_the_socket_become_files(world: World) -> None:
    """SaveImageWebsocket writes nothing; its pictures are kept all the same."""
    collected = await world.run(w.over_the_socket(3))
    assert [output.node_id for output in collected.outputs] == ["ws"] * 3
    assert all(Path(output.local_path).is_file() and output.width == 64 for output in collected.outputs)


async def test_input_pictures_are_read(world: World) -> None:
    """A loader finds what lies in the input folder."""
    (world.root / "input" / "conf").mkdir(exist_ok=True)
    (world.root / "input" / "conf" / "ref.png").write_bytes(image_png(48, 32))
    graph = {
        "1": w.node("LoadImage", image="conf/ref.png"),
        "2": w.node("SaveImage", images=["1", 0], filename_prefix="hw/w2"),
    }
    (output,) = (await world.run(graph)).outputs
    assert (output.width, output.height) == (48, 32)


async def test_observer_hears_posted_started_and_rising_progress(world: World) -> None:
    """Posted comes before started, each once; progress never goes back."""
    observer = Recorder()
    await world.execute(w.through("HWTicks", seconds=0.1, ticks=5), observer=observer)
    assert observer.saw == ["posted", "started"]
    percents = [progress.percent for progress in observer.progress]
    assert percents == sorted(percents)
    assert percents[-1] > 50
    ticks = [(p.node_id, p.value, p.maximum) for p in observer.progress if p.value is not None]
    assert ticks[-1] == ("2", 5, 5)


async def test_execution_time_is_comfyuis_own(world: World) -> None:
    """From execution_start to its end, by ComfyUI's stamps."""
    execution = await world.execute(w.through("HWSleep", seconds=0.3))
    assert 0.25 < execution.execute_s < 60
    assert execution.started_at.tzinfo is not None


async def test_a_failing_node_is_named_without_host_paths_or_inputs(world: World) -> None:
    """Class and message go out; traceback, inputs and paths don't."""
    with pytest.raises(ExecutionFailed) as caught:
        await world.execute(w.through("HWFail", kind="value"))
    assert caught.value.code is ErrorCode.EXECUTION_FAILED
    assert caught.value.details["node_id"] == "2"
    assert caught.value.details["node_type"] == "HWFail"
    assert caught.value.details["exception_type"] == "ValueError"
    assert "boom from test node" in caught.value.message
    assert "/opt" not in caught.value.message + json.dumps(dict(caught.value.details))
    assert "traceback" not in caught.value.details
    await world.run(w.picture())


async def test_out_of_memory_is_its_own_error(world: World) -> None:
    """By exception type, whatever the inputs say."""
    with pytest.raises(OutOfMemory):
        await world.execute(w.through("HWFail", kind="oom"))
    with pytest.raises(ExecutionFailed) as caught:
        await world.execute(w.through("HWFail", kind="value", prefix="out of memory"))
    assert caught.value.code is ErrorCode.EXECUTION_FAILED


async def test_validation_errors_name_node_field_and_what_is_near(world: World) -> None:
    """400: ComfyUI's own object, and a sentence that a person can act on."""
    with pytest.raises(InvalidWorkflow) as caught:
        await world.execute(w.invalid())
    errors = caught.value.details["node_errors"]
    assert isinstance(errors, dict)
    assert {node_id: facts["errors"][0]["type"] for node_id, facts in errors.items()} == {
        "1": "value_not_in_list",
        "2": "value_bigger_than_max",
    }
    assert "node 1 (CheckpointLoaderSimple), input ckpt_name" in caught.value.message
    assert "v1-5-pruned-emaonly-fp16.safetensors" in caught.value.message
    assert "node 2 (EmptyLatentImage), input batch_size" in caught.value.message
    assert caught.value.details["nearest"] == {
        "v1-5-pruned-emaonly.safetensors": ["v1-5-pruned-emaonly-fp16.safetensors"]
    }


async def test_a_partly_valid_workflow_does_not_run_by_half(world: World) -> None:
    """ComfyUI answers 200 and drops outputs; that is a refusal here, and nothing stays behind."""
    with pytest.raises(InvalidWorkflow) as caught:
        await world.execute(w.partly_valid())
    assert set(caught.value.details["node_errors"]) == {"3"}  # type: ignore[call-overload]
    assert await world.queued() == 0


def _files(collected: Collected) -> list[tuple[str, str]]:
    assert all(output.error is None and Path(output.local_path).is_file() for output in collected.outputs)
    return [(output.node_id, output.filename) for output in collected.outputs]


async def test_what_was_there_when_a_node_failed_is_kept_on_request(world: World) -> None:
    """With ComfyUI's message in worker-comfyui's words; no traceback, input or host path comes along."""
    job = job_of(keep_partial=True)
    execution = await world.execute(w.partly_failing(), job=job)
    assert isinstance(execution.failure, ExecutionFailed) and execution.partial
    collected = await world.engine.collect(job, execution)
    assert _files(collected) == [("2", "a_00001_.png"), ("3", "b_00001_.png")]
    words = "Workflow execution error: Node Type: HWFail, Node ID: 4, Message: boom from test node, see file.bin"
    assert collected.problems == collected.warnings == (words,)
    told = json.dumps(dict(collected.response))
    assert "boom from test node" in told
    assert not any(text in told for text in ("traceback", "current_inputs", "/opt/", job.spec.request_id, "_nonce"))
    details = collected.response["execution_details"]
    assert details["completed"] is False and "boom" in details["error"]
    world.engine.forget(execution.prompt_id)
    await world.run(w.picture())


@pytest.mark.parametrize(("include_temp", "kept"), [(False, 0), (True, 1)])
async def test_a_failure_that_left_no_file_is_a_failure(world: World, include_temp: bool, kept: int) -> None:
    """Previews and texts are none, unless previews are wanted; the history entry goes."""
    saved, whole = ("2", "3"), {"6": w.node("PreviewImage", images=["1", 0]), **_text(), **w.partly_failing()}
    graph = {node_id: node for node_id, node in whole.items() if node_id not in saved}
    job = job_of(keep_partial=True, include_temp=include_temp)
    execution = await world.execute(graph, job=job)
    if kept:
        collected = await world.engine.collect(job, execution)
        assert [output.node_id for output in collected.outputs if output.text is None] == ["6"]
        return
    with pytest.raises(ExecutionFailed) as caught:
        await world.engine.collect(job, execution)
    assert caught.value is execution.failure and caught.value.details["node_id"] == "4"

    async def gone() -> bool:
        return await world.client.history(execution.prompt_id) is None

    await until(gone)


def _text() -> w.Graph:
    return {f"t{node_id}": node for node_id, node in w.text().items()} | {"t2": w.node("PreviewAny", source=["t1", 0])}


async def test_a_failure_without_that_wish_is_raised(world: World) -> None:
    """As ever; files or not."""
    with pytest.raises(ExecutionFailed, match="boom"):
        await world.execute(w.partly_failing(), job=job_of())


async def test_what_an_earlier_life_left_half_done_is_kept_too(world: World) -> None:
    """By its history entry, which is all that there is of it."""
    job = job_of(keep_partial=True)
    prompt_id = await world.leave_behind(w.partly_failing(), job=job)

    async def ended() -> bool:
        return await world.client.history(prompt_id) is not None

    await until(ended)
    collected = await world.run(w.partly_failing(), job=job, prompt_id=prompt_id, attach=True)
    assert _files(collected) == [("2", "a_00001_.png"), ("3", "b_00001_.png")]
    assert "Node ID: 4" in collected.problems[0]


async def test_memory_that_ran_out_leaves_what_was_there_and_unloads(world: World) -> None:
    """Whether it is tried again is for others to say."""
    job = job_of(keep_partial=True)
    execution = await world.execute(w.partly_failing("oom"), job=job)
    assert isinstance(execution.failure, OutOfMemory)
    assert CareAction.FREED in world.cared
    assert len((await world.engine.collect(job, execution)).outputs) == 2


async def test_outputs_that_comfyui_refuses_are_named_beside_the_others_on_request(world: World) -> None:
    """Its 200 goes on, with its own words for each output that it dropped."""
    job = job_of(keep_partial=True)
    graph = w.partly_valid() | {
        "4": w.node("ImageScale", image=["1", 0], upscale_method="by magic", width=8, height=8, crop="center"),
        "5": w.node("SaveImage", images=["4", 0], filename_prefix="hw/never"),
    }
    execution = await world.execute(graph, job=job)
    assert execution.partial and execution.failure is None
    collected = await world.engine.collect(job, execution)
    assert _files(collected) == [("2", "w17_00001_.png")]
    first, second = collected.problems
    assert first.startswith("Output node 3 (SaveImage) was dropped: node 3 (SaveImage): Required input is missing")
    assert "filename_prefix" in first
    assert second.startswith("Output node 5 (SaveImage) was dropped: node 4 (ImageScale): Value not in list: ")
    assert "by magic" in second
    assert collected.warnings == collected.problems
    world.engine.forget(execution.prompt_id)


KEY = "comfyui-0123456789abcdef"


def _paid(*, fail: bool) -> w.Graph:
    return {"7": w.empty(), "8": w.node("ImageInvert", image=["7", 0]), "9": w.node("HWPay", image=["8", 0], fail=fail)}


async def test_the_callers_key_pays_and_nobody_sees_it_again(world: World) -> None:
    """Partner nodes get it; results, errors, ComfyUI's queue and history don't have it."""
    own = (Credential(kind="comfy_org", values={"api_key": KEY}),)
    job = job_of(credentials=own)
    execution = await world.execute(_paid(fail=False), job=job)
    entry = await world.client.history(execution.prompt_id)
    assert entry is not None and KEY not in json.dumps(entry["prompt"])
    collected = await world.engine.collect(job, execution)
    assert [output.text for output in collected.outputs] == ["paid with ***"]
    assert KEY not in json.dumps(dict(collected.response))
    with pytest.raises(ExecutionFailed, match=r"the key \*\*\* is not welcome") as caught:
        await world.execute(_paid(fail=True), job=job_of(credentials=own))
    assert KEY not in repr(caught.value) + json.dumps(dict(caught.value.details))
    job = job_of(credentials=own, keep_partial=True)
    kept = await world.run(w.picture() | _paid(fail=True), job=job)
    assert KEY not in json.dumps(dict(kept.response)) + "".join(kept.warnings + kept.problems)
    assert KEY.encode() not in b"".join(Path(o.local_path).read_bytes() for o in kept.outputs if o.local_path)


async def test_an_unknown_class_comes_with_the_nearest_names(world: World) -> None:
    """A typing error in a class is one look away from its cure."""
    with pytest.raises(InvalidWorkflow) as caught:
        await world.execute({**w.picture(), "3": w.node("PreviewImag", images=["1", 0])})
    assert "PreviewImage" in caught.value.message


@pytest.mark.parametrize("graph", [{}, {"1": w.empty()}], ids=["empty", "no output node"])
async def test_a_graph_without_outputs_is_refused(world: World, graph: w.Graph) -> None:
    """In ComfyUI's own words."""
    with pytest.raises(InvalidWorkflow, match="no outputs"):
        await world.execute(graph)


@pytest.mark.parametrize(
    "graph",
    [
        {**w.picture(), "7": {"class_type": "EmptyImage"}},
        {**w.picture(), "7": {"class_type": "EmptyImage", "inputs": None}},
        {"1": w.empty(), "2": w.node("SaveImage", images=["1", 0], filename_prefix="x", junk=["55", 0])},
        {"1": w.node("ImageInvert", image=["1", 0]), "2": w.node("SaveImage", images=["1", 0], filename_prefix="x")},
    ],
    ids=["no inputs", "null inputs", "undeclared link to nowhere", "cycle"],
)
async def test_poison_never_reaches_comfyui(world: World, graph: w.Graph) -> None:
    """What kills its executor is refused, and the next job runs."""
    with pytest.raises(InvalidWorkflow):
        await world.execute(graph)
    await world.run(w.picture())


async def test_what_no_output_needs_is_not_posted(world: World) -> None:
    """An unreachable node can't fail the job."""
    graph = {**w.picture(), "7": w.node("ImageInvert", image=["99", 0]), "8": w.node("LoadImage", image="nope.png")}
    collected = await world.run(graph)
    assert len(collected.outputs) == 1


@pytest.mark.parametrize("prefix", ["../../x", "/x", "a/../../x", "C:\\x", "a\0b"])
async def test_a_prefix_that_leads_out_is_refused(world: World, prefix: str) -> None:
    """Nothing is written outside the job's folder."""
    with pytest.raises(UnsafeInput):
        await world.execute(w.picture(prefix))


async def test_two_prompts_wait_in_line_and_both_end(world: World) -> None:
    """One runs, one is pending; ends are told apart."""
    first, second = Recorder(), Recorder()
    running = world.begin(w.through("HWTicks", seconds=0.3, ticks=3), observer=first)
    await first.began.wait()
    pending = world.begin(w.picture(), observer=second)
    assert not second.began.is_set()
    executions = await asyncio.gather(running, pending)
    assert executions[0].prompt_id != executions[1].prompt_id
    assert second.saw == ["posted", "started"]


async def test_cancelling_a_running_prompt_leaves_nothing_behind(world: World) -> None:
    """When CancelledError comes out, the queue is empty and the next job runs."""
    observer = Recorder()
    work = world.begin(w.through("HWTicks", seconds=20, ticks=400), observer=observer)
    await observer.ticked.wait()
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert await world.queued() == 0
    await world.run(w.picture())


async def test_cancelling_at_any_moment_leaves_nothing_behind(world: World) -> None:
    """An interrupt right after a submit may be lost; the prompt goes all the same."""
    for turn in range(12):
        work = world.begin(w.through("HWTicks", seconds=20, ticks=800))
        for _ in range(turn * 3):
            await asyncio.sleep(0)
        work.cancel()
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        assert await world.queued() == 0


async def test_cancelling_a_pending_prompt_spares_the_running_one(world: World, tmp_path: Path) -> None:
    """Never a global interrupt."""
    first, second = Recorder(), Recorder()
    running = world.begin(w.held(tmp_path / "gate"), observer=first)
    await first.began.wait()
    pending = world.begin(w.picture(), observer=second)
    await until(lambda: _holds(world, 2))
    pending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await pending
    assert "started" not in second.saw
    assert not running.done()
    (tmp_path / "gate").touch()
    await running


async def _holds(world: World, count: int) -> bool:
    return await world.queued() == count


async def test_a_pending_prompt_is_given_back_on_request(world: World, tmp_path: Path) -> None:
    """Withdrawn: deleted, verified absent, never started."""
    first, second, withdraw = Recorder(), Recorder(), asyncio.Event()
    running = world.begin(w.held(tmp_path / "gate"), observer=first)
    await first.began.wait()
    pending = world.begin(w.picture(), observer=second, withdraw=withdraw)
    await until(lambda: _holds(world, 2))
    withdraw.set()
    with pytest.raises(Withdrawn):
        await pending
    assert second.saw == ["posted"]
    (tmp_path / "gate").touch()
    await running
    assert await world.client.history(second.prompt_id) is None


async def test_withdrawing_a_started_prompt_is_ignored(world: World) -> None:
    """Once it runs, it runs."""
    observer, withdraw = Recorder(), asyncio.Event()
    work = world.begin(w.through("HWTicks", seconds=0.3, ticks=3), observer=observer, withdraw=withdraw)
    await observer.began.wait()
    withdraw.set()
    assert (await work).prompt_id == observer.prompt_id


async def test_a_prompt_over_its_time_is_stopped(world: World) -> None:
    """JobTimeout, and ComfyUI is free again."""
    with pytest.raises(JobTimeout):
        await world.execute(w.through("HWTicks", seconds=20, ticks=800), timeout_s=0.3)
    assert await world.queued() == 0


async def test_an_interrupt_by_somebody_else_is_a_cancelled_job(world: World) -> None:
    """An interrupted prompt never looks like a success."""
    observer = Recorder()
    work = world.begin(w.through("HWTicks", seconds=20, ticks=800), observer=observer)
    await observer.ticked.wait()
    await world.client.interrupt(observer.prompt_id)
    with pytest.raises(JobCancelled):
        await work


async def test_a_blocked_branch_without_any_output_is_a_failure(world: World) -> None:
    """ComfyUI calls it a success; nobody got anything."""
    job = job_of()
    execution = await world.execute(w.through("HWBlock", message="wrong kind of picture"), job=job)
    with pytest.raises(ExecutionFailed, match="wrong kind of picture"):
        await world.engine.collect(job, execution)


async def test_a_blocked_branch_beside_an_output_is_a_warning(world: World) -> None:
    """What could be made is delivered, and the rest is said."""
    graph = w.through("HWBlock", message="not this one") | {
        "4": w.node("SaveImage", images=["1", 0], filename_prefix="hw/ok")
    }
    collected = await world.run(graph)
    assert [output.node_id for output in collected.outputs] == ["4"]
    assert "not this one" in collected.warnings[0]


async def test_what_packs_report_in_the_wild_is_understood(world: World) -> None:
    """Dict items, bare strings, texts, rubbish; a missing file is an error on its entry, never dropped."""
    job = job_of()
    folder = world.output / "pack"
    folder.mkdir(exist_ok=True)
    (folder / "a.glb").write_bytes(b"glTF\2\0\0\0 and so on")
    ui = {
        "gifs": [{"filename": "lost.mp4", "subfolder": "pack", "type": "output", "format": "video/h264-mp4"}],
        "3d": ["pack/a.glb"],
        "mesh": ["../../../etc/passwd.obj"],
        "text": ["one", "two"],
        "animated": [True],
        "result": [None, {"camera": 1}, "unknown.thing"],
        "files": [{"filename": "a.glb", "subfolder": "pack", "type": "output"}],
    }
    collected = await world.run(w.reporting(json.dumps(ui)), job=job)
    by_key = {(output.source_key, output.filename or output.text): output for output in collected.outputs}
    assert set(by_key) == {
        ("gifs", "lost.mp4"),
        ("3d", "a.glb"),
        ("mesh", "passwd.obj"),
        ("text", "one"),
        ("text", "two"),
        ("files", "a.glb"),
    }
    assert "does not exist" in (by_key["gifs", "lost.mp4"].error or "")
    assert by_key["gifs", "lost.mp4"].kind is OutputKind.VIDEO
    assert by_key["3d", "a.glb"].kind is OutputKind.MODEL_3D
    assert by_key["3d", "a.glb"].local_path == str(folder / "a.glb")
    assert "outside" in (by_key["mesh", "passwd.obj"].error or "")
    assert by_key["mesh", "passwd.obj"].local_path == ""


async def test_history_entries_are_deleted_when_what_they_told_is_recorded(world: World) -> None:
    """Not before: a worker that is killed harvests again. ComfyUI's memory does not grow with the jobs."""
    executions = []
    for _ in range(3):
        job = job_of()
        executions.append(execution := await world.execute(w.picture(), job=job))
        await world.engine.collect(job, execution)
    for execution in executions:
        assert await world.client.history(execution.prompt_id) is not None
        world.engine.forget(execution.prompt_id)

    async def gone() -> bool:
        return all([await world.client.history(execution.prompt_id) is None for execution in executions])

    await until(gone)


async def test_without_shared_folders_files_are_fetched(comfyui: Any, tmp_path: Path) -> None:
    """``local_path`` is true even where ComfyUI's disk can't be reached."""
    fetched = tmp_path / "fetched"
    async with engine_world(comfyui=comfyui, root=comfyui.folder, fetched=fetched, shared=False) as world:
        graph = w.picture("hw/far") | {"3": w.node("PreviewImage", images=["1", 0])}
        collected = await world.run(graph, job=job_of(include_temp=True))
        output, preview = collected.outputs
        assert (output.filename, output.subfolder) == ("far_00001_.png", "hw")
        assert Path(output.local_path).is_relative_to(fetched)
        assert Path(output.local_path).stat().st_size == output.size_bytes > 0
        assert (output.width, preview.folder_type, preview.width) == (64, "temp", 64)


async def test_facts_and_catalogue_are_there_when_ready(world: World) -> None:
    """Versions without paths; classes, options, upload fields."""
    assert world.engine.healthy
    assert world.engine.down_reason is None
    assert world.engine.system_facts["comfyui_version"] == "0.3.75"
    assert "argv" not in world.engine.system_facts
    catalog = world.engine.catalog
    assert catalog.known("SaveImage") and catalog.is_output("SaveImage") and not catalog.is_output("EmptyImage")
    assert catalog.upload_inputs("LoadImage") == ("image",)
    assert "euler" in catalog.options("KSampler", "sampler_name")
    assert "vp9" in catalog.options("SaveWEBM", "codec")
