"""Distinct picture prompts from a small grammar; nothing is downloaded.

nltk costs 30 MB for the rest of the process, so a worker has them made by a short-lived child
(``python -m benchmark.prompts``, 0.3 s, beside the warm-up run) and stays as small as before.
"""

import argparse
import asyncio
import json
import random
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from benchmark.settings import REPOSITORY

if TYPE_CHECKING:
    from nltk.grammar import CFG, Nonterminal

GRAMMAR = """
S -> STYLE 'of' SUBJECT PLACE ',' LIGHT ',' FINISH | SUBJECT PLACE ',' STYLE ',' LIGHT | STYLE 'of' SUBJECT ',' LIGHT
STYLE -> 'a photograph' | 'an oil painting' | 'a watercolour' | 'a pencil sketch' | 'a 35mm film still' | 'a woodcut'
SUBJECT -> 'a' ADJ THING | 'a' ADJ ANIMAL DOING | 'two' ADJ PLURAL DOING
ADJ -> 'weathered' | 'crimson' | 'tiny' | 'towering' | 'glass' | 'moss-covered' | 'golden' | 'folded' | 'silent'
THING -> 'lighthouse' | 'bicycle' | 'teapot' | 'railway station' | 'greenhouse' | 'violin' | 'sailing boat' | 'clock'
ANIMAL -> 'fox' | 'heron' | 'tortoise' | 'otter' | 'raven' | 'hare' | 'octopus'
PLURAL -> 'herons' | 'foxes' | 'children' | 'robots' | 'dancers' | 'fishermen'
DOING -> 'reading a map' | 'crossing a bridge' | 'playing chess' | 'waiting for the rain' | 'looking at the sea'
PLACE -> 'in a' WHERE | 'beside a' WHERE | 'above a' WHERE
WHERE -> 'harbour town' | 'pine forest' | 'salt desert' | 'mountain pass' | 'market square' | 'flooded valley'
LIGHT -> 'at dawn' | 'under a full moon' | 'in thick fog' | 'in low winter sun' | 'lit by lanterns' | 'after a storm'
FINISH -> 'highly detailed' | 'soft focus' | 'wide angle' | 'muted colours' | 'strong contrast'
"""


def sample_prompts(count: int, *, seed: int) -> list[str]:
    """Draw ``count`` different prompts. Imports nltk: meant for the child process and for tests."""
    from nltk.grammar import CFG

    grammar = CFG.fromstring(GRAMMAR)
    chance = random.Random(seed)
    found: dict[str, None] = {}
    while len(found) < count:
        words = _expand(grammar, grammar.start(), chance)
        found[" ".join(words).replace(" ,", ",")] = None
    return list(found)


def _expand(grammar: "CFG", symbol: "Nonterminal | str", chance: random.Random) -> list[str]:
    if isinstance(symbol, str):
        return [symbol]
    production = chance.choice(grammar.productions(lhs=symbol))
    return [word for part in production.rhs() for word in _expand(grammar, part, chance)]


async def make_prompts(count: int, *, seed: int) -> list[str]:
    """Have a child process draw the prompts. Raises ChildProcessError with its last words."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmark.prompts", "--count", str(count), "--seed", str(seed)),
        cwd=REPOSITORY,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        output, errors = await child.communicate()
    except asyncio.CancelledError:
        child.kill()
        await child.wait()
        raise
    if child.returncode != 0:
        raise ChildProcessError(errors.decode(errors="replace").strip().rpartition("\n")[2] or "no output")
    prompts: list[str] = json.loads(output)
    return prompts


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a JSON list of prompts."""
    parser = argparse.ArgumentParser(prog="python -m benchmark.prompts", description=main.__doc__)
    parser.add_argument("--count", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    print(json.dumps(sample_prompts(options.count, seed=options.seed)))


if __name__ == "__main__":
    main()
