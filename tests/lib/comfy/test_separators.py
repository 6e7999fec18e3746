"""Paths from another system are written as this ComfyUI lists them; texts are never touched."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.comfy.fields import with_values
from lib.comfy.separators import repaired, told

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
        ("Unknown", "image", "https://a.example/b\\c.png", "https://a.example/b\\c.png"),
        ("Unknown", "file_path", "D:\\in\\a.wav", "D:\\in\\a.wav"),
        ("Unknown", "folder", "line\\n\nb", "line\\n\nb"),
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


FORK = (
    ("ckpt_name", "SDXL\\a.safetensors", "SDXL/a.safetensors"),
    ("style_model_name", "x\\y.foo", "x\\y.foo"),  # not a kind of file that models come in: only a list may say so
    ("vae_name", "v\\w.sft", "v/w.sft"),
    ("clip_name1", "c\\d.sft", "c/d.sft"),
    ("lora", "l\\a.safetensors", "l/a.safetensors"),
    ("unet_name", "f\\a.safetensors", "f/a.safetensors"),
    ("video", "a\\b.MP4", "a/b.MP4"),
    ("filename_prefix", "out\\%date%", "out/%date%"),
    ("unet_name", "flux\\a.gguf", "flux/a.gguf"),
    ("model", "a\\b.sft", "a/b.sft"),
    ("audio", "a\\b.wav", "a/b.wav"),
    ("subfolder", "a\\b", "a/b"),
    ("file", "a\\b.txt", "a/b.txt"),
    ("lora_1", {"lora": "SDXL\\x.safetensors"}, {"lora": "SDXL/x.safetensors"}),
    ("loras", [{"lora": "a\\b.pt", "text": "a \\(b\\)"}], [{"lora": "a/b.pt", "text": "a \\(b\\)"}]),
    ("image_paths", ["a\\b.png", "c.png"], ["a/b.png", "c.png"]),
    ("image", ["a\\b.png", "c.png"], ["a/b.png", "c.png"]),
    ("image", ["a\\b.png", 0], ["a\\b.png", 0]),  # a link
    ("text", "a \\(cat\\) sits", "a \\(cat\\) sits"),
    ("positive_image_desc", "a \\(cat\\)", "a \\(cat\\)"),
    ("text", "see C:\\a.png", "see C:\\a.png"),
    ("pathology", "x\\y.png", "x\\y.png"),
    ("image", "\\\\srv\\x.png", "\\\\srv\\x.png"),
)
"""The table of what the fork of worker-comfyui does, row by row, with what is done here."""


@pytest.mark.parametrize(("name", "value", "wanted"), FORK)
def test_graphs_that_were_normalised_elsewhere(name: str, value: Any, wanted: Any) -> None:
    """Paths that the fork misses are found, and texts that it damages are let be."""
    assert repair("SomeNode", **{name: value}) == {name: wanted}


def test_a_list_knows_its_own_files_whatever_they_end_in() -> None:
    """As the fork converts by name: here the choices say it."""
    listed = {("StyleModelLoader", "style_model_name"): ("x/y.foo",), ("Many", "files"): ("a/b.foo", "c.foo")}
    graph: dict[str, Any] = {
        "1": {"class_type": "StyleModelLoader", "inputs": {"style_model_name": "x\\y.foo"}},
        "2": {"class_type": "Many", "inputs": {"files": ["a\\b.foo", "c.foo"]}},
    }
    found = dict(repaired(graph, lambda class_type, name: listed.get((class_type, name), ())))
    assert found == {("1", "inputs", "style_model_name"): "x/y.foo", ("2", "inputs", "files", 0): "a/b.foo"}


def test_what_was_changed_is_told_once_and_briefly() -> None:
    """Places, not values; so many at most, however long a caller's names are."""
    assert told({}) == ()
    (warning,) = told({("4", "inputs", "ckpt_name"): "a/b", ("5", "inputs", "lora_1", "lora"): "c/d"})
    assert warning == (
        'paths written with "\\" were read as written with "/": node 4 input ckpt_name, node 5 input lora_1.lora'
    )
    (warning,) = told({("4", "inputs", "lora_name"): "SDXL\\b"})
    assert warning == 'paths written with "/" were read as written with "\\": node 4 input lora_name'
    (warning,) = told({(str(node), "inputs", "x" * 1000): "a/b" for node in range(1000)} | {("z", "inputs", "y"): "\\"})
    assert "and 990 more; paths written with" in warning and len(warning) < 1200


@given(st.text(alphabet="ab\\/.() \n", max_size=30))
def test_no_prompt_is_ever_changed(text: str) -> None:
    """The damage that a rule by name or extension alone does."""
    for name in ("text", "prompt", "positive", "text_g", "wildcard_text", "string"):
        assert repair("CLIPTextEncode", **{name: text}) == {name: text}
        assert repair("Styles", rows=[{name: text}]) == {"rows": [{name: text}]}


def test_malformed_nodes_are_passed_over() -> None:
    """The engine refuses them with a better message."""
    graph: dict[str, Any] = {"1": None, "2": {"class_type": 3, "inputs": {}}, "3": {"class_type": "X", "inputs": []}}
    assert list(repaired(graph, options)) == []
