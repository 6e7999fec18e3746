"""The page's frame: complete in itself, and allowed to do no more than it does."""

import base64
import hashlib
import re
from enum import StrEnum

import pytest

from router.model import Exclusion, Reason
from router.page.document import load_document
from router.page.troubles import Mishap
from router.ports import JobState
from router.refusals import Refusal
from tests.router.page.conftest import House


def test_the_policy_allows_the_pages_own_style_and_program_only() -> None:
    """By their hashes, as a browser takes them from the page; nothing inline besides."""
    document = load_document()
    for tag, rule in (("style", "style-src"), ("script", "script-src")):
        ((inside),) = re.findall(rf"<{tag}[^>]*>(.*?)</{tag}>", document.text, flags=re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert f"{rule} 'sha256-{digest}';" in document.policy
    assert "unsafe" not in document.policy and "*" not in document.policy
    assert re.findall(r"\son\w+=|\sstyle=", document.text.partition("<script")[0]) == []


def test_nothing_comes_from_elsewhere() -> None:
    """No address but that of the namespace of SVG."""
    text = load_document().text
    assert set(re.findall(r"https?://[^\s'\"<)]+", text)) == {"http://www.w3.org/2000/svg"}
    assert re.findall(r"\b(?:import|eval|innerHTML|outerHTML|insertAdjacentHTML)\b", text) == []


async def test_it_is_everybodys_and_asked_for_once(house: House) -> None:
    """There is nothing of the fleet in it; a copy that is still good is not sent again."""
    async with house.http.get(house.url + "/") as answer:
        assert answer.status == 200 and answer.content_type == "text/html"
        assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'")
        tag = answer.headers["ETag"]
    async with house.http.get(house.url + "/", headers={"If-None-Match": tag}) as answer:
        assert answer.status == 304 and await answer.read() == b""


@pytest.mark.parametrize(
    ("table", "words"),
    [("REASONS", Reason), ("EXCLUDED", Exclusion), ("MISHAPS", Mishap), ("REFUSALS", Refusal), ("STATES", JobState)],
)
def test_the_program_has_words_for_all_that_the_router_says(table: str, words: type[StrEnum]) -> None:
    """Neither fewer, nor any that nobody says."""
    (inside,) = re.findall(rf"const {table} = {{(.*?)}};", load_document().text, flags=re.DOTALL)
    assert set(re.findall(r"(?:^|[\s,])\"?([\w-]+)\"?:", inside)) == set(words)
