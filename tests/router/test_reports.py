"""Reading reports: workers of every age, our own, partial ones, and nonsense."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.protocol.auth import SignatureForm
from router.endpoint_settings import EndpointSettings, GroupSettings
from router.endpoints import Endpoint, Place
from router.model import Condition
from router.registry import record_of
from router.reports import Known, condition_of, foreign_load, form_of, view_of

GROUP = GroupSettings(name="g", price=0.5, vram_gib=24)
ENDPOINT = EndpointSettings(name="ep", groups=(GROUP,))
STOCK: dict[str, Any] = {
    "id": 1,
    "version": "1.1.0",
    "loadtime": 9.0,
    "max_perf": 100.0,
    "cur_load": 0.0,
    "url": "http://10.0.0.1:3000",
}
KNOWN = Known(heard_at=5.0, ours=0, condition=Condition.READY)


@pytest.mark.parametrize(
    ("report", "form"),
    [
        ({}, SignatureForm.A),
        ({"working_request_idxs": []}, SignatureForm.B),
        ({"version": "0.1.0"}, SignatureForm.C),
        ({"version": "1.0.0"}, SignatureForm.C),
        ({"version": "1.1.0"}, SignatureForm.D),
        ({"version": "2.0"}, SignatureForm.D),
        ({"version": "nightly"}, SignatureForm.D),
    ],
)
def test_the_form_follows_the_version(report: dict[str, Any], form: SignatureForm) -> None:
    """Each worker gets the signature that it can check."""
    assert form_of(report) is form


@pytest.mark.parametrize(
    ("changes", "condition"),
    [
        ({}, Condition.READY),
        ({"loadtime": 0.0}, Condition.STARTING),
        ({"loadtime": 0.0, "version": "1.0.0"}, Condition.READY),
        ({"loadtime": 0.0, "version": ""}, Condition.READY),
        ({"error_msg": "CUDA"}, Condition.ERROR),
        ({"draining": True}, Condition.DRAINING),
        ({"url": ""}, Condition.ERROR),
        ({"url": "", "max_perf": 0}, Condition.STARTING),
        ({"url": "ftp://x"}, Condition.ERROR),
    ],
)
def test_the_condition_is_read_from_any_age(changes: dict[str, Any], condition: Condition) -> None:
    """Before 1.1 ``loadtime`` stands in one report only, so there the speed says that it is loaded."""
    assert condition_of(STOCK | changes) is condition


def test_a_stock_worker_has_a_place_more_than_it_runs_and_refuses_by_queue_time() -> None:
    """It says nothing of its places; the operator says when its handler refuses."""
    view = view_of("ep/1", STOCK, endpoint=ENDPOINT, group=GROUP, known=KNOWN)
    assert (view.engines, view.slots, view.admit_s, view.price, view.vram_gib) == (1, 2, 10.0, 0.5, 24)
    assert view.models is None and view.warm is None and view.dialects == {"wrapper/sync"}


def test_a_worker_of_ours_tells_more() -> None:
    """Places, models, load times, dialects; it refuses by its own rules."""
    told = STOCK | {
        "slots": 3,
        "models": ["a", "b"],
        "models_warm": ["b"],
        "swap_s": {"a": 4.5, "b": "no"},
        "dialects": ["runpod"],
        "vram_gib": 48,
        "room": 1,
    }
    view = view_of("ep/1", told, endpoint=ENDPOINT, group=GROUP, known=KNOWN)
    assert (view.slots, view.engines, view.admit_s, view.vram_gib, view.room) == (3, 2, None, 48, 1)
    assert view.models == {"a", "b"} and view.warm == ("b",) and view.dialects == {"runpod"}
    assert view.swap_s == {"a": 4.5, "b": 0.0}


@pytest.mark.parametrize(
    ("count", "ours", "load"), [(0, 0, 300.0), (0, 1, 0.0), (3, 0, 300.0), (3, 1, 200.0), (3, 3, 0.0), (3, 5, 0.0)]
)
def test_foreign_load_is_the_share_of_others(count: int, ours: int, load: float) -> None:
    """By count: a worker's figure for a request need not be the cost that its caller announced."""
    report = {"cur_load": 300.0, "num_requests_working": count}
    assert foreign_load(report, ours=ours) == pytest.approx(load)


def test_a_partial_report_is_laid_over_what_was_known() -> None:
    """``start_server.sh`` sends five fields when it fails; the worker's token is kept out of records."""
    place = Place(endpoint=Endpoint(settings=ENDPOINT), group=GROUP)
    full = record_of(STOCK | {"mtoken": "secret"}, worker_id=1, place=place, now=10.0, previous=None)
    failed = {"id": 1, "mtoken": "secret", "version": "1.1.0", "error_msg": "pip failed", "url": "http://10.0.0.1:3000"}
    record = record_of(failed, worker_id=1, place=place, now=20.0, previous=full)
    assert (record.worker, record.first_at, record.heard_at) == ("ep/1", 10.0 - STOCK["loadtime"], 20.0)
    assert record.report["max_perf"] == 100.0
    assert condition_of(record.report) is Condition.ERROR
    assert "secret" not in str(full.report) + str(record.report)


_VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.lists(st.integers(), max_size=3),
    st.dictionaries(st.text(max_size=3), st.floats(), max_size=2),
)  # fmt: skip
_NAMES = [*STOCK, "slots", "engines", "models", "models_warm", "swap_s", "dialects", "vram_gib", "room", "draining"]


@given(st.dictionaries(st.sampled_from(_NAMES), _VALUES))
def test_no_report_is_too_strange(report: dict[str, Any]) -> None:
    """Workers are other people's programs: whatever they send, a view comes of it that policies can use."""
    view = view_of("ep/1", report, endpoint=ENDPOINT, group=GROUP, known=KNOWN)
    assert view.perf >= 0 and view.foreign_load >= 0
    assert 1 <= view.engines <= 1024 and 1 <= view.slots <= 1025
    assert condition_of(report) in Condition
    assert form_of(report) in SignatureForm
