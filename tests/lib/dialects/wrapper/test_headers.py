"""Headers and query parameters of ours."""

import pytest

from lib.dialects.wrapper.headers import Preference, idempotency_key, preference, wait_s
from lib.errors import InvalidRequest


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], None),
        (["wait=5"], None),
        (["return=minimal"], None),
        (["respond-async"], Preference(cap_s=30.0, applied="respond-async")),
        (["respond-async, wait=10"], Preference(cap_s=10.0, applied="respond-async, wait=10")),
        (["Wait=007", "foo; bar=1, Respond-Async;x=y"], Preference(cap_s=7.0, applied="respond-async, wait=7")),
        (['respond-async, wait="3"'], Preference(cap_s=3.0, applied="respond-async, wait=3")),
        (["respond-async, wait=1, wait=2"], Preference(cap_s=1.0, applied="respond-async, wait=1")),
        (["respond-async, wait=soon"], Preference(cap_s=30.0, applied="respond-async")),
        (["respond-async, wait=-1"], Preference(cap_s=30.0, applied="respond-async")),
        ([",;=,"], None),
    ],
)
def test_preferences_are_read_as_the_rfc_says(values: list[str], expected: Preference | None) -> None:
    """The first of a kind counts; what is not understood is ignored, never refused."""
    assert preference(values) == expected


def test_an_idempotency_key_is_short_and_printable() -> None:
    """Up to 255 characters; none at all is fine."""
    assert idempotency_key({}) is None
    for good in ("a", "x" * 255, "order 17/~"):
        assert idempotency_key({"Idempotency-Key": good}) == good
    for bad in ("", "x" * 256, "a\x00", "ü"):
        with pytest.raises(InvalidRequest) as caught:
            idempotency_key({"Idempotency-Key": bad})
        assert caught.value.details["field"] == "Idempotency-Key"


def test_a_wait_is_bounded() -> None:
    """By what the operator allows; without one there is no waiting."""
    assert wait_s({}, most_s=9) == 0
    assert wait_s({"wait": "2.5"}, most_s=9) == 2.5
    assert wait_s({"wait": "1e9"}, most_s=9) == 9
    for bad in ("", "x", "-1", "nan", "inf"):
        with pytest.raises(InvalidRequest):
            wait_s({"wait": bad}, most_s=9)
