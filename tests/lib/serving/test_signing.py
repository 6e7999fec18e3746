"""Tokens and links: good for one thing, by one key, for a time."""

from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.serving.signing import Signer, same

SIGNER = Signer(b"s" * 32)
NOW = datetime(2026, 1, 1, tzinfo=UTC)
TEXTS = st.text(max_size=30)
NAMES = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=30)


def parts(url: str) -> tuple[str, str, str, str]:
    """Job id, name, expiry and signature of a link."""
    split = urlsplit(url)
    _, outputs, job_id, name = split.path.split("/")
    assert outputs == "outputs"
    query = parse_qs(split.query)
    return unquote(job_id), unquote(name), query["expires"][0], query["signature"][0]


@given(TEXTS, TEXTS)
def test_a_token_is_good_for_its_job_only(job_id: str, other: str) -> None:
    """Another job's, or another key's, is not taken."""
    token = SIGNER.job_token(job_id)
    assert SIGNER.job_token_valid(job_id, token)
    assert SIGNER.job_token_valid(other, token) == (other == job_id)
    assert not Signer(b"t" * 32).job_token_valid(job_id, token)


@given(NAMES, NAMES, st.integers(1, 10**6))
def test_a_link_opens_its_file_until_it_ends(job_id: str, name: str, life_s: int) -> None:
    """Whatever characters are in the name."""
    end = NOW + timedelta(seconds=life_s)
    url = SIGNER.output_url("https://h:1/", job_id, name, expires_at=end)
    assert url.startswith("https://h:1/outputs/")
    found_job, found_name, expires, signature = parts(url)
    assert (found_job, found_name) == (job_id, name)
    assert SIGNER.output_valid(job_id, name, expires, signature, end - timedelta(seconds=1))
    assert not SIGNER.output_valid(job_id, name, expires, signature, end)


@given(TEXTS, TEXTS, TEXTS, TEXTS, st.integers(0, 10**10), st.integers(0, 10**10))
def test_nothing_of_a_link_can_be_changed(job: str, name: str, job_2: str, name_2: str, end: int, end_2: int) -> None:
    """Job, name and expiry are signed as three things, not as one text."""
    signature = SIGNER._sign("output", job, str(end), name)
    same = (job, name, end) == (job_2, name_2, end_2)
    moment = datetime.fromtimestamp(0, UTC)
    assert SIGNER.output_valid(job_2, name_2, str(end_2), signature, moment) == (same and end_2 > 0)


def test_a_token_is_no_signature() -> None:
    """Each kind of text is signed under its own name."""
    token = SIGNER.job_token("a")
    assert not SIGNER.output_valid("a", "", "9999999999", token, NOW)


@pytest.mark.parametrize("expires", ["", "x", "-1", "1e12", "٣", "9" * 40, " 99999999999"])
def test_an_expiry_that_is_no_number_opens_nothing(expires: str) -> None:
    """Even if it were signed."""
    assert not SIGNER.output_valid("a", "b", expires, SIGNER._sign("output", "a", expires, "b"), NOW)


def test_a_short_key_is_refused() -> None:
    """A key that can be guessed signs nothing."""
    with pytest.raises(ValueError, match="31 bytes"):
        Signer(b"k" * 31)


def test_secrets_are_compared_with_whatever_a_header_holds() -> None:
    """Bytes that are not UTF-8 come as lone surrogates: a wrong secret like any other."""
    assert same("pass", "pass") and not same("pass", "") and not same("pass", "p\udcffss")
