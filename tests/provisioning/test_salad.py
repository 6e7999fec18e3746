"""Salad's manifest: what it becomes, and how clearly its mistakes are named."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from provisioning.errors import ProvisioningError
from provisioning.host import chosen_manifest
from provisioning.manifest import DEFAULT_MANIFEST, Manifest, load_manifest, parse_manifest
from provisioning.settings import HostSettings, read_host_settings

URL = "https://example.com/m.safetensors?download=true"
WHOLE: dict[str, Any] = {
    "apt": ["ffmpeg", "libgl1"],
    "pip": ["numpy<3"],
    "custom_nodes": ["comfyui_essentials", "https://github.com/u/r/tree/main"],
    "models": {
        "before_start": [{"url": URL, "local_path": "models/checkpoints/a.safetensors"}],
        "after_start": [{"url": "s3://bucket/b.safetensors", "local_path": "./models/loras/x/b.safetensors"}],
    },
}


def written(tmp_path: Path, values: object, *, name: str) -> Path:
    path = tmp_path / name
    path.write_text(json.dumps(values, indent="\t") if name.endswith(".json") else yaml.safe_dump(values))
    return path


@pytest.mark.parametrize("name", ["manifest.json", "manifest.yml", "manifest.yaml"])
def test_every_key_becomes_an_entry_of_ours(tmp_path: Path, name: str) -> None:
    """The same from JSON and YAML; models land where ComfyUI reads them."""
    manifest = load_manifest(written(tmp_path, WHOLE, name=name))
    assert [package.name for package in manifest.apt] == ["ffmpeg", "libgl1"]
    assert [package.name for package in manifest.pip] == ["numpy<3"]
    assert [(node.pack.name, node.pack.ref) for node in manifest.custom_nodes] == [
        ("comfyui_essentials", None), ("r", "main"),
    ]  # fmt: skip
    assert [(model.path, model.url, model.after_start) for model in manifest.models] == [
        ("checkpoints/a.safetensors", URL, False),
        ("loras/x/b.safetensors", "s3://bucket/b.safetensors", True),
    ]


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"models": None},
        {"models": {}},
        {"models": {"before_start": None}},
        {"apt": None, "pip": []},
        {"pip": ["x"]},
    ],
)
def test_no_key_has_to_be_there(values: dict[str, object]) -> None:
    """Upstream's page says so, and its program refuses; a key whose lines are all commented out has no value."""
    assert parse_manifest(json.dumps(values), name="m.json").models == ()


@pytest.mark.parametrize(
    ("local_path", "path", "under"),
    [
        ("custom_nodes/x/model.pth", "custom_nodes/x/model.pth", "comfyui"),
        ("/data/models/a", "data/models/a", "root"),
        ("/opt/ComfyUI/models/vae/a", "opt/ComfyUI/models/vae/a", "root"),
    ],
)
def test_places_beside_the_models_are_files(local_path: str, path: str, under: str) -> None:
    """Relative ones are ComfyUI's, absolute ones stay; its own list of files, which is ours, goes with them."""
    values = {
        "models": {"after_start": [{"url": URL, "local_path": local_path}]},
        "files": [{"path": "a", "content": ""}],
    }
    manifest = parse_manifest(json.dumps(values), name="m.json")
    (own, file) = manifest.files
    assert own.path == "a"
    assert (file.path, file.under, file.after_start) == (path, under, True)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"models": {"before_start": [{"local_path": "a"}]}}, r"models\.before_start\.0\.url: Field required"),
        ({"models": {"after_start": [{"url": URL}]}}, r"models\.after_start\.0\.local_path: Field required"),
        ({"models": {"before_start": [{"url": "ftp://x", "local_path": "a"}]}}, r"models\.before_start\.0\.url"),
        ({"models": {"before": []}}, r"models\.before: Extra inputs"),
        ({"models": {"before_start": "x"}}, r"models\.before_start"),
        (
            {"models": {"before_start": [{"url": URL, "local_path": "models/../../a"}]}},
            r"models\.0\.path.*inside its folder",
        ),
        ({"models": {"before_start": [{"url": URL, "local_path": "/../etc/x"}]}}, r"files\.0\.path.*inside its folder"),
        ({"custom_nodes": "x"}, "custom_nodes"),
        ({"custom-nodes": []}, "custom-nodes: Extra inputs"),
        ({"apt": [1]}, r"apt\.0"),
        ([1], "dictionary"),
    ],
)
def test_a_mistake_is_named_with_its_key(values: object, said: str) -> None:
    """And with what was expected; in the words of Salad's form."""
    with pytest.raises(ProvisioningError, match=f"MANIFEST_JSON: .*{said}"):
        parse_manifest(json.dumps(values), name="MANIFEST_JSON")


def test_what_is_not_json_says_where() -> None:
    """YAML in MANIFEST_JSON is not passed over."""
    with pytest.raises(ProvisioningError, match=r"MANIFEST_JSON is not JSON: .*line 1"):
        parse_manifest("{apt: []}", name="MANIFEST_JSON")


def names(manifest: Manifest) -> list[str]:
    return [package.name for package in manifest.apt]


def test_the_text_wins_over_the_path_and_native_names_over_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MANIFEST < MANIFEST_JSON < PROVISIONING_MANIFEST < PYWORKER_MANIFEST < what the command line names."""

    def chosen(**how: Any) -> list[str]:
        return names(chosen_manifest(read_host_settings(), **how)[1])

    def path(name: str) -> str:
        return str(written(tmp_path, {"apt": [name]}, name=f"{name}.yaml"))

    assert chosen_manifest(HostSettings())[0] == str(DEFAULT_MANIFEST)
    monkeypatch.setenv("MANIFEST", path("salads"))
    assert chosen() == ["salads"]
    monkeypatch.setenv("MANIFEST_JSON", '{"apt": ["text"]}')
    assert chosen() == ["text"]
    monkeypatch.setenv("PROVISIONING_MANIFEST", path("images"))
    assert (chosen(), chosen(image_reads_its_own=True)) == (["images"], ["text"])
    monkeypatch.setenv("PYWORKER_MANIFEST", path("ours"))
    assert chosen() == ["ours"]
    assert chosen(given=path("given")) == ["given"]


def test_what_comes_after_the_start_is_apart() -> None:
    """Everything else is done before ComfyUI starts."""
    before, after = parse_manifest(json.dumps(WHOLE), name="m.json").parted()
    assert [model.path for model in before.models] == ["checkpoints/a.safetensors"]
    assert [model.path for model in after.models] == ["loras/x/b.safetensors"]
    assert (len(before.apt), len(before.custom_nodes), after.apt, after.custom_nodes) == (2, 2, (), ())
