"""The simulation in small: it runs, it is the same for a seed, and its theory is right."""

import json
import random

import pytest

from benchmark.routing.cells import (
    CENTRAL,
    HYBRID,
    LEAST_WORK,
    MISERLY,
    POLICIES,
    PROPORTIONAL,
    cells,
    recorded_cells,
)
from benchmark.routing.fleets import FLEETS, MIX, RTX_3060, RTX_4090, capacity
from benchmark.routing.measure import simulate
from benchmark.routing.outcome import interval, run
from benchmark.routing.plot import plot_routing
from benchmark.routing.recorded import BadRecording, read_recording
from benchmark.routing.traces import Arrivals, Scenario, SizesDrawn, draw


def quiet(line: str) -> None:
    """Progress lines are for people."""


def test_one_server_waits_as_theory_says() -> None:
    """M/D/1: mean response is s (1 + load / (2 (1 - load)))."""
    scenario = Scenario(fleet=(RTX_4090,), load=0.7)
    seconds = 100 / RTX_4090.perf
    found = interval([run(scenario, POLICIES[PROPORTIONAL], jobs=8000, seed=seed).mean for seed in range(3)])
    assert found.value == pytest.approx(seconds * (1 + 0.7 / 0.6), rel=0.1)


def test_the_hybrid_beats_what_it_is_compared_with() -> None:
    """The gates at load 0.7 with few jobs, hence some tolerance."""
    for sizes, limit in ((SizesDrawn.SAME, 0.45), (SizesDrawn.MIXED, 0.18)):
        scenario = Scenario(sizes=sizes)
        mean = {
            name: interval([run(scenario, POLICIES[name], jobs=3000, seed=seed).mean for seed in (1, 2)]).value
            for name in (PROPORTIONAL, LEAST_WORK, CENTRAL, HYBRID)
        }
        assert mean[HYBRID] <= limit * mean[PROPORTIONAL]
        assert mean[HYBRID] <= 1.05 * min(mean[LEAST_WORK], mean[CENTRAL])


def test_models_are_rarely_loaded() -> None:
    """Eight models, two a worker: some loads at the begin, hardly any later."""
    found = run(Scenario(models=8, load=0.2), POLICIES[HYBRID], jobs=2000, seed=1)
    blind = run(Scenario(models=8, load=0.2), POLICIES[CENTRAL], jobs=500, seed=1)
    assert found.swaps < 0.03 < 0.3 < blind.swaps


def test_replicas_that_share_are_as_good_as_one() -> None:
    """Three routers with atomic reservations; nothing is lost when they want the same worker."""
    one, three = (run(Scenario(replicas=count), POLICIES[HYBRID], jobs=2000, seed=1) for count in (1, 3))
    assert three.mean <= 1.1 * one.mean and three.lost == 0


def test_no_job_is_lost_when_workers_die() -> None:
    """Whatever dies, every job ends, at the price of work done twice."""
    found = run(Scenario(mtbf_s=120.0, load=0.5), POLICIES[HYBRID], jobs=1500, seed=1)
    assert found.lost == 0 and found.wasted > 0


def test_a_job_that_no_worker_does_is_lost() -> None:
    """The count of lost jobs counts: half of these need more memory than the only card has."""
    found = run(Scenario(fleet=(RTX_3060,), big_share=0.5), POLICIES[HYBRID], jobs=200, seed=1)
    assert 50 < found.lost < 150 and found.mean > 0


def test_workers_that_tell_late_keep_their_pace() -> None:
    """A word of ends that comes every five seconds costs some time, but none of the fleet's capacity."""
    prompt, late = (run(Scenario(told_s=told_s), POLICIES[HYBRID], jobs=2000, seed=1) for told_s in (0.0, 5.0))
    assert late.mean <= 1.4 * prompt.mean and late.p99 <= 2.5 * prompt.p99


def test_loading_a_model_teaches_nothing_of_speed() -> None:
    """Jobs about as long as a load: the slow cards are still known for what they are."""
    scenario = Scenario(models=8, load=0.6, swap_s=3.0)
    found, free = (run(one, POLICIES[HYBRID], jobs=2000, seed=1).mean for one in (scenario, Scenario(load=0.6)))
    assert found <= 1.5 * free


def test_a_price_on_time_saves_dollars() -> None:
    """The dear cards are used less, at the price of time."""
    fast, cheap = (run(Scenario(load=0.3), POLICIES[name], jobs=1000, seed=1) for name in (HYBRID, MISERLY))
    assert cheap.dollars < 0.97 * fast.dollars and cheap.mean > fast.mean


def test_a_recording_is_replayed(tmp_path) -> None:
    """At the load that is asked for, in its own order and sizes, whatever the clock it was written by."""
    path = tmp_path / "recorded.csv"
    rows = [f"{1e9 + 7 * number + number % 3},{1 + number % 4},model-{number % 5},t" for number in range(100)]
    path.write_text("\n".join(["at,size,model,tenant", *reversed(rows)]))
    cells = recorded_cells(read_recording(path))
    jobs = draw(cells[1].scenario, jobs=1000, seed=1).jobs
    assert [job.size for job in jobs[:5]] == [100.0, 200.0, 300.0, 400.0, 100.0] and jobs[0].arrived_at == 0
    offered = sum(job.size for job in jobs) / jobs[-1].arrived_at
    assert cells[1].scenario.load == 0.5 and offered == pytest.approx(0.5 * capacity(MIX))
    assert len({job.model for job in jobs}) == 5 and jobs[0].tenant == "t"
    report = simulate(quiet, cells=cells[:1], jobs=1000, seeds=1, processes=1)
    assert [target.found for target in report.targets()] == ["0"]  # no other gate is for it
    assert "recorded, load 0.3" in report.markdown() and report.measured[0].outcomes[HYBRID][0].lost == 0


@pytest.mark.parametrize(
    ("line", "said"),
    [("1,x", "line 22: size is 'x'"), ("nan,1", "line 22: at is nan"), ("1,0", "size is 0;"), ("1", "size is None")],
)
def test_a_bad_recording_is_named(tmp_path, line: str, said: str) -> None:
    """By line and column; so is a file that is too short or absent."""
    path = tmp_path / "recorded.csv"
    path.write_text("\n".join(["at,size", *["1,1"] * 20, line]))
    with pytest.raises(BadRecording, match=said):
        read_recording(path)
    path.write_text("at,size\n1,1\n")
    with pytest.raises(BadRecording, match="has 1 requests"):
        read_recording(path)
    with pytest.raises(BadRecording, match="can't be read"):
        read_recording(tmp_path / "absent.csv")


def test_a_seed_decides_everything() -> None:
    """Twice the same run is the same to the last digit, disturbances included."""
    scenario = Scenario(mtbf_s=300.0, score_error=0.2, size_error=0.5, models=4, replicas=2)
    first, second = (run(scenario, POLICIES[HYBRID], jobs=500, seed=3) for _ in range(2))
    assert first == second != run(scenario, POLICIES[HYBRID], jobs=500, seed=4)


@pytest.mark.parametrize("arrivals", [Arrivals.POISSON, Arrivals.BURSTY, Arrivals.DIURNAL])
def test_traces_offer_the_load_they_are_named_for(arrivals: Arrivals) -> None:
    """Work over time is the load times the fleet's capacity, however it comes."""
    scenario = Scenario(arrivals=arrivals, load=0.5)
    jobs = draw(scenario, jobs=60_000, seed=2).jobs
    offered = sum(job.size for job in jobs) / jobs[-1].arrived_at
    assert offered == pytest.approx(0.5 * capacity(scenario.fleet), rel=0.15)


def test_every_cell_runs_and_is_reported(tmp_path) -> None:
    """A few jobs through each cell; tables, figures, gates and picture come out."""
    report = simulate(quiet, cells=cells(), jobs=80, seeds=2, processes=1)
    text = report.markdown()
    assert all(cell.name in text for cell in cells())
    assert len(report.targets()) == 20 and all(target.met is not None for target in report.targets())
    assert json.loads(json.dumps(report.to_json()))["seeds"] == 2
    plot_routing(report, tmp_path / "routing.png")
    assert (tmp_path / "routing.png").stat().st_size > 10_000


def test_fleets_and_random_sizes_are_what_they_claim() -> None:
    """The usual fleet does 12 images a second; mixed sizes mean 3.95."""
    assert capacity(Scenario().fleet) / 100 == pytest.approx(12.3, abs=0.1)
    assert set(FLEETS) == {"mix", "two speeds", "alike", "hosts"}
    jobs = draw(Scenario(sizes=SizesDrawn.MIXED), jobs=20_000, seed=random.Random(1).randrange(99)).jobs
    assert sum(job.size for job in jobs) / len(jobs) == pytest.approx(395, rel=0.05)
