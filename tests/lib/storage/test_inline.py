"""Files inside a request: decoded whatever their alphabet, padding and line breaks, and never wrongly."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.storage import inline
from lib.storage.inline import NotInline, blocks, declared_type, holds_media
from tests.fakes.http_hosts import png


@given(st.binary(max_size=200), st.integers(0, 200), st.booleans(), st.booleans())
def test_what_was_encoded_comes_back(data: bytes, at: int, bare: bool, uri: bool) -> None:
    """Padded or not, either alphabet, line breaks anywhere, as it stands or in a data URI."""
    text = base64.urlsafe_b64encode(data).decode() if bare else base64.b64encode(data).decode()
    text = text.rstrip("=") if bare else text
    text = f"{text[:at]}\r\n {text[at:]}\n"
    assert b"".join(blocks(f"data:image/png;base64,{text}" if uri else text)) == data


def test_long_files_are_decoded_in_pieces() -> None:
    """No more than a slice of it is in memory, and the seams don't show."""
    data = bytes(range(256)) * 12_000
    text = base64.b64encode(data).decode()
    broken = "\n".join(text[at : at + 76] for at in range(0, len(text), 76))
    pieces = list(blocks(broken))
    assert b"".join(pieces) == data
    assert len(pieces) > 3 and max(map(len, pieces)) <= inline.SLICE_CHARS


@pytest.mark.parametrize(
    "value", ["YWJj=YWJj", "YWJjZ", "@@@@", "YW=J", "YWJj====YWJj", "ééééé", "data:image/png;base64"]
)
def test_what_is_no_base64_is_refused(value: str) -> None:
    """Nothing is skipped over, as lenient decoders do."""
    with pytest.raises(NotInline):
        list(blocks(value))


def test_a_data_uri_may_be_percent_encoded() -> None:
    """Without ``;base64`` it is a text."""
    assert b"".join(blocks("data:image/svg+xml,%3Csvg%2F%3E")) == b"<svg/>"
    assert declared_type("data:image/svg+xml;charset=utf-8,x") == "image/svg+xml"
    assert declared_type("iVBOR") == ""


def test_a_picture_is_told_from_a_name() -> None:
    """Only the beginning is looked at."""
    assert holds_media(base64.b64encode(png() + bytes(100_000)).decode())
    assert not holds_media("abcdefghijklmnopqrstuvwxyz012345")
    assert not holds_media("not base64 at all")
