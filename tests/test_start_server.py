"""``start_server.sh`` and the launcher, as real processes in a scratch copy of the checkout.

The worker itself is a stand-in except in one test: these are about what happens before, around and after it. The
copy uses this checkout's environment (``PYWORKER_VENV``), so that nothing is installed.
"""

import ast
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from provisioning.settings import REPOSITORY
from tests.comfyui_fixture import free_port, install_record
from tests.provisioning.servers import FileServer, Signer, serve

COPIED = (
    "start_server.sh",
    "requirements.txt",
    "requirements-dev.txt",
    "requirements-runpod.txt",
    "requirements-azure.txt",
    "provisioning",
    "lib",
    "benchmark",
)
SECOND_START_S = 240
LAUNCHER = REPOSITORY / "workers" / "comfyui-json" / "worker.py"
STUB = """
import json, os, signal, sys
names = ("WORKSPACE_DIR", "PYWORKER_HOST_READY", "REPORT_ADDR", "BACKEND")
signal.signal(signal.SIGTERM, lambda *_: (os.write(1, b"DRAINED\\n"), sys.exit(5)))
print("WORKER", json.dumps({name: os.environ.get(name) for name in names}), flush=True)
print("FLAGS", json.dumps(sys.argv[1:]), flush=True)
if os.environ.get("STUB_WAITS"):
    signal.pause()
sys.exit(int(os.environ.get("STUB_STATUS", "0")))
"""
RUN_STUB = """
import sys
def run(settings, *, boot_benchmark, after_start, test_job):
    boot = boot_benchmark.func.__name__
    print("SERVED", sys.version_info[:2] >= (3, 11), settings.engine.api_base, boot, flush=True)
    print("TEST", test_job, settings.server.api_port, settings.runpod.serve_locally, settings.telemetry.log_level)
    return 6
"""


class Checkout:
    """A scratch copy, and how to start things in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.workspace = folder.parent / "w"
        self.environ = {
            "PATH": os.environ["PATH"],
            "HOME": os.environ.get("HOME", "/tmp"),
            "PYWORKER_VENV": sys.prefix,
            "WORKSPACE_DIR": str(self.workspace),
            "FORCE_UPDATE_PATH": str(folder.parent / "force"),
            "CRON_DIR": str(folder.parent / "cron.d"),
            "COMFYUI_API_BASE": "http://127.0.0.1:9",
            "PROBE_TIMEOUT_S": "1",
        }

    def start(self, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        return self.call(["./start_server.sh", *arguments], **environ)

    @property
    def api(self) -> str:
        return f"http://127.0.0.1:{self.environ['API_PORT']}"

    def call(self, command: list[str], **environ: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=self.folder,
            env={**self.environ, **environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=240,
            check=False,
        )


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    folder = tmp_path / "src"
    folder.mkdir()
    for name in COPIED:
        source = REPOSITORY / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, folder / name)
    worker = folder / "workers" / "comfyui-json" / "worker.py"
    worker.parent.mkdir(parents=True)
    worker.write_text(STUB)
    return Checkout(folder)


@pytest.fixture
def autoscalers() -> Iterator[list[FileServer]]:
    with serve() as first, serve() as second:
        yield [first, second]


def serverless(autoscalers: list[FileServer], **more: str) -> dict[str, str]:
    addresses = ",".join(server.url for server in autoscalers)
    return {"REPORT_ADDR": addresses, "CONTAINER_ID": "42", "MASTER_TOKEN": 'm"t', "USE_SSL": "false", **more}


def messages(server: FileServer) -> list[str]:
    return [str(request.json["error_msg"]) for request in server.seen("/worker_status/")]


def test_standalone_announces_each_step_and_becomes_the_worker(checkout: Checkout) -> None:
    done = checkout.start(STUB_STATUS="4")
    assert done.returncode == 4
    steps = [line for line in done.stdout.splitlines() if line.startswith("[")]
    assert [line[:5] for line in steps] == ["[1/5]", "[2/5]", "[3/5]", "[4/5]", "[5/5]"]
    told = json.loads(done.stdout.split("WORKER ")[1].splitlines()[0])
    assert told == {
        "WORKSPACE_DIR": str(checkout.workspace),
        "PYWORKER_HOST_READY": "1",
        "REPORT_ADDR": None,
        "BACKEND": "comfyui-json",
    }
    assert not (checkout.workspace / "debug.log").exists()


def test_setup_only_starts_nothing(checkout: Checkout) -> None:
    done = checkout.start("--setup-only")
    assert done.returncode == 0
    assert "WORKER" not in done.stdout
    assert not (checkout.workspace / "comfyui.json").exists()


def test_unknown_option_is_refused(checkout: Checkout) -> None:
    done = checkout.start("--fast")
    assert done.returncode == 2
    assert "usage" in done.stdout


@pytest.mark.parametrize("given", [(), ("--test_input", '{"input": {"a b": 1}}'), ("--rp_api_port=9000", "--fast")])
def test_flags_of_the_worker_reach_it(
    checkout: Checkout, autoscalers: list[FileServer], given: tuple[str, ...]
) -> None:
    """From the first one on, as they are, whichever way it is started."""
    for environ in ({}, serverless(autoscalers)):
        done = checkout.start(*given, **environ)
        assert json.loads(done.stdout.split("FLAGS ")[1].splitlines()[0]) == list(given)


@pytest.mark.parametrize(
    ("variable", "listed"),
    [
        ("RUNPOD_WEBHOOK_GET_JOB", "requirements-runpod.txt"),
        ("AZURE_STORAGE_CONNECTION_STRING", "requirements-azure.txt"),
        ("AZURE_STORAGE_ACCOUNT", "requirements-azure.txt"),
    ],
)
def test_packages_that_a_variable_asks_for_are_installed(
    checkout: Checkout, tmp_path: Path, variable: str, listed: str
) -> None:
    """RunPod's queue, Azure's storage; a stand-in for pip shows what is asked for, beside what is always needed."""
    python = tmp_path / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\n[ "$2" != pip ] || echo "PIP $*"\n[ "$1" = -m ] || [ "$1" = -c ] || echo Python 3\n')
    python.chmod(0o755)
    environ = {"PYWORKER_VENV": str(tmp_path / "venv"), variable: "https://api.example/job-take/$ID?gpu=x"}
    done = checkout.start("--setup-only", **environ)
    assert done.returncode == 0, done.stdout
    assert "PIP -m pip install" in done.stdout
    assert f"-r requirements.txt -r {listed}" in done.stdout
    assert "nothing has changed" in checkout.start("--setup-only", **environ).stdout


def test_crashed_worker_is_reported_to_every_address(checkout: Checkout, autoscalers: list[FileServer]) -> None:
    done = checkout.start(**serverless(autoscalers, STUB_STATUS="3"))
    assert done.returncode == 3
    for server in autoscalers:
        (request,) = server.seen("/worker_status/")
        assert request.json == {
            "id": 42,
            "mtoken": 'm"t',
            "version": "0",
            "error_msg": "PyWorker exited with status 3",
            "url": "",
        }
    log = (checkout.workspace / "debug.log").read_text()
    assert "[5/5] Worker" in log
    assert "WORKER {" in log


def test_clean_end_reports_nothing(checkout: Checkout, autoscalers: list[FileServer]) -> None:
    assert checkout.start(**serverless(autoscalers)).returncode == 0
    assert autoscalers[0].requests == []


def test_sigterm_reaches_the_worker(checkout: Checkout, autoscalers: list[FileServer]) -> None:
    """The worker drains and its own status is what the script ends with."""
    started = subprocess.Popen(
        ["./start_server.sh"],
        cwd=checkout.folder,
        env={**checkout.environ, **serverless(autoscalers, STUB_WAITS="1")},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert started.stdout is not None
    with started, started.stdout as output:
        lines = iter(output.readline, "")
        assert any("WORKER" in line for line in lines)
        started.send_signal(signal.SIGTERM)
        assert any("DRAINED" in line for line in lines)
        assert started.wait(timeout=120) == 5


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"CONTAINER_ID": ""}, "CONTAINER_ID is not set"),
        ({"CONTAINER_ID": "abc"}, "CONTAINER_ID"),
        ({"BACKEND": "absent"}, "BACKEND=absent has no workers/absent/worker.py"),
        ({"IS_DEPLOYMENT": "true"}, "IS_DEPLOYMENT"),
        ({"PROVISIONING_MANIFEST": "/absent.yaml"}, "/absent.yaml can't be read"),
        ({"WORKER_PORT": "many"}, "WORKER_PORT"),
    ],
)
def test_wrong_environments_stop_the_start_and_are_reported(
    checkout: Checkout, autoscalers: list[FileServer], environ: dict[str, str], said: str
) -> None:
    done = checkout.start(**{**serverless(autoscalers), **environ})
    assert done.returncode == 1
    assert "FAILED: " in done.stdout
    assert "Next: " in done.stdout
    assert "WORKER {" not in done.stdout
    for server in autoscalers:
        (message,) = messages(server)
        assert said in message


def test_serverless_start_signs_and_survives_an_error_page(checkout: Checkout, tmp_path: Path) -> None:
    with serve() as console:
        console.signer = Signer()
        console.posts = [b"<html>busy</html>"]
        done = checkout.start(
            REPORT_ADDR=console.url,
            CONTAINER_ID="42",
            CERT_SIGN_URL=f"{console.url}/sign/",
            CERT_SIGN_WAIT_S="0.01",
            SSL_KEY_PATH=str(tmp_path / "i.key"),
            SSL_CERT_PATH=str(tmp_path / "i.crt"),
            SSL_CSR_PATH=str(tmp_path / "i.csr"),
        )
        assert done.returncode == 0
        assert len(console.seen("/sign/")) == 2
        assert "attempt 1 failed (the answer is not a certificate)" in done.stdout
    assert (tmp_path / "i.crt").read_text().startswith("-----BEGIN CERTIFICATE")


def test_refused_signature_stops_and_is_reported(checkout: Checkout, tmp_path: Path) -> None:
    with serve() as console:
        console.posts = [500] * 5
        done = checkout.start(
            REPORT_ADDR=console.url,
            CONTAINER_ID="42",
            CERT_SIGN_URL=f"{console.url}/sign/",
            CERT_SIGN_WAIT_S="0.01",
            SSL_KEY_PATH=str(tmp_path / "i.key"),
            SSL_CERT_PATH=str(tmp_path / "i.crt"),
            SSL_CSR_PATH=str(tmp_path / "i.csr"),
        )
        assert done.returncode == 1
        (message,) = messages(console)
    assert "No certificate from" in message
    assert "500" in message
    assert not (tmp_path / "i.crt").exists()


def test_update_flag_brings_the_new_version_once(checkout: Checkout, tmp_path: Path) -> None:
    """``POST /pyworker/update`` leaves the flag; the next start pulls, starts the new script and forgets the flag."""
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "init.defaultBranch=main")

    def git(*arguments: str, at: Path) -> None:
        subprocess.run(["git", *identity, *arguments], cwd=at, check=True, capture_output=True)

    git("init", "--quiet", at=checkout.folder)
    git("add", "-A", at=checkout.folder)
    git("commit", "--quiet", "-m", "one", at=checkout.folder)
    git("clone", "--quiet", str(checkout.folder), str(tmp_path / "clone"), at=tmp_path)
    worker = checkout.folder / "workers" / "comfyui-json" / "worker.py"
    worker.write_text("print('NEW VERSION')")
    git("commit", "--quiet", "-am", "two", at=checkout.folder)
    flag = tmp_path / "force"
    flag.touch()
    checkout.folder = tmp_path / "clone"
    # The stamps lie in the shared environment; an update removes them, and this test must not have pip run.
    checkout.environ["PYWORKER_VENV"] = str(_linked_environment(tmp_path))
    done = checkout.start(PIP_NO_INDEX="1")
    assert "asks for an update" in done.stdout
    assert "NEW VERSION" in done.stdout
    assert not flag.exists()
    assert done.returncode == 0


def _linked_environment(tmp_path: Path) -> Path:
    """An environment that has this one's packages, with stamps of its own."""
    folder = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    site = next((folder / "lib").glob("python3*")) / "site-packages"
    (site / "shared.pth").write_text(str(next(Path(sys.prefix, "lib").glob("python3*")) / "site-packages") + "\n")
    return folder


# The whole service


@pytest.fixture
def whole(checkout: Checkout) -> Checkout:
    """The real worker on free ports, with the ComfyUI that ``make test`` installed."""
    shutil.copytree(
        LAUNCHER.parent,
        checkout.folder / "workers" / "comfyui-json",
        dirs_exist_ok=True,
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    del checkout.environ["COMFYUI_API_BASE"]
    checkout.environ |= {name: str(free_port()) for name in ("API_PORT", "WORKER_PORT", "WORKER_HTTP_PORT")}
    size = {"BENCHMARK_TEST_WIDTH": "64", "BENCHMARK_TEST_HEIGHT": "64", "BENCHMARK_TEST_STEPS": "1"}
    checkout.environ |= size | {"COMFYUI_PORT": "0", "COMFYUI_INSTALL_PATH": str(install_record()["root"])}
    return checkout


@contextmanager
def started(whole: Checkout) -> Iterator[Iterator[str]]:
    """Run it; gives its lines, and ends it as an operator would. A failed assertion ends it too."""
    process = subprocess.Popen(
        ["./start_server.sh"],
        cwd=whole.folder,
        env=whole.environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    with process, process.stdout as output:
        try:
            yield iter(output.readline, "")
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=120) == 0, output.read()
        finally:
            if process.poll() is None:
                process.kill()


def pasted(lines: Iterator[str]) -> str:
    """Give the ``curl`` line of the summary."""
    seen = []
    for line in lines:
        seen.append(line)
        if line.strip().startswith("curl "):
            return line.strip()
    pytest.fail("The service did not start:\n" + "".join(seen[-40:]))


@pytest.mark.start
@pytest.mark.comfyui
def test_one_command_ends_in_a_service_whose_pasted_line_makes_a_picture(whole: Checkout) -> None:
    """Twice: the second start is a matter of seconds, ComfyUI's own included; of a minute or two on a busy machine."""
    with started(whole) as lines:
        answer = json.loads(subprocess.run(["bash", "-c", pasted(lines)], capture_output=True, check=True).stdout)
        assert answer["status"] == "completed"
        (picture,) = answer["output"]
        assert Path(picture["local_path"]).read_bytes().startswith(b"\x89PNG\r\n")
    began = time.monotonic()
    with started(whole) as lines:
        assert whole.api in pasted(lines)
        took = time.monotonic() - began
    assert took < SECOND_START_S, f"the second start took {took:.0f} s"


# The launcher


def _python310() -> str:
    found = shutil.which("pyenv")
    if found is not None:
        prefix = subprocess.run([found, "prefix", "3.10.13"], capture_output=True, text=True, check=False)
        python = Path(prefix.stdout.strip()) / "bin" / "python3.10"
        if prefix.returncode == 0 and python.exists():
            return str(python)
    plain = shutil.which("python3.10")
    if plain is None or subprocess.run([plain, "-c", ""], capture_output=True, check=False).returncode:
        pytest.skip("there is no Python 3.10 on this machine (pyenv install 3.10.13 brings it)")
    return plain


@pytest.fixture
def launched(checkout: Checkout) -> Checkout:
    """The real launcher; what it hands over to is a stand-in."""
    shutil.copy2(LAUNCHER, checkout.folder / "workers" / "comfyui-json" / "worker.py")
    shutil.rmtree(checkout.folder / "lib" / "app", ignore_errors=True)
    (checkout.folder / "lib" / "app.py").write_text(RUN_STUB)
    (checkout.folder / "benchmark" / "boot.py").write_text("def boot_benchmark(): ...\n")
    return checkout


def test_stock_script_launches_it_with_python_310(launched: Checkout, autoscalers: list[FileServer]) -> None:
    """As Vast's script does: ``python3 -m workers.comfyui-json.worker`` at the root, in a 3.10 interpreter."""
    flags = ("--test_input", '{"input": 1}')
    done = launched.call([_python310(), "-m", "workers.comfyui-json.worker", *flags], **serverless(autoscalers))
    assert "TEST {'input': 1}" in done.stdout, done.stdout
    assert "SERVED True http://127.0.0.1:9 boot_benchmark" in done.stdout, done.stdout
    assert done.returncode == 6
    assert (launched.workspace / "provisioning-report.json").is_file()
    assert autoscalers[0].requests == []


def test_launcher_reports_when_no_environment_can_be_made(
    launched: Checkout, autoscalers: list[FileServer], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    environ = serverless(autoscalers, PYWORKER_VENV=str(tmp_path / "file" / "venv"))
    done = launched.call([_python310(), "-m", "workers.comfyui-json.worker"], **environ)
    assert done.returncode == 1
    for server in autoscalers:
        assert any("could not make the environment" in message for message in messages(server))


def test_launcher_does_not_prepare_a_prepared_host(launched: Checkout) -> None:
    worker = str(launched.folder / "workers" / "comfyui-json" / "worker.py")
    done = launched.call([sys.executable, worker], PYWORKER_HOST_READY="1")
    assert done.returncode == 6
    assert not (launched.workspace / "provisioning-report.json").exists()


def test_launcher_ends_with_the_status_of_a_failed_preparation(
    launched: Checkout, autoscalers: list[FileServer]
) -> None:
    worker = str(launched.folder / "workers" / "comfyui-json" / "worker.py")
    done = launched.call([sys.executable, worker], **serverless(autoscalers, PYWORKER_MANIFEST="/absent.yaml"))
    assert done.returncode == 1
    assert "SERVED" not in done.stdout
    assert len(messages(autoscalers[1])) == 1


def _told(launched: Checkout, *flags: str, **environ: str) -> subprocess.CompletedProcess[str]:
    worker = str(launched.folder / "workers" / "comfyui-json" / "worker.py")
    return launched.call([sys.executable, worker, *flags], PYWORKER_HOST_READY="1", **environ)


def test_the_flags_of_runpods_sdk_are_understood(launched: Checkout) -> None:
    """They say what variables say, and win over them; without them nothing changes."""
    assert "TEST None None False INFO" in _told(launched).stdout
    assert "TEST None None True INFO" in _told(launched, "--rp_serve_api", "--rp_api_concurrency", "4").stdout
    done = _told(
        launched,
        "--rp_api_host=127.0.0.1",
        "--rp_api_port=9001",
        "--rp_log_level",
        "warn",
        API_PORT="1",
        LOG_LEVEL="ERROR",
    )
    assert "TEST None 9001 False WARNING" in done.stdout
    assert "TEST None None False DEBUG" in _told(launched, "--rp_debugger").stdout


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--fast",), "unrecognized arguments: --fast"),
        (("--test_input", "{not json"), "is not JSON"),
        (("--test_input", '{"workflow": {}}'), 'expected {"input"'),
        (("--test_input", "absent.json"), "absent.json is not there"),
        (("--test_input",), "test_input.json or"),
        (("--rp_api_port", "many"), "--rp_api_port"),
    ],
)
def test_what_is_wrong_with_a_flag_is_said(launched: Checkout, flags: tuple[str, ...], said: str) -> None:
    done = _told(launched, *flags)
    assert done.returncode == 2
    assert said in done.stdout
    assert "SERVED" not in done.stdout


def test_the_test_job_is_given_or_in_a_file(launched: Checkout, tmp_path: Path) -> None:
    """As JSON, as a file's name, or in test_input.json, here or in the repository; such a file alone does nothing."""
    job = {"input": {"workflow": {"1": {}}}}
    (launched.folder / "test_input.json").write_text(json.dumps(job))
    assert "TEST None" in _told(launched).stdout
    assert f"TEST {job}" in _told(launched, "--test_input").stdout
    assert f"TEST {job}" in _told(launched, "--test_input", json.dumps(job)).stdout
    (tmp_path / "mine.json").write_text(json.dumps({"input": "mine"}))
    assert "TEST {'input': 'mine'}" in _told(launched, "--test_input", str(tmp_path / "mine.json")).stdout


def test_launcher_imports_only_what_is_agreed() -> None:
    """Import contracts can't see a folder with a hyphen: its imports are read here."""
    tree = ast.parse(LAUNCHER.read_text(), feature_version=(3, 10))
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(str(node.module))
    ours = {name for name in names if name.split(".")[0] not in sys.stdlib_module_names}
    assert ours == {
        "benchmark.boot",
        "benchmark.settings",
        "benchmark.warmup",
        "lib.app",
        "lib.settings",
        "provisioning.beside",
        "provisioning.error_report",
        "provisioning.settings",
    }
