"""The documentation's examples do what they say. CONTRIBUTING.md tells how they are marked."""

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from pydantic import BaseModel

from docs import build_reference
from provisioning.manifest import load_manifest
from router.endpoint_settings import EndpointSettings, GroupSettings, TenantSettings, load_endpoints
from router.scaling.provider_settings import CommandProvider, LocalProvider, VastProvider
from router.settings import RouterSettings
from tests.docs.pages import ROOT, Block, anchors, blocks, links, pages
from tests.integration.harness import WorkerProcess
from tests.s3_fixture import S3Server

LANGUAGES = {"bash", "python", "json", "yaml", "text"}
RUN = {"bash": ["bash", "-euo", "pipefail"], "python": [sys.executable]}
SHARED = ("lib", "router", "benchmark", "provisioning", "workers", "examples", "start_server.sh", "Makefile")
EXAMPLE_TIMEOUT_S = 240
OF_THE_ROUTER = ("router/README.md", "docs/scaling.md")
"""Pages whose YAML describes endpoints."""
PARTS = (EndpointSettings, GroupSettings, TenantSettings)
PAGES = {str(path.relative_to(ROOT)): path for path in pages()}
WITH_EXAMPLES = [name for name, path in PAGES.items() if any(block.language in RUN for block in blocks(path))]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder that looks like the checkout, in which examples may leave files."""
    for name in SHARED:
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / ".venv").symlink_to(sys.prefix)
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    return tmp_path


@pytest.fixture
def substitutes(fleet_worker: WorkerProcess, autoscaler_url: str) -> dict[str, str]:
    """What a reader has, and what it is here."""
    return {
        "http://127.0.0.1:18288": fleet_worker.api,
        "comfyui-json/client.py": f"comfyui-json/client.py --url {fleet_worker.api}",
        "https://127.0.0.1:3000": fleet_worker.public,
        "https://run.vast.ai": autoscaler_url,
        "--endpoint my-endpoint": f"--endpoint ep --router {autoscaler_url}",
        '"my-endpoint"': '"ep"',
        "WORKSPACE_DIR=/workspace": f"WORKSPACE_DIR={fleet_worker.workspace}",
    }


@pytest.fixture
def environment(nanio_server: S3Server) -> dict[str, str]:
    """What the examples read from it."""
    return {
        **{name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ},
        "VAST_API_KEY": "endpoint-key",
        "S3_ACCESS_KEY_ID": nanio_server.access_key_id,
        "S3_SECRET_ACCESS_KEY": nanio_server.secret_access_key,
        "S3_BUCKET_NAME": "outputs",
        "S3_ENDPOINT_URL": nanio_server.endpoint_url,
        "S3_REGION": "us-east-1",
    }


@pytest.mark.comfyui
@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples_run(name: str, checkout: Path, substitutes: dict[str, str], environment: dict[str, str]) -> None:
    """What a page shows can be pasted, and gives what the page says."""
    output = ""
    for block in blocks(PAGES[name]):
        if block.answer:
            assert differences(json.loads(block.text), json.loads(output)) == [], block.place
        elif block.language in RUN and block.not_run is None:
            output = run(block, checkout, substitutes, environment)


@pytest.mark.comfyui
def test_listeners_have_the_routes_of_the_reference(fleet_worker: WorkerProcess) -> None:
    """What the reference lists is there: a method that no route has is told which ones there are."""
    bases = (fleet_worker.api, fleet_worker.public, fleet_worker.plain)
    for (_, _, routes), base in zip(build_reference.listeners(), bases, strict=True):
        for method, path, _ in routes:
            reply = requests.delete(base + re.sub(r"{\w+}", "x", path), timeout=60)
            assert (reply.status_code, method in reply.headers.get("Allow", "")) == (405, True), f"{base} {path}"


def run(block: Block, folder: Path, substitutes: dict[str, str], environment: dict[str, str]) -> str:
    """Run one block; give what it printed."""
    text = block.text
    for written, real in substitutes.items():
        text = text.replace(written, real)
    script = folder / f"example-{block.line}"
    script.write_text(text)
    done = subprocess.run(
        [*RUN[block.language], str(script)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=EXAMPLE_TIMEOUT_S,
    )
    output = done.stdout + done.stderr
    assert done.returncode == 0, f"{block.place} ended with {done.returncode}:\n{output}"
    for expected in block.expected:
        assert expected in output, f"{block.place} did not print {expected!r}:\n{output}"
    return done.stdout


def differences(shown: Any, real: Any, place: str = "$") -> list[str]:
    """Where two JSON values differ in keys or types; lists are compared by their first element."""
    match shown, real:
        case dict(), dict():
            missing = [f"{place}.{key} is in one only" for key in shown.keys() ^ real.keys()]
            both = (differences(shown[key], real[key], f"{place}.{key}") for key in shown.keys() & real.keys())
            return [*missing, *itertools.chain.from_iterable(both)]
        case [first, *_], [other, *_]:
            return differences(first, other, f"{place}[0]")
        case _:
            same = type(shown) is type(real)
            return [] if same else [f"{place} is {type(real).__name__}, not {type(shown).__name__}"]


@pytest.mark.parametrize("name", PAGES)
def test_blocks_are_what_they_claim(name: str, tmp_path: Path) -> None:
    """Every block says its language; JSON parses, manifests are valid, and what is not run says why."""
    for block in blocks(PAGES[name]):
        assert block.language in LANGUAGES, f"{block.place}: {block.language or 'no language'}"
        assert block.not_run is None or len(block.not_run) > 10, f"{block.place}: why is it not run?"
        if block.language == "json":
            json.loads(block.text)
        if block.language == "yaml" and name in OF_THE_ROUTER:
            endpoints = tmp_path / "endpoints.yaml"
            endpoints.write_text(block.text.replace("<64 hex>", "0" * 64))
            assert load_endpoints(RouterSettings(endpoints_file=endpoints))
        elif block.language == "yaml":
            manifest = tmp_path / "manifest.yaml"
            manifest.write_text(block.text)
            load_manifest(manifest)


def test_the_routers_page_has_every_field_of_an_endpoint() -> None:
    """Of its groups and tenants, too."""
    (shown,) = [block for block in blocks(PAGES["router/README.md"]) if "tenants:" in block.text]
    (endpoint,) = yaml.safe_load(shown.text)["endpoints"]
    shown_parts = (endpoint, *endpoint["groups"], *endpoint["tenants"])
    told = {model: set(part) for model, part in zip(PARTS, shown_parts, strict=True)}
    assert told == {model: set(model.model_fields) for model in PARTS}


@pytest.mark.parametrize("provider", [LocalProvider, VastProvider, CommandProvider])
def test_the_scaling_page_names_every_field_of_a_provider(provider: type[BaseModel]) -> None:
    """In an example, or in a sentence."""
    text = PAGES["docs/scaling.md"].read_text(encoding="utf-8")
    assert [name for name in provider.model_fields if not re.search(rf"`{name}|^ +{name}:", text, re.MULTILINE)] == []


@pytest.mark.parametrize("name", PAGES)
def test_commands_stand_in_blocks_that_are_run_or_say_why_not(name: str) -> None:
    """No text that is merely indented, which nobody would run."""
    text = re.sub(r"^\s*```.*?^\s*```", "", PAGES[name].read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    assert re.findall(r"\n\n {4}\S.*", text) == []


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name: str) -> None:
    """Links to files and headings of this repository are right."""
    broken = []
    for target in links(PAGES[name]):
        file, _, heading = target.partition("#")
        path = (PAGES[name].parent / file).resolve() if file else PAGES[name]
        if not path.exists() or (heading and heading not in anchors(path)):
            broken.append(target)
    assert broken == []


def test_the_first_page_is_short() -> None:
    """A newcomer reads it to the end: two screens or so."""
    assert len(PAGES["README.md"].read_text(encoding="utf-8").splitlines()) <= 150
