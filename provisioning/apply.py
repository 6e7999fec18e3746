"""Carries a manifest out: downloads side by side, then files, scripts and cron entries in order; leaves a report."""

import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from provisioning.cron import install_entry, missing_for_cron, start_cron
from provisioning.errors import ProvisioningError
from provisioning.fetch import Download, Fetcher, Pins
from provisioning.manifest import Condition, CronEntry, Entry, Manifest, ModelFile, PlainFile
from provisioning.progress import display
from provisioning.report import Outcome, ProvisioningReport, StepReport, finished, unfinished, write_report
from provisioning.steps import Stamps, digest, exclusive, run_command, say, write_text_atomically

LOCK_FILE = "provisioning-lock.json"


class _Skip(Exception):
    """The step has nothing to do here; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFacts:
    """What the steps act on. ``comfyui_root`` is None where ComfyUI's folder is not known."""

    workspace: Path
    comfyui_root: Path | None
    conditions: frozenset[Condition]
    cron_dir: Path
    hf_token: str | None = None
    parallel_downloads: int = 4
    retry_wait_s: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    name: str
    kind: str
    optional: bool
    when: tuple[Condition, ...]
    act: Callable[[], int]


def apply_manifest(manifest: Manifest, facts: HostFacts) -> ProvisioningReport:
    """Run all steps, also after one has failed, and write ``provisioning-report.json``."""
    started_at = datetime.now(UTC)
    workspace = facts.workspace
    with exclusive(workspace / ".provisioning" / "manifest-lock"):
        write_report(workspace, unfinished(started_at))
        stopped = threading.Event()
        fetcher = Fetcher(
            pins=Pins(workspace / LOCK_FILE),
            progress=display(),
            hf_token=facts.hf_token,
            stopped=stopped,
            retry_wait_s=facts.retry_wait_s,
        )
        downloads = _run_together(_downloads(manifest, facts, fetcher), facts, stopped)
        others = tuple(_run(step, facts) for step in _in_order(manifest, facts))
        report = finished(started_at, downloads + others)
        write_report(workspace, report)
    return report


def _downloads(manifest: Manifest, facts: HostFacts, fetcher: Fetcher) -> Iterable[_Step]:
    for model in manifest.models:
        yield _step(model.path, "model", model, partial(_fetch_model, model, facts, fetcher))
    for file in manifest.files:
        if file.url is not None:
            yield _step(file.path, "file", file, partial(_fetch_file, file, file.url, facts, fetcher))


def _in_order(manifest: Manifest, facts: HostFacts) -> Iterable[_Step]:
    for file in manifest.files:
        if file.content is not None:
            yield _step(file.path, "file", file, partial(_write, file, file.content, facts))
    for script in manifest.scripts:
        yield _step(script.name, "script", script, partial(run_script, script.name, script.run, facts))
    for entry in manifest.cron:
        yield _step(entry.name, "cron", entry, partial(_install, entry, facts))


def _step(name: str, kind: str, entry: Entry, act: Callable[[], int]) -> _Step:
    return _Step(name=name, kind=kind, optional=entry.optional, when=entry.when, act=act)


def _run_together(steps: Iterable[_Step], facts: HostFacts, stopped: threading.Event) -> tuple[StepReport, ...]:
    with ThreadPoolExecutor(max_workers=facts.parallel_downloads, thread_name_prefix="download") as pool:
        running = [pool.submit(_run, step, facts) for step in steps]
        try:
            return tuple(future.result() for future in running)
        except BaseException:
            stopped.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _run(step: _Step, facts: HostFacts) -> StepReport:
    started = time.monotonic()
    unmet = [condition for condition in step.when if condition not in facts.conditions]
    status, error, count = Outcome.OK, None, 0
    try:
        if unmet:
            raise _Skip(f"not here: {', '.join(unmet)}")
        count = step.act()
    except _Skip as reason:
        status, error = Outcome.SKIPPED, str(reason)
    except (ProvisioningError, OSError) as failure:
        status, error = Outcome.FAILED, str(failure)
    seconds = round(time.monotonic() - started, 3)
    _tell(step, status, error, count)
    return StepReport(
        name=step.name, kind=step.kind, status=status, optional=step.optional, error=error, bytes=count, seconds=seconds
    )


def _tell(step: _Step, status: Outcome, error: str | None, count: int) -> None:
    detail = error or (f"{count / 1e6:.1f} MB downloaded" if count else "")
    mark = "failed (optional)" if status is Outcome.FAILED and step.optional else status
    say(f"    {step.kind} {step.name}: {mark}{', ' if detail else ''}{detail}")


def _folder(facts: HostFacts, under: str) -> Path:
    if under == "workspace":
        return facts.workspace
    if facts.comfyui_root is None:
        raise ProvisioningError("ComfyUI's folder is not known.", remedy="Set COMFYUI_INSTALL_PATH.")
    return facts.comfyui_root


def _fetch_model(model: ModelFile, facts: HostFacts, fetcher: Fetcher) -> int:
    target = _folder(facts, "comfyui") / "models" / model.path
    return fetcher.fetch(Download(url=model.url, target=target, size_bytes=model.size_bytes, sha256=model.sha256))


def _fetch_file(file: PlainFile, url: str, facts: HostFacts, fetcher: Fetcher) -> int:
    target = _folder(facts, file.under) / file.path
    return fetcher.fetch(Download(url=url, target=target, size_bytes=file.size_bytes, sha256=file.sha256))


def _write(file: PlainFile, content: str, facts: HostFacts) -> int:
    path = _folder(facts, file.under) / file.path
    if not path.is_file() or path.read_text() != content:
        write_text_atomically(path, content)
    return 0


def run_script(name: str, text: str, facts: HostFacts, *, key: str | None = None) -> int:
    """Run bash text once for its ``key``, by default its hash. Raises ProvisioningError."""
    key = key or digest(text)
    if was_run(name, key, facts):
        return 0
    path = facts.workspace / ".provisioning" / f"{name}.sh"
    write_text_atomically(path, text, mode=0o700)
    say(f"    running script {name}")
    run_command(
        ["bash", path],
        failure=f"The script {name} failed.",
        remedy="Correct it, then start again.",
        env=_script_environment(facts),
        cwd=facts.workspace,
    )
    _stamps(facts).mark(f"script-{name}", key)
    return 0


def was_run(name: str, key: str, facts: HostFacts) -> bool:
    """Tell whether the script was run to its end for this ``key``."""
    return _stamps(facts).fresh(f"script-{name}", key)


def _stamps(facts: HostFacts) -> Stamps:
    return Stamps(facts.workspace / ".provisioning")


def _script_environment(facts: HostFacts) -> dict[str, str]:
    environment = {**os.environ, "WORKSPACE_DIR": str(facts.workspace), "WORKSPACE": str(facts.workspace)}
    if facts.comfyui_root is not None:
        environment["COMFYUI_INSTALL_PATH"] = str(facts.comfyui_root)
    return environment


def _install(entry: CronEntry, facts: HostFacts) -> int:
    missing = missing_for_cron(facts.cron_dir)
    if missing:
        raise _Skip(missing)
    install_entry(entry, cron_dir=facts.cron_dir, workspace=facts.workspace, environ=os.environ)
    start_cron(facts.cron_dir)
    return 0


def causes(failures: Sequence[StepReport]) -> str:
    """Put what holds the worker back into one line."""
    return "; ".join(f"{step.kind} {step.name}: {step.error}" for step in failures)
