"""What is left of the host's memory, and of a container's."""

import os
from pathlib import Path

import psutil
import pytest

from lib.comfy.memory import Gauge

LIMIT = 1 << 30


def test_without_a_container_it_is_the_hosts(tmp_path: Path) -> None:
    """What can be had without swapping."""
    share = Gauge(tmp_path).read(None, tree=False).free_share
    memory = psutil.virtual_memory()
    assert share == pytest.approx(memory.available / memory.total, abs=0.1)


def test_a_containers_limit_counts_and_caches_do_not(tmp_path: Path) -> None:
    """Version 2; ``max`` is no limit, nor is one above the host's memory."""
    (tmp_path / "memory.max").write_text(f"{LIMIT}\n")
    (tmp_path / "memory.current").write_text(f"{LIMIT}\n")
    (tmp_path / "memory.stat").write_text(f"anon 5\ninactive_file {LIMIT // 50}\n")
    assert Gauge(tmp_path).read(None, tree=False).free_share == pytest.approx(0.02)
    for no_limit in ("max", str(1 << 60)):
        (tmp_path / "memory.max").write_text(no_limit)
        assert (Gauge(tmp_path).read(None, tree=False).free_share or 0) > 0.02


def test_the_older_files_are_read_too(tmp_path: Path) -> None:
    """Version 1; full is zero, never less."""
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text(str(LIMIT))
    (tmp_path / "memory" / "memory.usage_in_bytes").write_text(str(LIMIT + 5))
    assert Gauge(tmp_path).read(None, tree=False).free_share == 0


def test_a_process_is_measured_with_its_children_when_that_is_asked_for(tmp_path: Path) -> None:
    """One that has gone has no size."""
    assert Gauge(tmp_path).read(os.getpid(), tree=False).rss_bytes is None
    own = psutil.Process().memory_info().rss
    assert (Gauge(tmp_path).read(os.getpid(), tree=True).rss_bytes or 0) >= own * 0.9
    assert Gauge(tmp_path).read(1 << 30, tree=True).rss_bytes is None
