"""Paths from another system are written as this ComfyUI lists them; texts are never touched."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.comfy.fields import with_values
from lib.comfy.separators import repaired

OPTIONS = {
    ("CheckpointLoaderSimple", "ckpt_name"): ("SDXL/model.safetensors", "other.safetensors"),
    ("LoraLoader", "lora_name"): ("SDXL\\style.safetensors", "flat.safetensors"),
    ("Chooser", "mode"): ("a\\b", "a/b"),
}


def options(class_type: str, name: str) -> tuple[str, ...]:
    return OPTIONS.get((class_type, name), ())


def repair(class_type: str, **inputs: Any) -> dict[str, Any]:
    graph = {"1": {"class_type": class_type, "inputs": inputs}}
    changed = with_values(graph, dict(repaired(graph, options)))
    return dict(changed["1"]["inputs"])


@pytest.mark.parametrize(
    ("class_type", "name", "value", "wanted"),
    [
        ("CheckpointLoaderSimple", "ckpt_name", "SDXL\\model.safetensors", "SDXL/model.safetensors"),
        ("CheckpointLoaderSimple", "ckpt_name", "SDXL\\\\model.safetensors", "SDXL/model.safetensors"),
        ("CheckpointLoaderSimple", "ckpt_name", "new\\later.safetensors", "new/later.safetensors"),
        ("LoraLoader", "lora_name", "SDXL/style.safetensors", "SDXL\\style.safetensors"),
        ("LoraLoader", "lora_name", "SDXL\\style.safetensors", "SDXL\\style.safetensors"),
        ("LoraLoader", "lora_name", "new\\later.safetensors", "new\\later.safetensors"),
        ("Chooser", "mode", "a\\b", "a\\b"),
        ("UnetLoaderGGUF", "unet_name", "flux\\a.gguf", "flux/a.gguf"),
        ("Unknown", "model", "a\\b.sft", "a/b.sft"),
        ("Unknown", "clip_name1", "c\\d.sft", "c/d.sft"),
        ("Unknown", "file_path", "in\\a.wav", "in/a.wav"),
        ("Unknown", "subfolder", "a\\b", "a/b"),
        ("CLIPTextEncode", "text", "a \\(cat\\) sits", "a \\(cat\\) sits"),
        ("CLIPTextEncode", "text", "see C:\\a.png", "see C:\\a.png"),
        ("Unknown", "positive_image_desc", "a \\(cat\\)", "a \\(cat\\)"),
        ("Unknown", "pathology", "x\\y.png", "x\\y.png"),
        ("Unknown", "model", "line\\n\nb.safetensors", "line\\n\nb.safetensors"),
        ("Unknown", "prompt", "a\\b.safetensors", "a\\b.safetensors"),
    ],
)
def test_paths_are_repaired_and_texts_are_not(class_type: str, name: str, value: str, wanted: str) -> None:
    """The list decides; without one, the field's name and the file's extension together."""
    assert repair(class_type, **{name: value}) == {name: wanted}


def test_rows_of_node_packs_are_looked_into_and_links_are_not() -> None:
    """A lora in an object is a path; a link is none."""
    row = {"on": True, "lora": "SDXL\\x.safetensors", "strength": 1, "note": "a \\(b\\)"}
    changed = repair("Power Lora Loader", lora_1=row, model=["4", 0])
    assert changed == {"lora_1": row | {"lora": "SDXL/x.safetensors"}, "model": ["4", 0]}


@given(st.text(alphabet="ab\\/.() \n", max_size=30))
def test_no_prompt_is_ever_changed(text: str) -> None:
    """The damage that a rule by name or extension alone does."""
    for name in ("text", "prompt", "positive", "text_g", "wildcard_text", "string"):
        assert repair("CLIPTextEncode", **{name: text}) == {name: text}


def test_malformed_nodes_are_passed_over() -> None:
    """The engine refuses them with a better message."""
    graph: dict[str, Any] = {"1": None, "2": {"class_type": 3, "inputs": {}}, "3": {"class_type": "X", "inputs": []}}
    assert list(repaired(graph, options)) == []
