"""What a person who started the worker reads."""

from dataclasses import replace

from lib.app.summary import Addresses, text

HERE = Addresses(api="http://127.0.0.1:18288", public="http://127.0.0.1:3000", plain="http://127.0.0.1:3001")


def shown(addresses: Addresses, problem: str | None = None) -> str:
    return text(addresses, score=None, output_hint="/workspace/output", problem=problem)


def test_on_loopback_nobody_is_asked() -> None:
    """The way in is SSH, and the line to paste needs no key."""
    assert "loopback: reach it through SSH with -L)" in shown(HERE)
    assert "Authorization" not in shown(HERE)


def test_beyond_loopback_it_says_so_and_shows_where_the_key_goes() -> None:
    """A line without a key would be answered 401 there."""
    opened = shown(replace(HERE, beyond=True, keys=True))
    assert "from other machines too, with an API key" in opened and "loopback" not in opened
    assert "-H 'Authorization: Bearer <key>'" in opened
    assert "from other machines too, no API keys" in shown(replace(HERE, beyond=True))
    assert "-H 'Authorization: Bearer <key>'" in shown(replace(HERE, keys=True))


def test_what_is_wrong_stands_in_place_of_the_line() -> None:
    """Nothing to paste while no job would be taken."""
    assert "NOT READY  no model" in shown(HERE, "no model") and "curl" not in shown(HERE, "no model")
