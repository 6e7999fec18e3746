"""worker-comfyui's input: its texts, in its order, and what we refuse beside them."""

from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.dialects.runpod.inputs import BAD_IMAGES, NO_WORKFLOW, NOT_AN_OBJECT, NOT_JSON, read_input
from lib.dialects.runpod.schema import NO_INPUT
from lib.errors import InvalidRequest, ServiceError, UnsafeInput

from .conftest import PICTURE

PIXEL = {"name": "a.png", "image": "aGVsbG8="}


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (None, "Please provide input"),
        ("{nonsense", "Invalid JSON format in input"),
        ("", "Invalid JSON format in input"),
        ({}, "Missing 'workflow' parameter"),
        ({"workflow": None}, "Missing 'workflow' parameter"),
        ({"workflow": None, "images": 5}, "Missing 'workflow' parameter"),
        ({"workflow": PICTURE, "images": "x"}, "'images' must be a list of objects with 'name' and 'image' keys"),
        ({"workflow": PICTURE, "images": {}}, "'images' must be a list of objects with 'name' and 'image' keys"),
        ({"workflow": PICTURE, "images": [{"name": "a"}]}, BAD_IMAGES),
        ({"workflow": PICTURE, "images": [{"image": "a"}]}, BAD_IMAGES),
        ({"workflow": "a string", "images": [PIXEL, 1]}, BAD_IMAGES),
        ({"workflow": PICTURE, "images": ["name image"]}, BAD_IMAGES),
    ],
)
def test_the_texts_that_clients_compare(raw: Any, text: str) -> None:
    """Letter by letter, the first mistake in worker-comfyui's order."""
    with pytest.raises(InvalidRequest) as caught:
        read_input(raw)
    assert caught.value.message == text


@pytest.mark.parametrize("raw", [["list"], 5, True, "[1]", "null", '"text"', "5"])
def test_an_input_that_is_no_object(raw: Any) -> None:
    """Upstream dies of it; here it is told what an input is."""
    with pytest.raises(InvalidRequest, match="'input' must be an object"):
        read_input(raw)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ('{"workflow": {"a": NaN}}', NOT_JSON),
        ("[" * 100 + "]" * 100, "nested"),
        ('{"workflow": {"1": 99999999999999999999999}}', "out of range"),
    ],
)
def test_a_string_is_read_by_the_rules_of_bodies(text: str, part: str) -> None:
    """What would kill ComfyUI's executor does not come in inside a string."""
    with pytest.raises(InvalidRequest) as caught:
        read_input(text)
    assert part in caught.value.message


@pytest.mark.parametrize(
    ("image", "part"),
    [
        ({"name": "a.png", "image": 5}, "images[0].image must be a string"),
        ({"name": "a.png", "image": " "}, "images[0].image must be a string"),
        ({"name": 5, "image": "x"}, "images[0].name must be a file name"),
        ({"name": "", "image": "x"}, "images[0].name must be a file name"),
        ({"name": "x" * 300, "image": "x"}, "images[0].name must be a file name"),
    ],
)
def test_what_upstream_lets_through_is_refused_with_its_place(image: Any, part: str) -> None:
    """The text names the item."""
    with pytest.raises(InvalidRequest) as caught:
        read_input({"workflow": PICTURE, "images": [image]})
    assert caught.value.message.startswith(part)


@pytest.mark.parametrize(
    "name",
    ["../a.png", "a/../b.png", "/etc/passwd", "C:\\a.png", "c:a.png", "..\\a.png", "a//b.png", "a\x00.png", "a/"],
)
def test_names_stay_in_the_input_folder(name: str) -> None:
    """Relative, without a way up, on whatever system they were written."""
    with pytest.raises(UnsafeInput):
        read_input({"workflow": PICTURE, "images": [{"name": name, "image": "x"}]})


def test_names_are_unique() -> None:
    """However their folders are separated."""
    images = [{"name": "sub/a.png", "image": "x"}, {"name": "sub\\a.png", "image": "y"}]
    with pytest.raises(InvalidRequest, match="comes twice"):
        read_input({"workflow": PICTURE, "images": images})


def test_what_an_input_holds() -> None:
    """Files with their places, as the request has them; a JSON string is the same."""
    raw = {
        "workflow": PICTURE,
        "images": [PIXEL, {"name": "b\\c.png", "image": "https://example.com/c.png"}],
        "more": 1,
    }
    for given_ in (read_input(raw), read_input(orjson.dumps(raw).decode())):
        assert given_.workflow == PICTURE
        assert [(file.name, file.field) for file in given_.images] == [
            ("a.png", "images[0].image"),
            ("b/c.png", "images[1].image"),
        ]
        assert given_.images[1].value == "https://example.com/c.png"


@pytest.mark.parametrize("images", [None, []])
def test_no_images_are_fine(images: Any) -> None:
    """As upstream."""
    assert read_input({"workflow": PICTURE, "images": images}).images == ()


def test_prompt_is_the_name_before_2_0() -> None:
    """For old clients only: a ``workflow`` wins, and a prompt that is a text is none."""
    assert read_input({"prompt": PICTURE}).workflow == PICTURE
    assert read_input({"prompt": {"x": 1}, "workflow": PICTURE}).workflow == PICTURE
    with pytest.raises(InvalidRequest, match=NO_WORKFLOW):
        read_input({"prompt": "a cat"})


def test_a_key_for_partner_nodes_has_two_names() -> None:
    """As the code names it, and as the documentation does; it is in no text."""
    for name in ("comfy_org_api_key", "api_key_comfy_org"):
        given_ = read_input({"workflow": PICTURE, name: "sk-1"})
        assert given_.api_key == "sk-1"
        assert "sk-1" not in repr(given_)
        assert read_input({"workflow": PICTURE, name: ""}).api_key is None
        with pytest.raises(InvalidRequest, match="must be a string"):
            read_input({"workflow": PICTURE, name: {"key": "sk-1"}})


@settings(max_examples=200, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["workflow", "images", "name", "image", "prompt", "comfy_org_api_key"]),
                inner,
                max_size=4,
            )
        ),
        max_leaves=12,
    )
)
def test_any_input_is_read_or_refused(raw: Any) -> None:
    """Nothing in it makes a defect of ours."""
    try:
        found = read_input(raw)
    except ServiceError as error:
        assert error.message
    else:
        assert found.workflow is not None


def test_texts_are_the_documented_ones() -> None:
    """One of them is ours: where upstream has none."""
    assert {NO_INPUT, NOT_JSON, NO_WORKFLOW, BAD_IMAGES} == {
        "Please provide input",
        "Invalid JSON format in input",
        "Missing 'workflow' parameter",
        "'images' must be a list of objects with 'name' and 'image' keys",
    }
    assert NOT_AN_OBJECT.startswith("'input' must be an object")
