"""Globs for credentials: our rules and Salad's."""

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.storage.patterns import matches

HF = "https://huggingface.co/"


@given(st.text(alphabet="ab/*?", max_size=8), st.text(alphabet="ab/", max_size=8), st.booleans())
def test_globs_match_what_they_say(pattern: str, url: str, salad: bool) -> None:
    """As the plain expression that they stand for."""
    long = pattern + "*" if pattern.endswith("*") and not salad else pattern
    signs = {"**": "[\\s\\S]*", "*": "[^/]*", "?": "[\\s\\S]" if salad else "[^/]"}
    expression = "".join(signs.get(part, re.escape(part)) for part in re.findall(r"\*\*|[\s\S]", long))
    assert matches(pattern, url, salad=salad) == (re.fullmatch(expression, url) is not None)


@pytest.mark.parametrize(
    ("pattern", "url", "fits"),
    [
        (f"{HF}**", f"{HF}a/b", True),
        (f"{HF}*", f"{HF}a/b", False),
        ("s3://b/*", "s3://b/k", True),
        ("https://*.s3.amazonaws.com/**", "https://a.s3.amazonaws.com/x", True),
        ("https://x.com/f?sig=*", "https://x.com/f?sig=1", True),
        ("https://X.com/*", "https://x.com/f", False),
        ("https://x.com/a?b", "https://x.com/a/b", True),
        ("https://x.com/(a|b).png", "https://x.com/a.png", False),
    ],
)
def test_salads_vectors(pattern: str, url: str, fits: bool) -> None:
    """Whole URL, case-sensitive, everything else literal."""
    assert matches(pattern, url, salad=True) is fits


def test_no_pattern_takes_long() -> None:
    """A regular expression would try for ever."""
    begun = time.process_time()
    assert not matches("**a" * 600 + "!", "a" * 8000)
    assert not matches("*a" * 1000 + "!", "a" * 8000)
    assert time.process_time() - begun < 5
