"""The benchmark at start: load the model, measure until the runs agree, say what this host is worth.

The warm-up run is never counted. A score of an earlier start is taken over when nothing that it depends on changed,
and even then one run loads the model first, so that "ready" means that the next job finds it in memory.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmark import cache, score
from benchmark.facts import HostFacts, gather_facts
from benchmark.ports import BenchmarkFailed, BenchRunner, RunTimes
from benchmark.prompts import make_prompts
from benchmark.result import BenchResult, EngineScore, engine_score
from benchmark.settings import BenchmarkSettings, load_benchmark_settings
from benchmark.workload import OPERATOR_FILE, WRAPPER_FILE, Workload, choose
from lib.app.boot import WarmUpFailed
from lib.clock import Clock, SystemClock
from lib.errors import InvalidWorkflow, ServiceError

log = logging.getLogger(__name__)
LEAST_RUNS = 3
MOST_RUNS = 8
SPREAD_LIMIT = 0.05
FIRST_PROMPT = "a photograph of a lighthouse at dawn, soft focus"


async def boot_benchmark(
    runner: BenchRunner,
    *,
    workspace: Path,
    announce: Callable[[str], None],
    facts: HostFacts | None = None,
    settings: BenchmarkSettings | None = None,
    warm_up: Workload | None = None,
    operator_file: Path = OPERATOR_FILE,
    wrapper_file: Path = WRAPPER_FILE,
    clock: Clock | None = None,
) -> BenchResult:
    """Warm every engine up and score them together; the result is also in ``<workspace>/benchmark.json``.

    ``warm_up`` is the operator's own. ``announce`` is given one line at a time, for people.

    Raises: BenchmarkFailed when no run completed, WarmUpFailed when the operator's own did not.
    """
    settings = settings or load_benchmark_settings()
    clock = clock or SystemClock()
    began = clock.monotonic()
    facts = facts or await gather_facts(await runner.system_stats())
    workload = await choose(
        settings,
        facts=facts,
        checkpoints=await runner.checkpoints(),
        operator_file=operator_file,
        wrapper_file=wrapper_file,
    )
    bench = _Bench(
        runner=runner,
        engines=tuple(runner.engines),
        workload=workload,
        warm_up=warm_up,
        settings=settings,
        announce=announce,
        clock=clock,
        began=began,
    )
    return await bench.measure(workspace, facts)


@dataclass(slots=True, kw_only=True)
class _Bench:
    """One benchmark in progress."""

    runner: BenchRunner
    engines: tuple[str, ...]
    workload: Workload
    warm_up: Workload | None
    settings: BenchmarkSettings
    announce: Callable[[str], None]
    clock: Clock
    began: float
    causes: dict[str, ServiceError] = field(default_factory=dict)
    hopeless: bool = False

    async def measure(self, workspace: Path, facts: HostFacts) -> BenchResult:
        self.announce(f"Benchmark on {facts.describe()}: {self.workload.title} ({self.workload.source})")
        for warning in self.workload.warnings:
            self._warn(warning)
        key = cache.cache_key(facts, digest=self.workload.digest, engines=len(self.engines))
        if self.warm_up is not None:
            self.runner.warm_again(self.warm_up.body(FIRST_PROMPT), timeout_s=self.settings.run_timeout_s)
        stored = await asyncio.to_thread(cache.read_cached, workspace, key)
        if stored is not None and (result := await self._reuse(stored, facts)) is not None:
            return result
        result = await self._measure_anew(facts, key)
        await asyncio.to_thread(cache.write_result, workspace, result)
        self.announce(_summary(result))
        return result

    async def _reuse(self, stored: BenchResult, facts: HostFacts) -> BenchResult | None:
        quick = self.workload.single_step() if facts.cpu_only else self.workload
        times = await self._warm_up(quick)
        self._require_own(times)
        if len(times) < len(self.engines):
            self._warn("the warm-up failed, so the score of the last start is not used")
            return None
        self.announce(f"Benchmark: score {stored.perf:.4g} of {stored.measured_at} still holds")
        return replace(stored, cached=True, seconds_spent=self._elapsed(), facts=facts, warnings=self.workload.warnings)

    async def _measure_anew(self, facts: HostFacts, key: dict[str, object]) -> BenchResult:
        async with asyncio.TaskGroup() as group:  # the child that writes prompts works beside the warm-up
            writing = group.create_task(self._prompts())
            warming = group.create_task(self._warm_up(self.workload))
        warmups, prompts = warming.result(), writing.result()
        self._require_own(warmups)
        from_warmup = self._spent_by_warmup(warmups)
        runs = {engine: [run] for engine, run in warmups.items()} if from_warmup else await self._rounds(prompts)
        engines = [engine_score(name, times, warmup=warmups.get(name)) for name, times in runs.items() if times]
        if not engines:
            raise self._failure()
        return self._result(engines, facts=facts, key=key, from_warmup=from_warmup)

    def _result(
        self, engines: Sequence[EngineScore], *, facts: HostFacts, key: dict[str, object], from_warmup: bool
    ) -> BenchResult:
        missing = sorted(set(self.engines) - {engine.engine for engine in engines})
        failures = tuple(f"engine {name} completed no run" for name in missing)
        return BenchResult(
            perf=score.perf([engine.median_s for engine in engines]),
            spread=max(engine.spread for engine in engines),
            engines=tuple(engines),
            workflow_source=self.workload.source,
            workflow_title=self.workload.title,
            workflow_hash=self.workload.digest,
            cached=False,
            from_warmup=from_warmup,
            seconds_spent=self._elapsed(),
            measured_at=self.clock.now().isoformat(timespec="seconds"),
            facts=facts,
            key=key,
            warnings=(*self.workload.warnings, *failures),
        )

    async def _prompts(self) -> list[str]:
        count = MOST_RUNS * len(self.engines)
        if not self.workload.wants_prompts:
            return [""] * count
        try:
            return await make_prompts(count, seed=random.randrange(1 << 32))
        except (OSError, ChildProcessError) as error:
            self._warn(f"no prompts from the grammar ({error}); numbered ones are used")
            return [f"{FIRST_PROMPT}, number {number}" for number in range(count)]

    async def _warm_up(self, workload: Workload) -> dict[str, RunTimes]:
        body = (self.warm_up or workload).body(FIRST_PROMPT)
        self.announce("Benchmark: warm-up run, loads the model")
        times = await self._round(dict.fromkeys(self.engines, body))
        self.announce(f"Benchmark: warm-up {_seconds(times) or 'failed'}")
        return times

    def _require_own(self, warmups: Mapping[str, RunTimes]) -> None:
        """Raises: WarmUpFailed when the operator's own completed nowhere."""
        if self.warm_up is None or warmups or not self.engines:
            return
        first = next(iter(self.causes.values()), None)
        raise WarmUpFailed(
            f"The warm-up ({self.warm_up.source}) failed: {first.message if first else 'no engine'}",
            details=first.details if first else {},
        ) from first

    def _spent_by_warmup(self, warmups: Mapping[str, RunTimes]) -> bool:
        if not warmups or self.warm_up is not None or self._elapsed() < self.settings.budget_s:
            return False
        self._warn(f"the warm-up took the whole budget of {self.settings.budget_s:.0f} s; its own time is the score")
        return True

    async def _rounds(self, prompts: Sequence[str]) -> dict[str, list[RunTimes]]:
        runs: dict[str, list[RunTimes]] = {engine: [] for engine in self.engines}
        texts = iter(prompts)
        self.hopeless = False
        for number in range(1, MOST_RUNS + 1):
            started = self.clock.monotonic()
            times = await self._round({engine: self.workload.body(next(texts)) for engine in runs})
            for engine, run in times.items():
                runs[engine].append(run)
            self.announce(f"Benchmark: run {number} {_seconds(times) or 'failed'}")
            if self._enough(runs, rounds=number, last_s=self.clock.monotonic() - started):
                break
        return runs

    def _enough(self, runs: Mapping[str, Sequence[RunTimes]], *, rounds: int, last_s: float) -> bool:
        if self._elapsed() + last_s > self.settings.budget_s or self.hopeless:
            return True
        measured = [[run.total_s for run in times] for times in runs.values() if times]
        agree = all(score.is_stable(samples, least=LEAST_RUNS, limit=SPREAD_LIMIT) for samples in measured)
        return rounds >= LEAST_RUNS and agree

    async def _round(self, bodies: Mapping[str, bytes]) -> dict[str, RunTimes]:
        """Run on all engines at the same time: they share the host's bus, memory and CPU in service, too."""
        async with asyncio.TaskGroup() as group:
            tasks = {engine: group.create_task(self._attempt(engine, body)) for engine, body in bodies.items()}
        return {engine: times for engine, task in tasks.items() if (times := task.result()) is not None}

    async def _attempt(self, engine: str, body: bytes) -> RunTimes | None:
        try:
            return await self.runner.run(body, engine=engine, timeout_s=self.settings.run_timeout_s)
        except ServiceError as error:
            self.causes.setdefault(error.message, error)
            self.hopeless = self.hopeless or isinstance(error, InvalidWorkflow)
            self._warn(f"run on {engine} failed: {error.message}")
            return None

    def _failure(self) -> BenchmarkFailed:
        first = next(iter(self.causes.values()), None)
        cause = first.message.rstrip(".") if first else "no engine"
        error = BenchmarkFailed(
            f"No run of the benchmark workflow ({self.workload.source}) completed: {cause}. "
            f"Put a workflow that runs here into {OPERATOR_FILE} or name one in BENCHMARK_JSON_PATH.",
            details={"causes": list(self.causes), **(first.details if first else {})},
        )
        error.__cause__ = first
        return error

    def _elapsed(self) -> float:
        return self.clock.monotonic() - self.began

    def _warn(self, text: str) -> None:
        log.warning("benchmark: %s", text, extra={"event": "benchmark.warning"})
        self.announce(f"Benchmark: warning: {text}")


def _seconds(times: Mapping[str, RunTimes]) -> str:
    return ", ".join(f"{run.total_s:.3g} s" for run in times.values())


def _summary(result: BenchResult) -> str:
    runs = sum(len(engine.samples_s) for engine in result.engines)
    medians = " + ".join(f"100/{engine.median_s:.3g} s" for engine in result.engines)
    return f"Benchmark: score {result.perf:.4g} ({medians}, {runs} runs, spread {result.spread:.1%})"
