"""``__RANDOM_INT__``: tokens in a workflow that are replaced by random numbers when a job is prepared.

One draw per string value: all occurrences inside one string share it, separate strings are independent. Keys and
anything that is not a string stay as they are. A job's draws follow from its id, so that it is the same job after a
restart of the worker.
"""

import random
from hashlib import blake2b
from typing import Any

TOKEN = "__RANDOM_INT__"  # noqa: S105 - a placeholder, not a secret
TOKEN_BYTES = TOKEN.encode()
"""Look for this in a workflow's bytes before parsing: without it there is nothing to fill."""
BITS = 32


def job_rng(job_id: str) -> random.Random:
    """The generator of a job: the same draws whenever the job is prepared again, others for every other job."""
    return random.Random(blake2b(job_id.encode(), key=TOKEN_BYTES, digest_size=32).digest())


def fill(value: Any, *, rng: random.Random) -> Any:
    """Return ``value`` with all tokens drawn; what holds no token is returned as the same object.

    A string that equals the token becomes an integer of 0 .. 2**32 - 1; inside a longer string the token becomes
    decimal digits.
    """
    match value:
        case str():
            return _fill_text(value, rng=rng)
        case dict():
            filled = {key: fill(item, rng=rng) for key, item in value.items()}
            return filled if any(filled[key] is not item for key, item in value.items()) else value
        case list():
            items = [fill(item, rng=rng) for item in value]
            return items if any(new is not old for new, old in zip(items, value, strict=True)) else value
        case _:
            return value


def _fill_text(text: str, *, rng: random.Random) -> str | int:
    if TOKEN not in text:
        return text
    number = rng.getrandbits(BITS)
    return number if text == TOKEN else text.replace(TOKEN, str(number))
