"""Foreign names never lead out of our folders."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lib.errors import UnsafeInput
from lib.storage.paths import check_name, safe_join

ESCAPES = ["../x", "a/../../x", "/etc/passwd", "..", "a\\..\\..\\x", "C:\\x", "C:x", "\\\\host\\share", "a\0b", "\\etc"]


@pytest.mark.parametrize("part", ESCAPES)
def test_escapes_are_refused(tmp_path: Path, part: str) -> None:
    """No spelling of an absolute or upward path is joined."""
    with pytest.raises(UnsafeInput) as caught:
        safe_join(tmp_path, part, field="request_id")
    assert caught.value.details["field"] == "request_id"


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\\b", "a\0", "a\nb", "x" * 256, "é" * 128])
def test_bad_names_are_refused(name: str) -> None:
    """A name is one printable component of at most 255 bytes."""
    with pytest.raises(UnsafeInput):
        check_name(name)


def test_good_names_pass(tmp_path: Path) -> None:
    """Ordinary names, also with spaces, dots and letters of any script, are left alone."""
    assert check_name("Bild ä 01..final.png") == "Bild ä 01..final.png"
    assert safe_join(tmp_path, "sub/folder", "", "a b.png") == tmp_path / "sub" / "folder" / "a b.png"


def test_links_out_of_the_folder_are_refused(tmp_path: Path) -> None:
    """A link on the way that leads out is refused; the option trusts it (an operator's own link)."""
    root = tmp_path / "root"
    root.mkdir()
    (root / "inner").mkdir()
    (root / "out").symlink_to(tmp_path)
    (root / "in").symlink_to(root / "inner")
    with pytest.raises(UnsafeInput):
        safe_join(root, "out", "secret")
    assert safe_join(root, "out", "secret", allow_symlinks=True) == root / "out" / "secret"
    assert safe_join(root, "in", "x") == root / "in" / "x"


def test_a_root_that_is_a_link_is_fine(tmp_path: Path) -> None:
    """The folder itself may be a link (a mounted volume)."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert safe_join(tmp_path / "link", "a") == tmp_path / "link" / "a"


@given(st.lists(st.text(st.characters(codec="utf-8")), max_size=4))
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_joined_stays_inside(tmp_path: Path, parts: list[str]) -> None:
    """For any text the result is inside the root, or UnsafeInput."""
    try:
        path = safe_join(tmp_path, *parts)
    except UnsafeInput:
        return
    assert os.path.realpath(path).startswith(os.path.realpath(tmp_path))
    assert "\0" not in str(path)
