"""What is done to a host, and above all what is not: no second ComfyUI, no file in a folder that is not known."""

import json
import sys
from pathlib import Path

import pytest
from cryptography import x509

from lib.settings import Settings, load_settings
from provisioning.beside import Later
from provisioning.comfyui.record import Device
from provisioning.errors import ProvisioningError
from provisioning.host import EnginePlan, Surroundings, choose_engine, look_around, prepare_host, rotate_log
from provisioning.report import FILE_NAME
from provisioning.settings import HostSettings, InstallSettings
from tests.provisioning.packs import plant
from tests.provisioning.servers import FileServer, Signer

INSTALL = InstallSettings(probe_timeout_s=1)
NOBODY = Surroundings(supervised=False, running_at=None)


def settings(**environ: str) -> Settings:
    return load_settings(environ)


def host(tmp_path: Path, **values: object) -> HostSettings:
    (tmp_path / "cron.d").mkdir(exist_ok=True)
    return HostSettings(cron_dir=tmp_path / "cron.d", csr_path=tmp_path / "i.csr", sign_wait_s=0.001, **values)  # type: ignore[arg-type]


def prepare(tmp_path: Path, worker: Settings, **values: object) -> None:
    prepare_host(tmp_path / "w", host=host(tmp_path, **values), install=INSTALL, worker=worker)


ATTACHED = {"COMFYUI_API_BASE": "http://127.0.0.1:9"}
SERVERLESS = {"REPORT_ADDR": "http://127.0.0.1:9", "CONTAINER_ID": "42"}


@pytest.mark.parametrize(
    ("environ", "around", "plan"),
    [
        ({}, NOBODY, EnginePlan.LAUNCH),
        ({}, Surroundings(supervised=False, running_at="http://127.0.0.1:8188"), EnginePlan.ATTACH),
        ({"COMFYUI_PORT": "0"}, Surroundings(supervised=False, running_at="http://127.0.0.1:8188"), EnginePlan.LAUNCH),
        ({}, Surroundings(supervised=True, running_at=None), EnginePlan.WAIT),
        (ATTACHED, NOBODY, EnginePlan.ATTACH),
        ({"COMFYUI_BACKENDS": "http://a:1,http://b:2"}, NOBODY, EnginePlan.ATTACH),
        (SERVERLESS, NOBODY, EnginePlan.WAIT),
        ({"COMFYUI_PORT": "0", **SERVERLESS}, NOBODY, EnginePlan.LAUNCH),
        ({"COMFYUI_PORT": "0", **SERVERLESS}, Surroundings(supervised=True, running_at=None), EnginePlan.WAIT),
        (SERVERLESS, Surroundings(supervised=True, running_at="http://127.0.0.1:18188"), EnginePlan.WAIT),
        ({"CONTAINER_ID": "42"}, NOBODY, EnginePlan.LAUNCH),
        ({"CMD": "run"}, Surroundings(supervised=False, running_at="http://127.0.0.1:8188"), EnginePlan.COMMAND),
        ({"CMD": "run", **SERVERLESS}, NOBODY, EnginePlan.COMMAND),
        ({"CMD": "run"}, Surroundings(supervised=True, running_at=None), EnginePlan.WAIT),
        ({"CMD": "run", **ATTACHED}, NOBODY, EnginePlan.ATTACH),
    ],
)
def test_a_second_comfyui_is_never_started(environ: dict[str, str], around: Surroundings, plan: EnginePlan) -> None:
    assert choose_engine(settings(**environ), around) is plan


def test_only_comfyui_counts_as_comfyui(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some other server at its usual port is not attached to."""
    monkeypatch.setattr("provisioning.host.USUAL_PORTS", (server.server_port,))
    server.add("/system_stats", b"<html>")
    assert look_around(timeout_s=60).running_at is None
    server.add("/system_stats", b'{"system": {"comfyui_version": "0.3.75"}}')
    assert look_around(timeout_s=60).running_at == server.url


def test_attached_host_installs_nothing(tmp_path: Path) -> None:
    prepare(tmp_path, settings(**ATTACHED))
    assert not (tmp_path / "w" / "ComfyUI").exists()
    report = json.loads((tmp_path / "w" / FILE_NAME).read_text())
    assert report["status"] == "ok"
    assert report["steps"][0]["status"] == "skipped"


def test_where_a_command_starts_comfyui_none_is_installed(tmp_path: Path, server: FileServer) -> None:
    """Salad's manifest is for the ComfyUI in COMFY_HOME; what may come after the start is left for then."""
    root = tmp_path / "opt" / "ComfyUI"
    (root / "comfy").mkdir(parents=True)
    (root / "main.py").touch()
    first, later = server.add("/first", b"abc"), server.add("/later", b"def")
    models = {
        "before_start": [{"url": first, "local_path": "models/loras/first.bin"}],
        "after_start": [{"url": later, "local_path": "models/loras/later.bin"}],
    }
    install = InstallSettings(install_path=root, probe_timeout_s=1)
    values = host(tmp_path, manifest_json=json.dumps({"models": models}))
    worker = settings(CMD="python main.py", COMFY_HOME=str(root))
    prepare_host(tmp_path / "w", host=values, install=install, worker=worker)
    assert sorted(path.name for path in (root / "models" / "loras").iterdir()) == ["first.bin"]
    assert not (tmp_path / "w" / "ComfyUI").exists()
    assert Later().wanted(tmp_path / "w")
    prepare_host(tmp_path / "w", host=host(tmp_path, manifest_json="{}"), install=install, worker=worker)
    assert not Later().wanted(tmp_path / "w")


def test_operators_manifest_replaces_the_default_one(tmp_path: Path) -> None:
    manifest = tmp_path / "m.yaml"
    manifest.write_text("files: [{path: hello, content: there}]")
    prepare(tmp_path, settings(**ATTACHED), image_manifest=str(manifest))
    assert (tmp_path / "w" / "hello").read_text() == "there"


def test_failed_manifest_lets_the_worker_start_and_tell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = tmp_path / "m.yaml"
    manifest.write_text("scripts: [{name: bad, run: exit 1}]")
    prepare(tmp_path, settings(**ATTACHED), own_manifest=str(manifest))
    assert json.loads((tmp_path / "w" / FILE_NAME).read_text())["status"] == "failed"
    assert "not be ready: script bad" in capsys.readouterr().out


def test_operators_script_runs_once(server: FileServer, tmp_path: Path) -> None:
    url = server.add("/setup.sh", b"echo ran >> $WORKSPACE_DIR/log\n")
    for _ in range(2):
        prepare(tmp_path, settings(**ATTACHED), script=url)
    assert (tmp_path / "w" / "log").read_text() == "ran\n"
    assert len(server.seen("/setup.sh")) == 1


def test_failed_script_stops_the_start(tmp_path: Path) -> None:
    script = tmp_path / "setup.sh"
    script.write_text("echo the cause; exit 7")
    with pytest.raises(ProvisioningError, match=r"exit status 7(.|\n)*the cause"):
        prepare(tmp_path, settings(**ATTACHED), script=str(script))


def test_supervised_host_leaves_script_and_manifest_to_its_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Vast's images run both before their supervisor starts ComfyUI; the manifest there has another format."""
    monkeypatch.setattr("lib.comfy.supervisor.FOLDER", tmp_path)
    (tmp_path / "comfyui.conf").touch()
    prepare(tmp_path, settings(), script="/absent.sh", image_manifest="/absent.yaml")
    assert json.loads((tmp_path / "w" / FILE_NAME).read_text())["status"] == "ok"


def test_gpu_host_gets_the_checkpoint_into_the_folder_it_names(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Supervised ComfyUI, GPU, no checkpoint: the default condition holds, and the model goes beside the others."""
    monkeypatch.setattr("provisioning.host.detect_device", lambda: Device.CUDA)
    root = tmp_path / "ComfyUI"
    root.mkdir()
    manifest = tmp_path / "m.yaml"
    url = server.add("/m", b"weights")
    manifest.write_text(f"models: [{{path: checkpoints/a, url: '{url}', when: [gpu, default_benchmark]}}]")
    install = INSTALL.model_copy(update={"install_path": root})
    values = host(tmp_path, own_manifest=str(manifest))
    prepare_host(tmp_path / "w", host=values, install=install, worker=settings(**ATTACHED))
    assert (root / "models/checkpoints/a").read_bytes() == b"weights"


def test_own_benchmark_needs_no_default_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("provisioning.host.detect_device", lambda: Device.CUDA)
    (tmp_path / "ComfyUI").mkdir()
    install = INSTALL.model_copy(update={"install_path": tmp_path / "ComfyUI"})
    values = host(tmp_path, benchmark_json=tmp_path / "own.json")
    prepare_host(tmp_path / "w", host=values, install=install, worker=settings(**ATTACHED))
    assert not (tmp_path / "ComfyUI" / "models").exists()


def test_serverless_host_gets_its_certificate(server: FileServer, tmp_path: Path) -> None:
    server.signer = Signer()
    paths = {"SSL_KEY_PATH": str(tmp_path / "i.key"), "SSL_CERT_PATH": str(tmp_path / "i.crt")}
    prepare(tmp_path, settings(**SERVERLESS, **paths), sign_url=f"{server.url}/sign/")
    assert server.requests[0].path == "/sign/?instance_id=42"
    assert (tmp_path / "i.crt").read_bytes().startswith(b"-----BEGIN CERTIFICATE")


@pytest.mark.parametrize("address", ["203.0.113.7", "gpu.example.org"])
def test_a_router_is_told_for_whom_it_signs(server: FileServer, tmp_path: Path, address: str) -> None:
    """Behind its proxy it knows no caller's address, and wants the worker's token."""
    server.signer = Signer()
    told = {"SSL_KEY_PATH": str(tmp_path / "i.key"), "SSL_CERT_PATH": str(tmp_path / "i.crt")}
    told |= {"PUBLIC_IPADDR": address, "MASTER_TOKEN": "token-of-the-fleet"}
    prepare(tmp_path, settings(**SERVERLESS, **told), sign_url=f"{server.url}/api/v0/sign_cert/")
    (request,) = server.requests
    assert request.headers["Authorization"] == "Bearer token-of-the-fleet"
    names = x509.load_pem_x509_csr(request.body).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert [str(name.value) for name in names.value] == [address]


def test_tls_that_is_switched_off_asks_nobody(tmp_path: Path) -> None:
    prepare(tmp_path, settings(**SERVERLESS, USE_SSL="false"), sign_url="http://127.0.0.1:9/")


def test_standalone_tls_needs_files(tmp_path: Path) -> None:
    worker = settings(**ATTACHED, USE_SSL="true", SSL_KEY_PATH=str(tmp_path / "absent"))
    with pytest.raises(ProvisioningError, match="SSL_KEY_PATH"):
        prepare(tmp_path, worker)


def test_model_log_is_appended_to_the_old_one(tmp_path: Path) -> None:
    log = tmp_path / "comfyui.log"
    for text in ("one\n", "two\n"):
        log.write_text(text)
        rotate_log(log)
    assert log.read_text() == ""
    assert (tmp_path / "comfyui.log.old").read_text() == "one\ntwo\n"
    rotate_log(tmp_path / "absent.log")


def test_volume_is_noted_for_the_workers_comfyui(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What ComfyUI gets as --extra-model-paths-config stands in its record, and goes when the volume is gone."""
    workspace, volume = tmp_path / "w", tmp_path / "volume"
    (volume / "models").mkdir(parents=True)
    plant(tmp_path / "ComfyUI", "1.2.3")
    (tmp_path / "ComfyUI" / "venv" / "bin").mkdir(parents=True)
    monkeypatch.setattr("provisioning.comfyui.install.find_python", lambda *_: Path(sys.executable))
    monkeypatch.setattr("provisioning.host.ensure_random_checkpoint", lambda _: None)
    install = INSTALL.model_copy(update={"install_path": tmp_path / "ComfyUI"})
    for path, noted in ((volume, [str(workspace / "volume_model_paths.yaml")]), (tmp_path / "gone", [])):
        worker = settings(COMFYUI_PORT="0", RUNPOD_VOLUME_PATH=str(path))
        prepare_host(workspace, host=host(tmp_path), install=install, worker=worker)
        assert json.loads((workspace / "comfyui.json").read_text())["extra_model_paths"] == noted
        assert (json.loads((workspace / FILE_NAME).read_text())["volume"] is None) is not bool(noted)
