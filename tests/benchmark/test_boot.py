"""The boot benchmark: what is counted, when it stops, what a restart may believe."""

import json
from pathlib import Path

import pytest

from benchmark.boot import boot_benchmark
from benchmark.facts import HostFacts
from benchmark.ports import BenchmarkFailed
from benchmark.result import BenchResult
from benchmark.settings import BenchmarkSettings
from benchmark.workload import Workload, parse
from lib.app.boot import WarmUpFailed
from lib.errors import EngineDied, ExecutionFailed, InvalidWorkflow
from tests.benchmark.runner import ScriptedRunner
from tests.fakes.clock import FakeClock

CPU = HostFacts(cpu="test", device="cpu", torch="2.13.0", comfyui="0.3.75")
GRAPH = {"1": {"class_type": "KSampler", "inputs": {"seed": 7}}, "2": {"class_type": "SaveImage", "inputs": {}}}
WARM = {"8": {"class_type": "UNETLoader", "inputs": {}}}


async def boot(
    runner: ScriptedRunner,
    folder: Path,
    clock: FakeClock,
    *,
    facts: HostFacts | None = CPU,
    picture: bool = False,
    warm_up: Workload | None = None,
    **settings: object,
) -> tuple[BenchResult, list[str]]:
    """Run the benchmark in the workspace ``folder``; ``picture``: with the default workflow, not an operator's."""
    lines: list[str] = []
    folder.mkdir(exist_ok=True)
    (folder / "operator.json").unlink(missing_ok=True)
    if not picture:
        (folder / "operator.json").write_text(json.dumps(GRAPH))
    result = await boot_benchmark(
        runner,
        workspace=folder,
        announce=lines.append,
        facts=facts,
        settings=BenchmarkSettings(**settings),
        warm_up=warm_up,
        operator_file=folder / "operator.json",
        wrapper_file=folder / "wrapper.json",
        clock=clock,
    )
    return result, lines


async def test_warm_up_is_not_counted_and_its_time_is_kept(tmp_path: Path) -> None:
    """The score is 100 over the median of the runs after the warm-up; the warm-up shows the load time."""
    clock = FakeClock()
    result, _ = await boot(ScriptedRunner(clock, a=[30.0, 2.0, 2.02, 1.98]), tmp_path, clock)
    engine = result.engines[0]
    assert result.perf == pytest.approx(50.0)
    assert (engine.samples_s, engine.warmup_s, engine.load_s) == ((2.0, 2.02, 1.98), 30.0, 28.0)
    assert engine.execute_median_s == pytest.approx(1.99)


async def test_three_runs_that_agree_are_enough(tmp_path: Path) -> None:
    """From ready to loaded: the warm-up and three runs, nothing else."""
    clock = FakeClock()
    runner = ScriptedRunner(clock, a=[5.0, 1.0, 1.01, 0.99])
    result, _ = await boot(runner, tmp_path, clock)
    assert len(runner.graphs) == 4
    assert result.seconds_spent == pytest.approx(8.0)


async def test_runs_go_on_while_they_disagree(tmp_path: Path) -> None:
    """A wide spread asks for more runs, eight at most; the median takes no notice of one odd run."""
    clock = FakeClock()
    result, _ = await boot(ScriptedRunner(clock, a=[2.0, 1.0, 2.0, 1.5, 1.0, 1.01]), tmp_path, clock)
    assert len(result.engines[0].samples_s) == 5
    assert result.engines[0].median_s == 1.01
    clock = FakeClock()
    wild = [2.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]
    result, _ = await boot(ScriptedRunner(clock, a=wild), tmp_path / "wild", clock)
    assert len(result.engines[0].samples_s) == 8


async def test_no_run_starts_that_would_end_after_the_budget(tmp_path: Path) -> None:
    """With 90 s, a 20 s warm-up and 30 s runs there is room for two runs."""
    clock = FakeClock()
    runner = ScriptedRunner(clock, a=[20.0, 30.0, 30.0, 30.0])
    result, _ = await boot(runner, tmp_path, clock, budget_s=90.0)
    assert result.engines[0].samples_s == (30.0, 30.0)
    assert result.seconds_spent == pytest.approx(80.0)


async def test_a_warm_up_over_the_budget_is_the_score_itself_and_is_not_cached(tmp_path: Path) -> None:
    """A five-minute workflow must not hold a start for twenty minutes: its first run is taken, marked, not kept."""
    clock = FakeClock()
    result, lines = await boot(ScriptedRunner(clock, a=[300.0]), tmp_path, clock)
    assert result.from_warmup
    assert result.perf == pytest.approx(100 / 300)
    assert any("budget" in line for line in lines)
    runner = ScriptedRunner(clock, a=[20.0, 20.0, 20.0, 20.0])
    again, _ = await boot(runner, tmp_path, clock)
    assert not again.cached
    assert again.perf == pytest.approx(5.0)


async def test_each_run_has_another_prompt_and_a_random_seed(tmp_path: Path) -> None:
    """ComfyUI's cache must have nothing to answer with."""
    clock = FakeClock()
    runner = ScriptedRunner(clock, a=[2.0, 1.0, 1.0, 1.0])
    await boot(runner, tmp_path, clock, picture=True)
    texts = [graph["6"]["inputs"]["text"] for graph in runner.graphs]
    assert len(set(texts)) == 4
    assert not any("__" in text for text in texts)
    assert {graph["3"]["inputs"]["seed"] for graph in runner.graphs} == {"__RANDOM_INT__"}


async def test_several_engines_are_measured_together_and_summed(tmp_path: Path) -> None:
    """Two engines of 2 s and 4 s are worth 50 + 25."""
    clock = FakeClock()
    result, _ = await boot(ScriptedRunner(clock, a=[9.0, 2.0, 2.0, 2.0], b=[9.0, 4.0, 4.0, 4.0]), tmp_path, clock)
    assert result.perf == pytest.approx(75.0)
    assert {engine.engine: engine.median_s for engine in result.engines} == {"a": 2.0, "b": 4.0}


async def test_an_engine_that_never_completes_adds_nothing_and_is_named(tmp_path: Path) -> None:
    """The score is that of the engines that work."""
    clock = FakeClock()
    broken = [ExecutionFailed("no memory")] * 9
    result, _ = await boot(ScriptedRunner(clock, a=[3.0, 2.0, 2.0, 2.0], b=broken), tmp_path, clock)
    assert result.perf == pytest.approx(50.0)
    assert "engine b completed no run" in result.warnings


async def test_the_score_of_some_engines_is_not_taken_for_that_of_all(tmp_path: Path) -> None:
    """One failed at the last start and works again: the stored half is measured anew."""
    clock = FakeClock()
    broken = ScriptedRunner(clock, a=[3.0, 2.0, 2.0, 2.0], b=[EngineDied("gone", started=True)] * 9)
    half, _ = await boot(broken, tmp_path, clock)
    assert half.perf == pytest.approx(50.0)
    result, _ = await boot(ScriptedRunner(clock, a=[3.0, 2.0, 2.0, 2.0], b=[3.0, 2.0, 2.0, 2.0]), tmp_path, clock)
    assert (result.cached, result.perf) == (False, pytest.approx(100.0))


async def test_when_every_run_fails_there_is_an_error_and_no_score(tmp_path: Path) -> None:
    """Never perf 0: the error carries the cause and says what to do."""
    clock = FakeClock()
    runner = ScriptedRunner(clock, a=[ExecutionFailed("boom", details={"node_id": "3"})] * 9)
    with pytest.raises(BenchmarkFailed, match=r"boom.*BENCHMARK_JSON_PATH") as caught:
        await boot(runner, tmp_path, clock)
    assert caught.value.details["causes"] == ["boom"]
    assert caught.value.details["node_id"] == "3"
    assert not (tmp_path / "benchmark.json").exists()
    assert len(runner.graphs) == 4


async def test_a_refused_workflow_is_not_tried_again_and_again(tmp_path: Path) -> None:
    """What ComfyUI refuses once it refuses always: the warm-up and one run tell."""
    clock = FakeClock()
    runner = ScriptedRunner(clock, a=[InvalidWorkflow("no such model")] * 9)
    with pytest.raises(BenchmarkFailed, match="no such model"):
        await boot(runner, tmp_path, clock)
    assert len(runner.graphs) == 2


async def test_a_single_failed_run_does_not_spoil_the_score(tmp_path: Path) -> None:
    """An engine that was restarted meanwhile is measured by its other runs."""
    clock = FakeClock()
    died = EngineDied("restarted", started=True)
    result, _ = await boot(ScriptedRunner(clock, a=[3.0, died, 1.0, 1.0, 1.0]), tmp_path, clock)
    assert result.engines[0].samples_s == (1.0, 1.0, 1.0)


async def test_a_restart_loads_the_model_with_one_step_and_takes_the_score(tmp_path: Path) -> None:
    """On a CPU, a valid stored score costs one run of one step."""
    clock = FakeClock()
    first, _ = await boot(ScriptedRunner(clock, a=[3.0, 1.0, 1.0, 1.0]), tmp_path, clock, picture=True)
    runner = ScriptedRunner(clock, a=[0.5])
    second, _ = await boot(runner, tmp_path, clock, picture=True)
    assert second.cached
    assert second.perf == first.perf
    assert [graph["3"]["inputs"]["steps"] for graph in runner.graphs] == [1]
    assert second.seconds_spent == pytest.approx(0.5)


@pytest.mark.parametrize(
    "change",
    [
        {"facts": HostFacts(cpu="test", device="cpu", torch="2.14.0", comfyui="0.3.75")},
        {"facts": HostFacts(cpu="test", device="cpu", torch="2.13.0", comfyui="0.3.76")},
        {"facts": HostFacts(cpu="other", device="cpu", torch="2.13.0", comfyui="0.3.75")},
        {"facts": HostFacts(driver="1", device="cuda", torch="2.13.0", comfyui="0.3.75")},
        {"picture": True},
    ],
)
async def test_a_score_of_another_machine_or_workflow_is_not_believed(
    tmp_path: Path, change: dict[str, object]
) -> None:
    """GPU, driver, torch, ComfyUI and workflow are the key."""
    clock = FakeClock()
    await boot(ScriptedRunner(clock, a=[3.0, 1.0, 1.0, 1.0]), tmp_path, clock)
    result, _ = await boot(ScriptedRunner(clock, a=[3.0, 2.0, 2.0, 2.0]), tmp_path, clock, **change)
    assert not result.cached
    assert result.perf == pytest.approx(50.0)


@pytest.mark.parametrize("damage", ["{", "{}", '"perf": 0.0', '"perf": NaN'])
async def test_a_damaged_or_absurd_file_is_not_believed(tmp_path: Path, damage: str) -> None:
    """The file is measured anew and replaced."""
    clock = FakeClock()
    await boot(ScriptedRunner(clock, a=[3.0, 1.0, 1.0, 1.0]), tmp_path, clock)
    path = tmp_path / "benchmark.json"
    path.write_text(path.read_text().replace('"perf": 100.0', damage, 1) if "perf" in damage else damage)
    result, _ = await boot(ScriptedRunner(clock, a=[3.0, 2.0, 2.0, 2.0]), tmp_path, clock)
    assert not result.cached
    assert json.loads(path.read_text())["perf"] == pytest.approx(50.0)


async def test_a_failing_warm_up_takes_the_stored_score_away(tmp_path: Path) -> None:
    """A host whose model no longer loads is not ready, whatever it once was worth."""
    clock = FakeClock()
    await boot(ScriptedRunner(clock, a=[3.0, 1.0, 1.0, 1.0]), tmp_path, clock)
    with pytest.raises(BenchmarkFailed, match="gone"):
        await boot(ScriptedRunner(clock, a=[InvalidWorkflow("model gone")] * 9), tmp_path, clock)


async def test_the_operators_warm_up_replaces_the_measured_one(tmp_path: Path) -> None:
    """It loads the operator's models; the measured workflow is another."""
    clock = FakeClock()
    runner = ScriptedRunner(clock, a=[3.0, 1.0, 1.0, 1.0])
    await boot(runner, tmp_path, clock, warm_up=parse(WARM, source="warm.json"))
    assert runner.again == [WARM]
    assert [set(graph) for graph in runner.graphs] == [{"8"}, *[{"1", "2"}] * 3]


async def test_a_warm_up_of_the_operators_that_fails_is_an_error(tmp_path: Path) -> None:
    """Whoever names one wants no worker without it; one engine that completed it is enough."""
    clock = FakeClock()
    warm_up = parse(WARM, source="warm.json")
    with pytest.raises(WarmUpFailed, match=r"The warm-up \(warm\.json\) failed: model gone"):
        await boot(ScriptedRunner(clock, a=[InvalidWorkflow("model gone"), 1.0]), tmp_path, clock, warm_up=warm_up)
    runner = ScriptedRunner(clock, a=[3.0, 1.0, 1.0, 1.0], b=[InvalidWorkflow("gone"), 1.0, 1.0, 1.0])
    result, _ = await boot(runner, tmp_path, clock, warm_up=warm_up)
    assert result.perf > 0
    with pytest.raises(WarmUpFailed):  # although an earlier start's score would hold
        bad = [InvalidWorkflow("gone")] * 2
        await boot(ScriptedRunner(clock, a=bad, b=bad), tmp_path, clock, warm_up=warm_up)


async def test_facts_come_from_comfyui_itself(tmp_path: Path) -> None:
    """Torch, ComfyUI's version and the device are what ``/system_stats`` says."""
    clock = FakeClock()
    result, lines = await boot(ScriptedRunner(clock, a=[3.0, 1.0, 1.0, 1.0]), tmp_path, clock, facts=None, picture=True)
    assert (result.facts.torch, result.facts.comfyui, result.facts.device) == ("2.13.0+cpu", "0.3.75", "cpu")
    assert "128x128, 4 steps" in lines[0]


async def test_progress_is_announced_and_the_result_is_plain_json(tmp_path: Path) -> None:
    """A line for the start, the warm-up, each run and the score; the object goes into ``/health``."""
    clock = FakeClock()
    result, lines = await boot(ScriptedRunner(clock, a=[3.0, 1.0, 1.0, 1.0]), tmp_path, clock)
    assert [line for line in lines if ": run " in line] == [f"Benchmark: run {n} 1 s" for n in (1, 2, 3)]
    assert "score 100" in lines[-1]
    plain = json.loads(json.dumps(result.to_json()))
    assert plain["perf"] == 100.0
    assert plain["workflow_source"] == str(tmp_path / "operator.json")
    assert "key" not in plain
