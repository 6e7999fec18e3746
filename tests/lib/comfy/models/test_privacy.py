"""lib.comfy.models.privacy: what tenants brought by URL is named to nobody else."""

import json
from pathlib import Path

import pytest

from lib.comfy.models.index import Index, Model
from lib.comfy.models.privacy import HIDDEN, STRANGER, Privacy
from lib.errors import InvalidWorkflow
from lib.jobs.model import JobSpec

DIGEST = "0123456789ab" + "0" * 52
OWN = f"style-{DIGEST[:12]}.safetensors"
"""A name that is a content's alone, as models in graphs get."""


def privacy(tmp_path: Path, *owners: str, name: str = OWN, folder: str = "loras") -> Privacy:
    index = Index(tmp_path / "models.json")
    path = tmp_path / folder / name
    index.add(Model(sha256=DIGEST, size_bytes=1, paths=(str(path),), owners=owners[:1]))
    for owner in owners[1:]:
        index.own(DIGEST, owner)
    again = Index(tmp_path / "models.json")
    again.load()
    return Privacy(again)


@pytest.mark.parametrize(
    ("owners", "tenant", "told"),
    [
        (("alice",), "alice", True),
        (("alice",), "bob", False),
        (("alice",), None, False),
        (("alice",), "", True),
        (("alice", "bob"), "bob", True),
        (("alice", ""), "bob", True),
        ((STRANGER,), "bob", False),
        ((STRANGER,), None, False),
        (("",), None, True),
    ],
)
def test_who_is_told_of_a_model(tmp_path: Path, owners: tuple[str, ...], tenant: str | None, told: bool) -> None:
    """Who brought it, whoever brought the same one, and the operator; what the operator brought is everybody's."""
    made = privacy(tmp_path, *owners)
    models = {"loras": [OWN, "own.safetensors"], "vae": []}
    left = [OWN, "own.safetensors"] if told else ["own.safetensors"]
    assert made.listed(models, tenant=tenant) == {"loras": left, "vae": []}
    options = made.options(lambda class_type, name: (OWN, "own.safetensors"), tenant=tenant)
    assert list(options("LoraLoader", "lora_name")) == left


def test_a_name_that_was_chosen_is_hidden_in_its_folder_only(tmp_path: Path) -> None:
    """Elsewhere it is the operator's file; ComfyUI lists old folders as others."""
    made = privacy(tmp_path, "alice", name="x.safetensors", folder="unet")
    models = {"diffusion_models": ["x.safetensors"], "unet": ["x.safetensors"], "loras": ["x.safetensors"]}
    told = made.listed(models, tenant="bob")
    assert told == {"diffusion_models": [], "unet": [], "loras": ["x.safetensors"]}
    assert made.names("bob") == frozenset()


@pytest.mark.parametrize(("owner", "stranger", "told"), [("bob", True, False), ("", True, False), ("", False, True)])
def test_an_error_does_not_name_it(tmp_path: Path, owner: str, stranger: bool, told: bool) -> None:
    """Neither in its sentence nor in ComfyUI's lists."""
    made = privacy(tmp_path, "alice")
    config = {"extra_info": {"input_config": [[OWN, "own.safetensors"], {"tip": OWN}]}}
    error = InvalidWorkflow(f"'x' not in ['{OWN}']", details={"node_errors": {"1": config}})
    made.hide(error, JobSpec(request_id="r", dialect="salad", workflow=b"{}", owner=owner, stranger=stranger))
    text = f"{error.message} {error.details} {error}"
    assert (OWN in text) is told and "own.safetensors" in text and (HIDDEN in error.message) is not told


def test_a_record_of_before_is_the_operators(tmp_path: Path) -> None:
    """It had no owners."""
    told = {"models": [{"sha256": DIGEST, "size_bytes": 1, "paths": [f"/m/{OWN}"]}], "sources": {}, "drafts": {}}
    (tmp_path / "models.json").write_text(json.dumps(told))
    index = Index(tmp_path / "models.json")
    index.load()
    index.own(DIGEST, "alice")
    assert Privacy(index).names("bob") == frozenset()
