"""Prepares a whole host, in order: checks, TLS, the operator's script, ComfyUI, the manifest, the checkpoint.

What is decided here is where ComfyUI comes from (``choose_engine``); each part is carried out by its own module.
"""

import shutil
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cache, partial
from pathlib import Path

import requests

from lib.comfy import supervisor
from lib.settings import RunPodSettings, Settings
from provisioning import later
from provisioning.apply import apply_manifest, causes, run_script, was_run
from provisioning.comfyui.checkpoint import ensure_random_checkpoint
from provisioning.comfyui.environment import detect_device
from provisioning.comfyui.install import ensure_comfyui
from provisioning.comfyui.locate import comfyui_version, find_installed, find_python
from provisioning.comfyui.record import Device, InstallRecord, read_record, write_record
from provisioning.errors import ProvisioningError, without_secrets
from provisioning.facts import HostFacts
from provisioning.interpreter import Interpreter, interpreter_of
from provisioning.manifest import DEFAULT_MANIFEST, Condition, Manifest, load_manifest, parse_manifest, read_location
from provisioning.settings import REPOSITORY, VAST_SIGN_URL, HostSettings, InstallSettings
from provisioning.steps import digest, say
from provisioning.tls import TlsPaths, ensure_certificate
from provisioning.volume.mount import Volume, mount

USUAL_PORTS = (18188, 8188)
MANIFEST_JSON = "MANIFEST_JSON"
OWN_BENCHMARK = REPOSITORY / "workers" / "comfyui-json" / "misc" / "benchmark.json"


class EnginePlan(StrEnum):
    """Where ComfyUI comes from."""

    ATTACH = "attach"
    WAIT = "wait"
    COMMAND = "command"
    LAUNCH = "launch"


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What was found on this host before anything was changed."""

    supervised: bool
    running_at: str | None


def prepare_host(workspace: Path, *, host: HostSettings, install: InstallSettings, worker: Settings) -> None:
    """Make this host ready for the worker. Raises ProvisioningError where the worker could not even start.

    A manifest step that fails does not raise: the report says so, and the worker starts, refuses readiness and tells
    the cause.
    """
    workspace.mkdir(parents=True, exist_ok=True)
    workspace = workspace.resolve()
    if host.rotate_model_log and host.model_log is not None:
        rotate_log(host.model_log)
    _tls(host, worker)
    around = look_around(timeout_s=install.probe_timeout_s)
    plan = choose_engine(worker, around)
    root = None if plan is EnginePlan.LAUNCH else _known_root(install, worker)
    device = install.device or detect_device()
    _operators_script(host, around, _facts(workspace, host, root=root, device=device))
    record = _comfyui(workspace, plan, install=install, worker=worker, around=around)
    facts = _facts(workspace, host, root=record.root if record is not None else root, device=device)
    facts = replace(
        facts,
        find_interpreter=cache(partial(_interpreter, workspace, facts.comfyui_root, record, install.python)),
        volume=_volume(facts, record, worker.runpod),
    )
    if record is not None:
        record = _note(record, facts)
    elif facts.volume is not None:
        say("    This ComfyUI is started by others: let it have " + ", ".join(map(str, facts.volume.configs)))
        say("    by --extra-model-paths-config.")
    _manifest(host, around, facts)
    if record is not None:
        _note(record, facts)  # a snapshot may have brought another version
    if record is not None and record.device is Device.CPU and uses_default_benchmark(host):
        ensure_random_checkpoint(record)


def choose_engine(worker: Settings, around: Surroundings) -> EnginePlan:
    """Decide without acting: never start a second ComfyUI where somebody else runs, or will run, one."""
    if worker.engine.attached_bases:
        return EnginePlan.ATTACH
    if around.supervised:
        return EnginePlan.WAIT
    if worker.engine.command is not None:
        return EnginePlan.COMMAND
    asked_for_our_own = worker.engine.port == 0
    if worker.serverless and not asked_for_our_own:
        return EnginePlan.WAIT
    return EnginePlan.ATTACH if around.running_at and not asked_for_our_own else EnginePlan.LAUNCH


def look_around(*, timeout_s: float) -> Surroundings:
    """See whether a supervisor owns ComfyUI and whether one answers at a usual port."""
    bases = (f"http://127.0.0.1:{port}" for port in USUAL_PORTS)
    return Surroundings(
        supervised=supervisor.owns_comfyui(),
        running_at=next((base for base in bases if _is_comfyui(base, timeout_s)), None),
    )


def _is_comfyui(base: str, timeout_s: float) -> bool:
    try:
        return "comfyui_version" in requests.get(f"{base}/system_stats", timeout=timeout_s).json()["system"]
    except (requests.RequestException, KeyError, TypeError):
        return False


def rotate_log(path: Path) -> None:
    """Append the log to ``<name>.old`` and empty it, as Vast's script does with ROTATE_MODEL_LOG."""
    if not path.is_file():
        return
    with path.open("rb") as old, path.with_name(f"{path.name}.old").open("ab") as kept:
        shutil.copyfileobj(old, kept)
    with path.open("w"):
        say(f"    {path} rotated")


def _tls(host: HostSettings, worker: Settings) -> None:
    if not worker.use_ssl:
        return
    paths = TlsPaths(key=worker.server.ssl_key_path, request=host.csr_path, certificate=worker.server.ssl_cert_path)
    container_id = worker.fleet.container_id
    if container_id is None:
        if not (paths.key.is_file() and paths.certificate.is_file()):
            raise ProvisioningError(
                f"USE_SSL is true, but {paths.key} or {paths.certificate} is missing.",
                remedy="Name a key and a certificate with SSL_KEY_PATH and SSL_CERT_PATH, or set USE_SSL=false.",
            )
        return
    say("TLS")
    told = {} if host.sign_url == VAST_SIGN_URL else _about(worker)
    ensure_certificate(paths, sign_url=host.sign_url, container_id=container_id, wait_s=host.sign_wait_s, **told)


def _about(worker: Settings) -> dict[str, str]:
    """What a router has to know to sign for the address that callers use."""
    token = worker.fleet.master_token
    return {"address": worker.fleet.public_ipaddr or "", "token": token.get_secret_value() if token else ""}


def _operators_script(host: HostSettings, around: Surroundings, facts: HostFacts) -> None:
    if host.script is None:
        return
    if around.supervised:
        say("PROVISIONING_SCRIPT is left to this image, which runs it before its supervisor starts ComfyUI.")
        return
    key = digest(host.script)
    if not was_run("operator", key, facts):
        say(f"Provisioning script {without_secrets(host.script)}")
        run_script("operator", read_location(host.script), facts, key=key)


def _comfyui(
    workspace: Path, plan: EnginePlan, *, install: InstallSettings, worker: Settings, around: Surroundings
) -> InstallRecord | None:
    """Install where we launch it ourselves; elsewhere give what an earlier start recorded."""
    if plan is EnginePlan.LAUNCH:
        return ensure_comfyui(workspace, settings=install)
    if plan is EnginePlan.WAIT:
        owner = "its supervisor" if around.supervised else "this serverless host"
        say(f"ComfyUI is started by {owner}; the worker waits for it.")
    elif plan is EnginePlan.COMMAND:
        say("ComfyUI is started by CMD.")
    else:
        named = ", ".join(worker.engine.attached_bases)
        say(f"ComfyUI is the one at {named or around.running_at}; the worker attaches to it.")
    return None if worker.engine.attached_bases else read_record(workspace)


def _interpreter(
    workspace: Path, root: Path | None, record: InstallRecord | None, named: Path | None
) -> Interpreter | None:
    if record is not None:
        return interpreter_of(workspace, python=record.python, env=record.env)
    python = find_python(root, named) if root is not None else None  # takes seconds: asked for packages only
    return interpreter_of(workspace, python=python, env={}) if python is not None else None


def _volume(facts: HostFacts, record: InstallRecord | None, settings: RunPodSettings) -> Volume | None:
    return mount(
        settings.volume_path,
        workspace=facts.workspace,
        root=facts.comfyui_root,
        interpreter=_interpreter(facts.workspace, None, record, None),
        each=settings.volume_debug,
    )


def _note(record: InstallRecord, facts: HostFacts) -> InstallRecord:
    """Tell the worker which files of model paths its ComfyUI gets, and the version that is there now."""
    paths = facts.volume.configs if facts.volume else ()
    noted = record.model_copy(update={"extra_model_paths": paths, "version": comfyui_version(record.root)})
    if noted != record:
        write_record(facts.workspace, noted)
    return noted


def _known_root(install: InstallSettings, worker: Settings) -> Path | None:
    """Give the folder of a ComfyUI that we don't start; nothing is guessed for one on another host."""
    if install.install_path is not None:
        return install.install_path if install.install_path.is_dir() else None
    return None if worker.engine.attached_bases else find_installed(None)


def _manifest(host: HostSettings, around: Surroundings, facts: HostFacts) -> None:
    name, manifest = chosen_manifest(host, image_reads_its_own=around.supervised)
    say(f"Provisioning by {without_secrets(name)}")
    before, after = manifest.parted()
    later.note(facts.workspace, after)
    report = apply_manifest(before, facts)
    if around.running_at and any(step.kind == "import" for step in report.steps):
        say(f"    ComfyUI runs already at {around.running_at}: restart it, so that it loads new node packs.")
    if report.failures:
        say(f"    The worker will start, but not be ready: {causes(report.failures)}")


def chosen_manifest(
    host: HostSettings, *, given: str | None = None, image_reads_its_own: bool = False
) -> tuple[str, Manifest]:
    """Give the manifest that counts, and its name: the given one, else the operator's, else the default one."""
    image = None if image_reads_its_own else host.image_manifest
    location = given or host.own_manifest or image
    if location is None and host.manifest_json is not None:
        return MANIFEST_JSON, parse_manifest(host.manifest_json.get_secret_value(), name=MANIFEST_JSON)
    location = str(location or host.manifest_path or DEFAULT_MANIFEST)
    return location, load_manifest(location)


def apply_only(workspace: Path, *, host: HostSettings, install: InstallSettings, manifest: Manifest) -> None:
    """Carry one manifest out for the ComfyUI that is recorded or installed here, also what may come after its start.
    Raises if a needed step failed."""
    workspace.mkdir(parents=True, exist_ok=True)
    workspace = workspace.resolve()
    facts = known_host(workspace, host=host, install=install)
    report = apply_manifest(manifest, facts)
    if report.failures:
        raise ProvisioningError(causes(report.failures), remedy="Start again to go on: what is done is kept.")


def known_host(workspace: Path, *, host: HostSettings, install: InstallSettings) -> HostFacts:
    """Describe the host as earlier starts left it: the ComfyUI that is recorded, else one that is installed here."""
    record = read_record(workspace)
    root = record.root if record else find_installed(install.install_path)
    facts = _facts(workspace, host, root=root, device=install.device or detect_device())
    return replace(facts, find_interpreter=cache(partial(_interpreter, workspace, root, record, install.python)))


def _facts(workspace: Path, host: HostSettings, *, root: Path | None, device: Device) -> HostFacts:
    conditions = {Condition.GPU if device is Device.CUDA else Condition.CPU}
    if root is not None and uses_default_benchmark(host):
        conditions.add(Condition.DEFAULT_BENCHMARK)
    return HostFacts(
        workspace=workspace,
        comfyui_root=root,
        conditions=frozenset(conditions),
        device=device,
        registry_url=host.registry_url,
        snapshot=host.snapshot,
        cron_dir=host.cron_dir,
        hf_token=host.hf_token.get_secret_value() if host.hf_token else None,
        urls=host.urls(),
        parallel_downloads=host.parallel_downloads,
    )


def uses_default_benchmark(host: HostSettings) -> bool:
    """Tell whether the boot benchmark will run the default workflow, which needs the default checkpoint."""
    return host.benchmark_json is None and not OWN_BENCHMARK.is_file()
