"""What is resident where, and how long loading takes, as finished jobs show it."""

import json
from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from lib.fleet.warmth import LARGE_BYTES, MOST_ROOM, Warmth
from lib.jobs.model import Estimate, Job, JobSpec, JobStatus, Timings
from tests.fakes.clock import START

SAMPLER: dict[str, Any] = {"class_type": "KSampler", "inputs": {"model": ["1", 0], "steps": 20}}


def a_run(model: str | None, seconds: float, *, ran: str = "", engine: str = "a", padding: int = 0) -> Job:
    """A job with this checkpoint, in which these nodes ran: ``1`` loads, ``2`` samples, ``3`` saves."""
    inputs = {} if model is None else {"ckpt_name": f"{model}.safetensors"}
    loader = {"class_type": "CheckpointLoaderSimple", "inputs": inputs}
    saver = {"class_type": "SaveImage", "inputs": {"text": "x" * padding}}
    spec = JobSpec(
        request_id="r",
        dialect="test",
        workflow=json.dumps({"1": loader, "2": SAMPLER, "3": saver}).encode(),
        estimate=Estimate(units=1, shape=f"s{model}"),
    )
    timings = Timings(accepted_at=START, execute_s=seconds, node_starts_s=dict.fromkeys(ran, 0.0))
    return Job(job_id="j", spec=spec, sequence=1, cost=1, timings=timings, status=JobStatus.COMPLETED, engine=engine)


def heard(*runs: tuple[str, float, str]) -> Warmth:
    """One that heard of these: model, seconds, nodes that ran."""
    warmth = Warmth()
    for model, seconds, ran in runs:
        warmth.heard(a_run(model, seconds, ran=ran))
    return warmth


def names(warmth: Warmth, engines: int = 1) -> list[str]:
    return [name.removesuffix(".safetensors") for name in warmth.now(engines).models]


def test_the_last_one_is_resident() -> None:
    """ComfyUI keeps what its last prompt used; failed jobs, and those without a model, tell nothing."""
    warmth = heard(("x", 1, "123"), ("y", 1, "123"))
    warmth.heard(a_run(None, 1, ran="123"))
    warmth.heard(a_run("z", 1, ran="123").with_(status=JobStatus.FAILED))
    assert names(warmth) == ["y"] and warmth.now(1).room == 1


def test_engines_have_their_own() -> None:
    """Least recently used first; one that ended has nothing."""
    warmth = Warmth()
    for model, engine in (("x", "a"), ("y", "b"), ("x", "a")):
        warmth.heard(a_run(model, 1, engine=engine))
    assert names(warmth) == ["y", "x"]
    assert (warmth.now(2).room, warmth.now(3).room) == (2, 3)
    warmth.lost("a")
    assert names(warmth) == ["y"]


def test_a_first_run_tells_the_load_time_once_there_is_a_warm_one() -> None:
    """First run less warm run."""
    first = ("x", 9.0, "123")
    assert heard(first).now(1).swap_s == {}
    assert heard(first, ("x", 1.0, "23")).now(1).swap_s == {"x.safetensors": 8.0}


def test_later_loads_correct_it() -> None:
    """A third of the way each time."""
    warmth = heard(("x", 9.0, "123"), ("x", 1.0, "23"), ("y", 5.0, "123"), ("x", 6.0, "123"))
    assert warmth.now(1).swap_s["x.safetensors"] == 7.1


def test_what_was_not_loaded_was_still_there() -> None:
    """A ComfyUI that keeps more is found out, and one that keeps less again too."""
    runs = [("x", 9.0, "123"), ("y", 9.0, "123"), ("x", 1.0, "23")]
    more = heard(*runs)
    assert more.now(1).room == 2 and names(more) == ["y", "x"]
    less = heard(*runs, ("y", 9.0, "123"))
    assert less.now(1).room == 1 and names(less) == ["y"]


def test_a_run_without_sampling_tells_no_time() -> None:
    """All of it came out of the cache, and took nothing."""
    warmth = heard(("x", 9.0, "123"), ("x", 0.01, "3"))
    assert warmth.now(1).swap_s == {} and names(warmth) == ["x"]


def test_where_nothing_is_known_of_nodes_use_alone_counts() -> None:
    """The run was found again after a restart, or its graph is huge, or no JSON for everybody."""
    warmth = heard(("x", 9.0, ""), ("x", 1.0, ""))
    warmth.heard(a_run("y", 9.0, ran="123", padding=LARGE_BYTES))
    warmth.heard(a_run("x", 9.0, ran="23", padding=LARGE_BYTES))
    assert names(warmth) == ["x"] and warmth.now(1).room == 1 and warmth.now(1).swap_s == {}
    odd = a_run("y", 9.0, ran="123", padding=1)
    warmth.heard(odd.with_(spec=replace(odd.spec, workflow=odd.spec.workflow.replace(b'"x"', b'"\\ud800"'))))
    assert names(warmth) == ["y"]


RUNS = st.tuples(
    st.sampled_from("tuvwxyz123456"), st.floats(0, 100), st.sampled_from(["", "123", "23", "3"]), st.sampled_from("ab")
)


@given(st.lists(RUNS, max_size=60))
def test_whatever_is_heard_it_makes_sense(runs: list[tuple[str, float, str, str]]) -> None:
    """The last one of each engine is resident, each once; no time is negative."""
    warmth, last = Warmth(), {}
    for model, seconds, ran, engine in runs:
        warmth.heard(a_run(model, seconds, ran=ran, engine=engine))
        last[engine] = model
    told = warmth.now(2)
    assert set(last.values()) <= set(names(warmth, 2))
    assert len(set(told.models)) == len(told.models) <= told.room <= 2 * MOST_ROOM
    assert all(seconds >= 0 for seconds in told.swap_s.values())


def test_a_job_without_an_estimate_is_resident_all_the_same() -> None:
    """Only when it is over."""
    warmth = Warmth()
    job = a_run("u", 1.0, ran="123")
    job = job.with_(spec=replace(job.spec, estimate=None))
    warmth.heard(job.with_(status=JobStatus.RUNNING))
    assert warmth.now(1).models == ()
    warmth.heard(job)
    assert names(warmth) == ["u"] and warmth.now(1).swap_s == {}
