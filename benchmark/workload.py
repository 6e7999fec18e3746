"""Which workflow is measured, and what each run of it looks like.

Order (Vast's worker of 2026-05): the operator's ``misc/benchmark.json``, ``BENCHMARK_JSON_PATH``, what Vast's base
image converted, then the default SD 1.5 picture. A file that can't be used is named, and the next place is tried.
"""

import asyncio
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmark.facts import HostFacts
from benchmark.settings import REPOSITORY, BenchmarkSettings

Graph = dict[str, Any]
WORKFLOWS = Path(__file__).resolve().parent / "workflows"
OPERATOR_FILE = REPOSITORY / "workers" / "comfyui-json" / "misc" / "benchmark.json"
WRAPPER_FILE = Path("/opt/comfyui-api-wrapper/workflows/pyworker_benchmark.json")
RANDOM_INT = "__RANDOM_INT__"
RANDOM_PROMPT = "__RANDOM_PROMPT__"
SEED_INPUTS = ("seed", "noise_seed")
GPU_SIZE = (512, 512, 20)
CPU_SIZE = (128, 128, 4)


class UnusableWorkflow(Exception):
    """The file is no workflow that can be posted; the text says why and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """A workflow to measure; ``digest`` identifies what is measured, whatever its random values."""

    source: str
    graph: Graph = field(repr=False)
    title: str
    standard: bool = False
    """The default picture, whose nodes we know."""
    warnings: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        canonical = json.dumps(self.graph, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    @property
    def wants_prompts(self) -> bool:
        return RANDOM_PROMPT in json.dumps(self.graph)

    def body(self, prompt_text: str) -> bytes:
        """The graph of one run; the service itself draws ``__RANDOM_INT__``."""
        return json.dumps(_fill(self.graph, prompt_text)).encode()

    def single_step(self) -> "Workload":
        """The same models with the least work: enough to load them (default picture only)."""
        return with_size(self, steps=1) if self.standard else self


async def choose(
    settings: BenchmarkSettings,
    *,
    facts: HostFacts,
    checkpoints: Sequence[str] | None = None,
    operator_file: Path = OPERATOR_FILE,
    wrapper_file: Path = WRAPPER_FILE,
) -> Workload:
    """Take the first usable workflow. ``checkpoints`` are the installed ones, None when unknown."""
    warnings: list[str] = []
    for path in (operator_file, settings.json_path, wrapper_file):
        if path is None:
            continue
        try:
            workload = await asyncio.to_thread(load, path)
        except FileNotFoundError:
            if path == settings.json_path:
                warnings.append(f"BENCHMARK_JSON_PATH={path}: there is no such file")
        except UnusableWorkflow as error:
            warnings.append(f"{path}: {error}")
        else:
            return replace(workload, warnings=(*warnings, *workload.warnings))
    workload = await asyncio.to_thread(default_workload, settings, facts=facts, checkpoints=checkpoints)
    return replace(workload, warnings=(*warnings, *workload.warnings))


def load(path: Path) -> Workload:
    """Read a workflow file. Raises FileNotFoundError, UnusableWorkflow."""
    try:
        data = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise UnusableWorkflow(f"can't be read as JSON ({error})") from error
    return parse(data, source=str(path))


def parse(data: object, *, source: str) -> Workload:
    """Take a workflow as it was read at ``source``. Raises UnusableWorkflow."""
    graph, varied = _vary(api_graph(data))
    hint = f"{source}: no {RANDOM_INT}, {RANDOM_PROMPT} or seed; ComfyUI's cache may answer runs"
    title = source.rpartition("/")[2]
    return Workload(source=source, graph=graph, title=title, warnings=() if varied else (hint,))


def api_graph(data: object) -> Graph:
    """Check that this is a graph in API format, bare or under ``workflow_json`` or ``prompt``."""
    while isinstance(data, dict) and (inner := _wrapped(data)) is not None:
        data = inner
    if not isinstance(data, dict) or not data:
        raise UnusableWorkflow("is not a JSON object of nodes")
    if isinstance(data.get("nodes"), list):
        raise UnusableWorkflow("is in ComfyUI's UI format; save it with Workflow > Export (API)")
    for node_id, node in data.items():
        if not isinstance(node, dict) or not isinstance(node.get("class_type"), str):
            raise UnusableWorkflow(f'node "{node_id}" has no class_type, so this is not the API format')
    return data


def default_workload(
    settings: BenchmarkSettings, *, facts: HostFacts, checkpoints: Sequence[str] | None = None
) -> Workload:
    """The SD 1.5 picture, sized for the host; another checkpoint stands in, and is named, where SD 1.5 is absent."""
    graph = json.loads((WORKFLOWS / "sd15.json").read_bytes())
    warnings: tuple[str, ...] = ()
    wanted = graph["4"]["inputs"]["ckpt_name"]
    if checkpoints and wanted not in checkpoints:
        graph["4"]["inputs"]["ckpt_name"] = sorted(checkpoints)[0]
        warnings = (f"{wanted} is not installed; measuring with {sorted(checkpoints)[0]}",)
    width, height, steps = CPU_SIZE if facts.cpu_only else GPU_SIZE
    blank = Workload(source="default", graph=graph, title="", standard=True, warnings=warnings)
    return with_size(
        blank,
        width=settings.test_width or width,
        height=settings.test_height or height,
        steps=settings.test_steps or steps,
    )


def with_size(workload: Workload, **sizes: int) -> Workload:
    """The default picture with another ``width``, ``height`` or ``steps``."""
    graph: Graph = json.loads(json.dumps(workload.graph))
    for name, value in sizes.items():
        graph["3" if name == "steps" else "5"]["inputs"][name] = value
    size = graph["5"]["inputs"]
    title = f"SD 1.5 picture, {size['width']}x{size['height']}, {graph['3']['inputs']['steps']} steps"
    return replace(workload, graph=graph, title=title)


def _wrapped(data: Mapping[str, Any]) -> object | None:
    for key in ("input", "workflow_json", "prompt"):
        inner = data.get(key)
        if isinstance(inner, dict) and "class_type" not in inner:
            return inner
    return None


def _vary(graph: Graph) -> tuple[Graph, bool]:
    """Make fixed seeds random where the author left no placeholder; tell whether runs differ now."""
    text = json.dumps(graph)
    if RANDOM_INT in text or RANDOM_PROMPT in text:
        return graph, True
    varied = False
    for node in graph.values():
        inputs = node.get("inputs")
        for name in SEED_INPUTS if isinstance(inputs, dict) else ():
            if isinstance(inputs.get(name), int):
                inputs[name] = RANDOM_INT
                varied = True
    return graph, varied


def _fill(value: Any, prompt_text: str) -> Any:
    if isinstance(value, dict):
        return {key: _fill(item, prompt_text) for key, item in value.items()}
    if isinstance(value, list):
        return [_fill(item, prompt_text) for item in value]
    return value.replace(RANDOM_PROMPT, prompt_text) if isinstance(value, str) else value
