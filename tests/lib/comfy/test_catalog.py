"""``/object_info`` reduced to what is asked of it."""

import json

import pytest

from lib.comfy.catalog import nearest, read_catalog

INFO = {
    "LoadImage": {"input": {"required": {"image": [["a.png"], {"image_upload": True}]}}, "output_node": False},
    "LoadVideo": {"input": {"required": {"file": ["COMBO", {"options": ["v.mp4"], "video_upload": True}]}}},
    "KSampler": {"input": {"required": {"sampler_name": [["euler", "heun"]], "seed": ["INT", {"min": 0}]}}},
    "Other": {"input": {"optional": {"sampler_name": [["euler", "heun"]], "numbers": [[1, 2]]}}},
    "SaveImage": {"input": {"required": {"filename_prefix": ["STRING", {}]}}, "output_node": True},
    "Odd": {"input": {"required": {"x": [], "y": "STRING"}, "optional": None}},
    "Odder": None,
    "Oddest": {"input": []},
}
CATALOG = read_catalog(json.dumps(INFO).encode())


def test_classes_outputs_and_prefixes() -> None:
    """What the rewrite asks."""
    assert len(CATALOG) == len(INFO)
    assert CATALOG.known("Odd") and not CATALOG.known("Nope")
    assert CATALOG.is_output("SaveImage") and not CATALOG.is_output("LoadImage") and not CATALOG.is_output("Nope")
    assert CATALOG.has_prefix("SaveImage") and not CATALOG.has_prefix("KSampler") and not CATALOG.has_prefix("Nope")


def test_upload_inputs_of_both_styles() -> None:
    """Old lists and ``COMBO``."""
    assert CATALOG.upload_inputs("LoadImage") == ("image",)
    assert CATALOG.upload_inputs("LoadVideo") == ("file",)
    assert CATALOG.upload_inputs("KSampler") == CATALOG.upload_inputs("Nope") == ()


def test_options_of_both_styles_are_kept_once() -> None:
    """Equal lists are one object: there are hundreds of them."""
    assert CATALOG.options("LoadVideo", "file") == ("v.mp4",)
    assert CATALOG.options("KSampler", "sampler_name") is CATALOG.options("Other", "sampler_name")
    assert CATALOG.options("KSampler", "seed") == CATALOG.options("Nope", "x") == ()


@pytest.mark.parametrize("body", [b"[]", b"null", b"not json"])
def test_another_servers_answer_is_refused(body: bytes) -> None:
    """ValueError, orjson's own included."""
    with pytest.raises(ValueError, match=r".+"):
        read_catalog(body)


@pytest.mark.parametrize(
    ("name", "names", "expected"),
    [
        ("ksampler", ["KSampler", "SaveImage"], ("KSampler",)),
        ("flux-dev.safetensors", ["sd15.safetensors", "flux1-dev.safetensors"], ("flux1-dev.safetensors",)),
        ("Nope", ["AddNoise"], ()),
        ("", ["a"], ()),
        ("x", [], ()),
        ("/", ["/", ".", ".."], ("/",)),
    ],
)
def test_nearest_names(name: str, names: list[str], expected: tuple[str, ...]) -> None:
    """Letter case and a common extension don't count."""
    assert nearest(name, names) == expected
