"""Settings of the router: what is wrong is named, what is secret is not."""

from pathlib import Path
from typing import Any

import pytest

from lib.settings import SettingsError
from router.endpoint_settings import load_endpoints
from router.model import Policy
from router.settings import RouterSettings, load_router_settings, unknown_variables

HASH = "sha256:" + "ab" * 32


def endpoints(text: str) -> RouterSettings:
    return RouterSettings(endpoints=text)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("ROUTER_PORT", "70000", "70000"),
        ("ROUTER_STORE", "postgres://u:hidden@h/db", "expected sqlite://"),
        ("ROUTER_PUBLIC_URL", "router.example.org", "expected a base URL"),
        ("ROUTER_ROUTE_WAIT_S", "12", "less than or equal to 9"),
        ("ROUTER_REPLICA", "a b", "ROUTER_REPLICA"),
        ("ROUTER_GONE_S", "1", "ROUTER_GONE_S is below"),
        ("ROUTER_TLS_CERT", "/x.pem", "belong together"),
        ("ROUTER_OPEN_WORKERS", "maybe", "valid boolean"),
        ("ROUTER_STALE_S", "inf", "finite"),
    ],
)
def test_a_bad_variable_is_named(name: str, value: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what was expected; a store's password is not said."""
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as refused:
        load_router_settings()
    assert name in str(refused.value) and said in str(refused.value)
    assert "hidden" not in str(refused.value)


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    """As everywhere in this project."""
    monkeypatch.setenv("ROUTER_PORT", "")
    assert load_router_settings().port == 8080


def test_a_name_that_is_nearly_right_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing else would say that it counts for nothing."""
    monkeypatch.setenv("ROUTER_ENDPOINT_FILE", "x.yaml")
    monkeypatch.setenv("ROUTER_XYZZYQ", "x")
    monkeypatch.setenv("ROUTER_PORT", "1")
    assert unknown_variables() == {"ROUTER_ENDPOINT_FILE": "ROUTER_ENDPOINTS_FILE", "ROUTER_XYZZYQ": ""}


@pytest.mark.parametrize(
    ("changes", "is_open"),
    [
        ({}, True),
        ({"host": "::"}, False),
        ({"public_url": "https://router.example.org"}, False),
        ({"public_url": "https://router.example.org", "open_page": True}, True),
        ({"open_page": False}, False),
    ],
)
def test_who_may_look_without_a_key(changes: dict[str, Any], is_open: bool) -> None:
    """This machine's own people; not those who come by its proxy, unless the operator says so."""
    assert RouterSettings(**changes).page_is_open is is_open


def test_every_variable_is_ours_and_described() -> None:
    """One prefix, one sentence each."""
    for field in RouterSettings.model_fields.values():
        assert field.description and field.description.endswith((".", "unset."))
        assert all(str(name).startswith("ROUTER_") for name in field.validation_alias.choices)  # type: ignore[union-attr]


def test_a_redis_store_is_shared() -> None:
    """A file is one router's."""
    assert RouterSettings(store="redis://h:6379/0").shared
    assert not RouterSettings().shared


def test_endpoints_come_from_a_file(tmp_path: Path) -> None:
    """YAML; numbers are filled in, and no number is given twice."""
    path = tmp_path / "endpoints.yaml"
    path.write_text(
        f"""
endpoints:
  - name: b
    api_key: "{HASH}"
    policy: least-work
    kappa: 5
    groups: [{{name: g, price: 0.4, containers: [7]}}, {{name: h}}]
  - name: a
    id: 1
    tenants: [{{name: t, api_keys: ["{"k" * 20}"], weight: 2, max_running: 3, priority: low}}]
"""
    )
    found = load_endpoints(RouterSettings(endpoints_file=path))
    assert [(one.name, one.id) for one in found] == [("b", 2), ("a", 1)]
    assert found[0].policy is Policy.LEAST_WORK
    assert [group.id for group in found[0].groups] == [2001, 2002]
    assert found[1].groups[0].name == "default"
    assert found[1].tenants[0].limits.held == 3


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[", "ROUTER_ENDPOINTS"),
        ("[]", "at least 1"),
        ('[{"name": "a"}, {"name": "a"}]', "two endpoints have the name a"),
        ('[{"name": "a", "id": 3}, {"name": "b", "id": 3}]', "two endpoints have the id 3"),
        ('[{"name": "a", "prise": 3}]', "endpoints.0.prise"),
        ('[{"name": "a", "api_key": "short"}]', "at least 16 characters"),
        ('[{"name": "a", "groups": [{"name": "g"}, {"name": "g"}]}]', "two entries for the group g"),
        ('[{"name": "a", "groups": [{"name": "g", "price": -1}]}]', "endpoints.0.groups.0.price"),
        ('[{"name": "a", "target_util": 1.5}]', "endpoints.0.target_util"),
    ],
)
def test_a_bad_endpoint_is_named(text: str, said: str) -> None:
    """By its place; one line each."""
    with pytest.raises(SettingsError) as refused:
        load_endpoints(endpoints(text))
    assert said in str(refused.value)


def test_a_bad_key_is_not_repeated() -> None:
    """It may be nearly right, and the terminal somebody else's."""
    with pytest.raises(SettingsError) as refused:
        load_endpoints(endpoints('[{"name": "a", "api_key": "hunter2"}]'))
    assert "hunter2" not in str(refused.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    """By its path."""
    with pytest.raises(SettingsError, match=r"nothing\.yaml"):
        load_endpoints(RouterSettings(endpoints_file=tmp_path / "nothing.yaml"))
