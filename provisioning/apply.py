"""Carries a manifest out: apt, downloads side by side, then the rest in order (files, nodes, pip, scripts, imports,
cron); leaves a report."""

import os
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from provisioning.cron import install_entry, missing_for_cron, start_cron
from provisioning.errors import ProvisioningError
from provisioning.facts import HostFacts, Skip, Step, step_of
from provisioning.fetch import Fetcher
from provisioning.manifest import CronEntry, Entry, Manifest, ModelFile, PlainFile
from provisioning.packages import PackageSteps
from provisioning.pins import Download, Pins
from provisioning.progress import display
from provisioning.report import Outcome, ProvisioningReport, StepReport, finished, unfinished, write_report
from provisioning.steps import Stamps, digest, exclusive, run_command, say, write_text_atomically

LOCK_FILE = "provisioning-lock.json"


def apply_manifest(manifest: Manifest, facts: HostFacts) -> ProvisioningReport:
    """Run all steps, also after one has failed, and write ``provisioning-report.json``."""
    started_at = datetime.now(UTC)
    workspace = facts.workspace
    with exclusive(workspace / ".provisioning" / "manifest-lock"):
        write_report(workspace, unfinished(started_at))
        stopped = threading.Event()
        fetcher = _fetcher(facts, stopped)
        packages = PackageSteps(manifest, facts, fetcher)
        system = tuple(_run(step, facts) for step in packages.system())
        downloads = _run_together(_downloads(manifest, facts, fetcher), facts, stopped)
        others = tuple(_run(step, facts) for step in _in_order(manifest, facts, packages))
        volume = facts.volume.report if facts.volume else None
        report = finished(started_at, system + downloads + others, volume=volume)
        write_report(workspace, report)
    return report


def fetch_files(manifest: Manifest, facts: HostFacts) -> tuple[StepReport, ...]:
    """Run the downloads of a manifest alone; no report is written."""
    stopped = threading.Event()
    return _run_together(_downloads(manifest, facts, _fetcher(facts, stopped)), facts, stopped)


def _fetcher(facts: HostFacts, stopped: threading.Event) -> Fetcher:
    return Fetcher(
        pins=Pins(facts.workspace / LOCK_FILE),
        progress=display(),
        hf_token=facts.hf_token,
        urls=facts.urls,
        stopped=stopped,
        retry_wait_s=facts.retry_wait_s,
    )


def _downloads(manifest: Manifest, facts: HostFacts, fetcher: Fetcher) -> Iterable[Step]:
    for model in manifest.models:
        yield step_of(model.path, "model", model, partial(_fetch_model, model, facts, fetcher))
    for file in manifest.files:
        if file.url is not None:
            yield step_of(file.path, "file", file, partial(_fetch_file, file, file.url, facts, fetcher))


def _in_order(manifest: Manifest, facts: HostFacts, packages: PackageSteps) -> Iterable[Step]:
    if facts.volume is not None and facts.volume.problem is not None:
        yield step_of("extra_model_paths.yaml", "volume", Entry(), partial(_raise, facts.volume.problem))
    for file in manifest.files:
        if file.content is not None:
            yield step_of(file.path, "file", file, partial(_write, file, file.content, facts))
    yield from packages.python()
    for script in manifest.scripts:
        yield step_of(script.name, "script", script, partial(run_script, script.name, script.run, facts))
    yield from packages.imports()
    for entry in manifest.cron:
        yield step_of(entry.name, "cron", entry, partial(_install, entry, facts))


def _raise(problem: ProvisioningError) -> int:
    raise problem


def _run_together(steps: Iterable[Step], facts: HostFacts, stopped: threading.Event) -> tuple[StepReport, ...]:
    with ThreadPoolExecutor(max_workers=facts.parallel_downloads, thread_name_prefix="download") as pool:
        running = [pool.submit(_run, step, facts) for step in steps]
        try:
            return tuple(future.result() for future in running)
        except BaseException:
            stopped.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _run(step: Step, facts: HostFacts) -> StepReport:
    started = time.monotonic()
    unmet = [condition for condition in step.when if condition not in facts.conditions]
    status, error, count = Outcome.OK, None, 0
    try:
        if unmet:
            raise Skip(f"not here: {', '.join(unmet)}")
        count = step.act()
    except Skip as reason:
        status, error = Outcome.SKIPPED, str(reason)
    except (ProvisioningError, OSError) as failure:
        status, error = Outcome.FAILED, str(failure)
    seconds = round(time.monotonic() - started, 3)
    _tell(step, status, error, count)
    return StepReport(
        name=step.name, kind=step.kind, status=status, optional=step.optional, error=error, bytes=count, seconds=seconds
    )


def _tell(step: Step, status: Outcome, error: str | None, count: int) -> None:
    detail = error or (f"{count / 1e6:.1f} MB downloaded" if count else "")
    mark = "failed (optional)" if status is Outcome.FAILED and step.optional else status
    say(f"    {step.kind} {step.name}: {mark}{', ' if detail else ''}{detail}")


def _folder(facts: HostFacts, under: str) -> Path:
    match under:
        case "workspace":
            return facts.workspace
        case "root":
            return Path("/")
    return facts.comfyui()


def _fetch_model(model: ModelFile, facts: HostFacts, fetcher: Fetcher) -> int:
    target = facts.comfyui() / "models" / model.path
    if facts.volume is not None and not target.exists() and facts.volume.holds(model.path, size_bytes=model.size_bytes):
        raise Skip(f"it is on the volume {facts.volume.path}")
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
        raise Skip(missing)
    install_entry(entry, cron_dir=facts.cron_dir, workspace=facts.workspace, environ=os.environ)
    start_cron(facts.cron_dir)
    return 0


def causes(failures: Sequence[StepReport]) -> str:
    """Put what holds the worker back into one line."""
    return "; ".join(f"{step.kind} {step.name}: {step.error}" for step in failures)
