"""The manifest's shape: what is refused, and how clearly."""

from pathlib import Path

import pytest
import yaml

from provisioning.errors import ProvisioningError
from provisioning.manifest import DEFAULT_MANIFEST, Condition, load_manifest
from tests.provisioning.servers import FileServer

URL = "https://example.com/m"


def write(tmp_path: Path, content: object) -> Path:
    path = tmp_path / "manifest.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def test_default_manifest_brings_sd15_to_gpu_hosts_only() -> None:
    manifest = load_manifest(DEFAULT_MANIFEST)
    (model,) = manifest.models
    assert model.path == "checkpoints/v1-5-pruned-emaonly-fp16.safetensors"
    assert model.url.startswith("https://huggingface.co/Comfy-Org/stable-diffusion-v1-5-archive/")
    assert set(model.when) == {Condition.GPU, Condition.DEFAULT_BENCHMARK}
    assert [entry.module for entry in manifest.cron] == ["lib.upkeep"]


def test_empty_manifest_is_one(tmp_path: Path) -> None:
    assert load_manifest(write(tmp_path, "")).models == ()


def test_manifest_by_url(server: FileServer) -> None:
    url = server.add("/m.yaml", b"models: [{path: a, url: 'https://example.com/a'}]")
    assert load_manifest(url).models[0].path == "a"


@pytest.mark.parametrize(
    "path",
    ["../a", "a/../../b", "/etc/passwd", "", ".", "..", "a/..", "a\\..\\b", "a\nb", "a\0b"],
)
@pytest.mark.parametrize("kind", ["models", "files"])
def test_no_target_leaves_its_folder(tmp_path: Path, kind: str, path: str) -> None:
    with pytest.raises(ProvisioningError, match=rf"{kind}\.0\.path"):
        load_manifest(write(tmp_path, {kind: [{"path": path, "url": URL}]}))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"nodes": ["x"]}, "nodes: Extra inputs"),
        ({"custom_nodes": ["https://example.com/"]}, r"custom_nodes\.0.*expected the URL of a git repository"),
        ({"custom_nodes": ["--upload-pack=x"]}, r"custom_nodes\.0"),
        ({"custom_nodes": ["https://example.com/o/p@--x"]}, "no branch, tag or commit"),
        ({"custom_nodes": ["a", "https://example.com/o/A"]}, "a is given twice"),
        ({"pip": ["--index-url=x"]}, r"pip\.0\.name"),
        ({"apt": ["-oDebug=1"]}, r"apt\.0\.name"),
        ({"snapshot": ""}, "snapshot"),
        ({"model": []}, "model: Extra inputs"),
        ({"version": 2}, "version"),
        ({"models": [{"path": "a", "url": "ftp://x"}]}, r"models\.0\.url"),
        ({"models": [{"path": "a", "url": URL, "sha256": "abc"}]}, r"models\.0\.sha256"),
        ({"models": [{"path": "a", "url": URL, "size_bytes": -1}]}, r"models\.0\.size_bytes"),
        ({"models": [{"path": "a", "url": URL}, {"path": "a", "url": URL}]}, "given twice"),
        ({"files": [{"path": "a"}]}, "either url or content"),
        ({"files": [{"path": "a", "url": URL, "content": ""}]}, "either url or content"),
        ({"files": [{"path": "a", "content": "", "under": "etc"}]}, r"files\.0\.under"),
        ({"cron": [{"name": "a", "schedule": "often"}]}, r"cron\.0\.schedule"),
        ({"cron": [{"name": "a", "schedule": "* * * * *", "module": "os; rm"}]}, r"cron\.0\.module"),
        ({"scripts": [{"name": "../a", "run": "true"}]}, r"scripts\.0\.name"),
        ({"models": [{"path": "a", "url": URL, "when": ["moon"]}]}, r"models\.0\.when\.0"),
        ("models: [", "not YAML"),
        ("- 1", "dictionary"),
    ],
)
def test_wrong_manifests_say_what_is_wrong(tmp_path: Path, content: object, said: str) -> None:
    with pytest.raises(ProvisioningError, match=said):
        load_manifest(write(tmp_path, content))


def test_missing_manifest_is_named(tmp_path: Path, server: FileServer) -> None:
    with pytest.raises(ProvisioningError, match=r"absent\.yaml can't be read"):
        load_manifest(tmp_path / "absent.yaml")
    with pytest.raises(ProvisioningError, match="404"):
        load_manifest(server.url + "/absent.yaml")
