"""Files that only a Docker engine or RunPod's Hub can run: read here, and held against what they name."""

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from lib.settings import Settings, load_settings
from lib.workflow.graph import check_graph
from provisioning.settings import REPOSITORY, HostSettings, InstallSettings

IMAGE = REPOSITORY / "provisioning" / "runpod"
DOCKERFILE = (IMAGE / "Dockerfile").read_text()
INSTRUCTIONS = {"ARG", "FROM", "SHELL", "ENV", "WORKDIR", "COPY", "RUN", "EXPOSE", "CMD"}
HUB_FIELDS = {"name", "type", "description", "default", "advanced", "options", "min", "max", "trueValue", "falseValue"}


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions, continued lines joined, comments dropped."""
    text = re.sub(r"\\\n\s*", " ", re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.M))
    parted = (line.partition(" ") for line in text.splitlines() if line.strip())
    return [(name, rest.strip()) for name, _, rest in parted]


def variables() -> set[str]:
    """Every variable that this project reads."""
    known: set[str] = {"HF_TOKEN", "MODEL_TYPE", "PUBLIC_KEY"}
    branches = [field.annotation for field in Settings.model_fields.values()]
    for branch in (*branches, HostSettings, InstallSettings):
        for field in branch.model_fields.values():  # type: ignore[union-attr]
            alias = field.validation_alias
            known |= {str(choice) for choice in getattr(alias, "choices", [alias])}
    return known


def test_dockerfile_names_only_what_there_is() -> None:
    """Known instructions, sources of COPY that exist, steps that build.sh has, an entry that can be executed."""
    steps = instructions()
    assert {name for name, _ in steps} <= INSTRUCTIONS
    copied = [part for name, rest in steps if name == "COPY" for part in rest.split()[:-1]]
    assert [part for part in copied if not (REPOSITORY / part).exists()] == []
    called = re.findall(r"build\.sh (\w+)", " ".join(rest for name, rest in steps if name == "RUN"))
    assert called == ["tools", "comfyui", "models"]
    assert [step for step in called if f"\n    {step})" not in (IMAGE / "build.sh").read_text()] == []
    entry = json.loads(dict(steps)["CMD"])[0]
    assert os.access(REPOSITORY / entry.removeprefix(f"{dict(steps)['WORKDIR']}/"), os.X_OK)


def test_build_arguments_of_worker_comfyui() -> None:
    declared = {rest.partition("=")[0] for name, rest in instructions() if name == "ARG"}
    assert {"BASE_IMAGE", "COMFYUI_VERSION", "CUDA_VERSION_FOR_COMFY", "PYTORCH_INDEX_URL", "MODEL_TYPE"} <= declared
    kinds = {path.parent.name for path in (REPOSITORY / "examples").glob("*/manifest.yaml")}
    assert {"base", "sdxl", "sd3", "flux1-schnell", "flux1-dev"} <= kinds


def test_versions_are_bounded() -> None:
    """A release of ComfyUI, a version of the base, packages from one on; an SDK that shares jobs out (from 1.10.1)."""
    defaults = dict(rest.split("=", 1) for name, rest in instructions() if name == "ARG" and "=" in rest)
    assert re.fullmatch(r"v\d+\.\d+\.\d+", defaults["COMFYUI_VERSION"])
    assert re.fullmatch(r"[\w/.-]+:\d\S+", defaults["BASE_IMAGE"])
    wanted = [(REPOSITORY / name).read_text() for name in ("requirements.txt", "requirements-runpod.txt")]
    packages = [line for text in wanted for line in text.splitlines() if re.match(r"[A-Za-z]", line)]
    assert [line for line in packages if ">=" not in line] == []
    assert any(line.startswith("runpod>=1.10.1,<2;") for line in packages)


def test_no_secret_stays_in_the_image() -> None:
    """A token as ARG or ENV would be in the image's history; host keys of sshd would be everybody's."""
    lasting = " ".join(rest for name, rest in instructions() if name in ("ARG", "ENV"))
    assert not re.search("TOKEN|SECRET|KEY", lasting)
    assert "/etc/ssh/ssh_host_*" in (IMAGE / "build.sh").read_text()


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ({"COMFYUI_VERSION": "latest"}, "HEAD|"),
        ({"COMFYUI_VERSION": "0.3.75"}, "v0.3.75|"),
        (
            {"COMFYUI_VERSION": "v0.3.75", "CUDA_VERSION_FOR_COMFY": "12.6"},
            "v0.3.75|https://download.pytorch.org/whl/cu126",
        ),
        ({"PYTORCH_INDEX_URL": "https://x/y", "CUDA_VERSION_FOR_COMFY": "12.6"}, "|https://x/y"),
        ({}, "|"),
    ],
)
def test_arguments_become_our_variables(given: dict[str, str], meant: str) -> None:
    script = f'set -eu; source {IMAGE}/versions.sh; echo "${{COMFYUI_REF:-}}|${{TORCH_INDEX_URL:-}}"'
    done = subprocess.run(["bash", "-c", script], env=given, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == meant


@pytest.mark.parametrize("script", ["build.sh", "start.sh", "comfy-node-install", "comfy-manager-set-mode"])
def test_scripts_are_executable_bash(script: str) -> None:
    assert os.access(IMAGE / script, os.X_OK)
    subprocess.run(["bash", "-n", IMAGE / script], check=True)


def test_compose_is_one_service_on_loopback() -> None:
    (service,) = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text())["services"].values()
    assert {port.rsplit(":", 1)[0] for port in service["ports"]} == {"127.0.0.1:8000", "127.0.0.1:8188"}
    assert (REPOSITORY / service["build"]["dockerfile"]).is_file()
    assert set(service["environment"]) <= variables()
    workspace = re.search(r"WORKSPACE_DIR=(\S+)", DOCKERFILE)
    assert workspace is not None
    inside = [volume.split(":")[1] for volume in service["volumes"]]
    assert [path for path in inside if not path.startswith((workspace[1], "/runpod-volume"))] == []
    (device,) = service["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]


def test_compose_settings_are_ones_that_the_worker_starts_with() -> None:
    (service,) = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text())["services"].values()
    environment = {name: re.sub(r"\$\{\w+:-(.*)\}", r"\1", value) for name, value in service["environment"].items()}
    settings = load_settings(environment)
    assert settings.runpod.serve_locally
    assert (settings.engine.port, settings.server.api_host) == (8188, "0.0.0.0")


def hub() -> dict[str, Any]:
    return dict(json.loads((REPOSITORY / ".runpod" / "hub.json").read_text()))


def test_hub_file_has_the_hubs_form() -> None:
    """Fields of RunPod's publishing guide; every variable is one that we read, its default one that we accept."""
    content = hub()
    assert (content["type"], content["category"], content["config"]["runsOn"]) == ("serverless", "image", "GPU")
    assert isinstance(content["config"]["containerDiskInGb"], int)
    defaults = {}
    for entry in content["config"]["env"]:
        field = entry["input"]
        assert set(field) <= HUB_FIELDS
        assert field["type"] in ("string", "number", "boolean")
        defaults[entry["key"]] = str(field["default"]).lower() if field["type"] == "boolean" else str(field["default"])
    assert set(defaults) <= variables()
    upstream = {"COMFY_ORG_API_KEY", "BUCKET_ENDPOINT_URL", "BUCKET_ACCESS_KEY_ID", "BUCKET_SECRET_ACCESS_KEY"}
    upstream |= {"SERVE_API_LOCALLY", "COMFY_LOG_LEVEL", "REFRESH_WORKER"}
    upstream |= {f"WEBSOCKET_{name}" for name in ("RECONNECT_ATTEMPTS", "RECONNECT_DELAY_S", "TRACE")}
    assert upstream <= set(defaults)
    assert load_settings(defaults) == load_settings({})


def test_hub_tests_are_requests_that_we_take() -> None:
    content = json.loads((REPOSITORY / ".runpod" / "tests.json").read_text())
    for test in content["tests"]:
        assert set(test) == {"name", "input", "timeout"}
        check_graph(test["input"]["workflow"])
    assert content["config"]["allowedCudaVersions"] == hub()["config"]["allowedCudaVersions"]


def test_hub_finds_its_files() -> None:
    folder = REPOSITORY / ".runpod"
    assert (folder / "Dockerfile").resolve() == IMAGE / "Dockerfile"
    assert "start.sh" in (folder / "handler.py").read_text()
    assert Path(folder / "handler.py").is_file()
