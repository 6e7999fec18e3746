"""What is resident where, and how long loading takes, as finished jobs show it."""

import json
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from lib.fleet.warmth import MOST_ROOM, Warmth
from lib.jobs.model import Estimate, Job, JobSpec, JobStatus, Timings
from tests.fakes.clock import START


def ran(
    warmth: Warmth, model: str | None, seconds: float, *, engine: str = "a", shape: str = "s", failed: bool = False
) -> None:
    """A job with this checkpoint took so long."""
    inputs = {} if model is None else {"ckpt_name": f"{model}.safetensors"}
    graph = {"1": {"class_type": "CheckpointLoaderSimple", "inputs": inputs}}
    spec = JobSpec(
        request_id="r",
        dialect="test",
        workflow=json.dumps(graph).encode(),
        estimate=Estimate(units=1, shape=f"{shape}{model}"),
    )
    timings = Timings(accepted_at=START, execute_s=seconds)
    status = JobStatus.FAILED if failed else JobStatus.COMPLETED
    warmth.heard(Job(job_id="j", spec=spec, sequence=1, cost=1, timings=timings, status=status, engine=engine))


def names(warmth: Warmth, engines: int = 1) -> list[str]:
    return [name.removesuffix(".safetensors") for name in warmth.now(engines).models]


def test_the_last_one_is_resident() -> None:
    """ComfyUI keeps what its last prompt used; failed jobs, and those without a model, tell nothing."""
    warmth = Warmth()
    ran(warmth, "x", 1)
    ran(warmth, "y", 1)
    ran(warmth, None, 1)
    ran(warmth, "z", 1, failed=True)
    assert names(warmth) == ["y"] and warmth.now(1).room == 1


def test_engines_have_their_own() -> None:
    """Least recently used first; one that ended has nothing."""
    warmth = Warmth()
    ran(warmth, "x", 1, engine="a")
    ran(warmth, "y", 1, engine="b")
    ran(warmth, "x", 1, engine="a")
    assert names(warmth) == ["y", "x"]
    assert (warmth.now(2).room, warmth.now(3).room) == (2, 3)
    warmth.lost("a")
    assert names(warmth) == ["y"]


def test_a_first_run_tells_the_load_time_once_there_is_a_warm_one() -> None:
    """First run minus warm run."""
    warmth = Warmth()
    ran(warmth, "x", 9.0)
    assert warmth.now(1).swap_s == {}
    ran(warmth, "x", 1.0)
    assert warmth.now(1).swap_s == {"x.safetensors": 8.0}


def test_later_loads_correct_it() -> None:
    """A third of the way each time."""
    warmth = Warmth()
    for model, seconds in (("x", 9.0), ("x", 1.0), ("y", 5.0), ("x", 6.0)):
        ran(warmth, model, seconds)
    assert warmth.now(1).swap_s["x.safetensors"] == 7.1


def test_what_runs_quickly_was_still_there() -> None:
    """A ComfyUI that keeps more is found out, and one that keeps less again too."""
    warmth = Warmth()
    for model, seconds in (("x", 9.0), ("x", 1.0), ("y", 9.0), ("y", 1.0), ("x", 1.0)):
        ran(warmth, model, seconds)
    assert warmth.now(1).room == 2 and names(warmth) == ["y", "x"]
    ran(warmth, "y", 9.0)
    assert warmth.now(1).room == 1 and names(warmth) == ["y"]


def test_short_loads_prove_nothing() -> None:
    """A tenth of a second more or less may have any reason."""
    warmth = Warmth()
    for model, seconds in (("x", 1.1), ("x", 1.0), ("y", 1.1), ("y", 1.0), ("x", 1.0)):
        ran(warmth, model, seconds)
    assert warmth.now(1).room == 1


@given(st.lists(st.tuples(st.sampled_from("uvwxyz"), st.floats(0, 100), st.sampled_from("ab")), max_size=60))
def test_whatever_is_heard_it_makes_sense(jobs: list[tuple[str, float, str]]) -> None:
    """The last one of each engine is resident, each once; no time is negative."""
    warmth, last = Warmth(), {}
    for model, seconds, engine in jobs:
        ran(warmth, model, seconds, engine=engine)
        last[engine] = model
    told = warmth.now(2)
    assert set(last.values()) <= set(names(warmth, 2))
    assert len(set(told.models)) == len(told.models) <= told.room <= 2 * MOST_ROOM
    assert all(seconds >= 0 for seconds in told.swap_s.values())


def test_a_job_without_an_estimate_is_resident_all_the_same() -> None:
    """Its time says nothing."""
    warmth = Warmth()
    spec = JobSpec(request_id="r", dialect="test", workflow=b'{"1":{"inputs":{"unet_name":"u.gguf"}}}')
    timings = Timings(accepted_at=START, execute_s=1.0)
    job = Job(job_id="j", spec=spec, sequence=1, cost=1, timings=timings, engine="a")
    warmth.heard(job)
    assert warmth.now(1).models == ()
    warmth.heard(replace(job, status=JobStatus.COMPLETED))
    assert warmth.now(1).models == ("u.gguf",) and warmth.now(1).swap_s == {}
