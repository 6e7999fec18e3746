"""Prompts from the grammar."""

import json
import subprocess
import sys

import pytest

from benchmark.prompts import make_prompts, sample_prompts
from benchmark.settings import REPOSITORY


def test_prompts_differ_and_read_like_prompts() -> None:
    """No two are equal, no grammar symbol is left, commas stand where people put them."""
    prompts = sample_prompts(500, seed=1)
    assert len(set(prompts)) == 500
    assert not any(word.isupper() for prompt in prompts for word in prompt.split() if word != "A")
    assert not any(" ," in prompt or "  " in prompt for prompt in prompts)


def test_a_seed_gives_the_same_prompts() -> None:
    """Reproducible for one seed, different for another."""
    assert sample_prompts(5, seed=3) == sample_prompts(5, seed=3) != sample_prompts(5, seed=4)


async def test_a_child_process_makes_the_same_prompts() -> None:
    """What the worker gets is what the grammar gives."""
    assert await make_prompts(4, seed=9) == sample_prompts(4, seed=9)


async def test_a_child_that_fails_says_why() -> None:
    """Its last words are in the error."""
    with pytest.raises(ChildProcessError, match="count"):
        await make_prompts("many", seed=0)  # type: ignore[arg-type]


def test_the_worker_never_imports_nltk() -> None:
    """nltk costs 30 MB: importing the boot benchmark must not load it."""
    code = "import sys, benchmark.boot, json; print(json.dumps([m for m in ('nltk', 'pynvml') if m in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
