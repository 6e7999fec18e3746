"""Who may do what, and which endpoint a worker belongs to; what is made once and kept."""

import stat
from pathlib import Path
from typing import Any

import pytest

from lib.errors import Forbidden, InvalidRequest, JobConflict, Unauthorized
from lib.serving.keyring import digest
from lib.settings import SettingsError
from router.endpoint_settings import EndpointSettings, GroupSettings, TenantSettings
from router.endpoints import Endpoint, Endpoints, Scope, UnknownEndpoint
from router.keeping import KEYS, EndpointKeeping
from router.settings import RouterSettings

A, B, TENANT, ACCOUNT, TOKEN, OWN = ("a" * 20, "b" * 20, "t" * 20, "o" * 20, "w" * 20, "x" * 20)


def book(**options: Any) -> Endpoints:
    first = EndpointSettings(
        name="a",
        id=1,
        groups=(GroupSettings(name="g", id=11), GroupSettings(name="h", id=12, containers=(70,))),
        tenants=(TenantSettings(name="studio", api_keys=(TENANT,)),),
    )
    second = EndpointSettings(name="b", id=2, api_key=B, tokens=(OWN,), groups=(GroupSettings(name="g", id=21),))
    return Endpoints(
        [Endpoint(settings=first, api_key=A), Endpoint(settings=second)],
        account_keys=[digest(ACCOUNT)],
        worker_tokens=[digest(TOKEN)],
        **options,
    )


def keeping(folder: Path, **changes: Any) -> EndpointKeeping:
    return EndpointKeeping(RouterSettings(state_dir=folder, **changes))


def test_keys_reach_what_is_theirs() -> None:
    """The operator's everything, an endpoint's the endpoint, a tenant's the endpoint in its name."""
    endpoints = book()
    assert endpoints.bearer(ACCOUNT).is_operator
    assert (endpoints.bearer(A).scope, endpoints.bearer(A).endpoint) == (Scope.ENDPOINT, "a")
    assert (endpoints.bearer(TENANT).tenant, endpoints.bearer(TENANT).endpoint) == ("studio", "a")
    assert endpoints.may_use(ACCOUNT, "b")[0].name == "b"
    assert endpoints.may_use(B, "b")[1].endpoint == "b"


@pytest.mark.parametrize("key", ["", "wrong", A + "x", TOKEN])
def test_other_keys_reach_nothing(key: str) -> None:
    """A worker's token is no key either."""
    with pytest.raises(Unauthorized):
        book().may_use(key, "a")


@pytest.mark.parametrize("name", ["b", "none"])
def test_who_does_not_reach_an_endpoint_is_not_told_of_it(name: str) -> None:
    """The answer is the same as for one that is not there."""
    with pytest.raises(UnknownEndpoint):
        book().may_use(A, name)


def test_only_the_operator_is_the_operator() -> None:
    """Changes of endpoints are no client's business."""
    with pytest.raises(Forbidden):
        book().operator(A)


def test_a_key_that_is_known_as_a_hash_is_shown_as_it_came() -> None:
    """The SDK takes the endpoint's key from the listing; the operator's own opens it as well."""
    endpoints = book()
    assert endpoints.shown_key(endpoints.find("a"), ACCOUNT) == A
    assert endpoints.shown_key(endpoints.find("b"), ACCOUNT) == ACCOUNT
    assert endpoints.shown_key(endpoints.find("a"), TENANT) == TENANT


@pytest.mark.parametrize(
    ("worker", "options", "place"),
    [
        (5, {"prefix": "a", "token": TOKEN}, "a/g"),
        (70, {"prefix": "a", "token": TOKEN}, "a/h"),
        (70, {"token": TOKEN}, "a/h"),
        (70, {"prefix": "b", "token": OWN}, "b/g"),
        (5, {"token": OWN}, "b/g"),
    ],
)
def test_workers_find_their_place(worker: int, options: dict[str, str], place: str) -> None:
    """By the path of REPORT_ADDR first, then by CONTAINER_ID, then by MASTER_TOKEN."""
    found = book().place(worker, **options)
    assert f"{found.endpoint.name}/{found.group.name}" == place


@pytest.mark.parametrize(
    "options",
    [{"prefix": "a"}, {"prefix": "a", "token": OWN}, {"prefix": "b", "token": TOKEN}, {"prefix": "a", "token": A}],
)
def test_a_worker_without_the_right_token_is_refused(options: dict[str, str]) -> None:
    """Who may report may get work: that needs more than the address."""
    with pytest.raises(Unauthorized):
        book().place(5, **options)


def test_a_worker_that_nothing_places_is_told_how() -> None:
    """There are two endpoints, so somebody has to say which."""
    with pytest.raises(UnknownEndpoint, match="REPORT_ADDR"):
        book().place(5, token=TOKEN)


def test_a_token_of_two_endpoints_places_nobody() -> None:
    """It opens both; which one is meant has to be said."""
    shared = [
        Endpoint(settings=EndpointSettings(name=name, id=number, tokens=(OWN,), groups=(GroupSettings(name="g"),)))
        for number, name in enumerate("abc", start=1)
    ]
    endpoints = Endpoints(shared, account_keys=[], worker_tokens=[])
    assert endpoints.place(5, token=OWN, prefix="b").endpoint.name == "b"
    with pytest.raises(UnknownEndpoint, match="REPORT_ADDR"):
        endpoints.place(5, token=OWN)


def test_closed_networks_may_do_without_tokens() -> None:
    """Because the operator said so."""
    assert book(open_workers=True).place(5, prefix="a").endpoint.name == "a"


def test_endpoints_are_made_changed_and_removed() -> None:
    """As the CLI does; listeners hear, keys open and close at once."""
    endpoints, heard = book(), []
    endpoints.listen(lambda endpoint, here: heard.append((endpoint.name, here)))
    made = endpoints.add(EndpointSettings(name="c"), api_key="c" * 20, created_at=1.0)
    assert (made.id, made.settings.groups[0].id) == (3, 3001)
    assert endpoints.bearer("c" * 20).endpoint == "c"
    changed = endpoints.change(made, {"max_workers": 3})
    assert endpoints.find("c").settings.max_workers == changed.settings.max_workers == 3
    endpoints.remove(changed)
    assert endpoints.who("c" * 20) is None
    assert heard == [("c", True), ("c", True), ("c", False)]


def test_what_the_operator_configured_is_not_removed_over_the_api() -> None:
    """It would be there again after the next start."""
    endpoints = book()
    with pytest.raises(Forbidden):
        endpoints.remove(endpoints.find("a"))
    with pytest.raises(JobConflict):
        endpoints.add(EndpointSettings(name="a"), api_key="c" * 20, created_at=1.0)
    with pytest.raises(InvalidRequest):
        endpoints.change(endpoints.find("a"), {"target_util": 7})


def test_without_configuration_there_is_one_endpoint(tmp_path: Path) -> None:
    """Its key, the operator's and the workers' token are made once, kept, and nobody else's to read."""
    first, second = keeping(tmp_path), keeping(tmp_path)
    assert [one.name for one in first.endpoints.all()] == ["default"]
    key = first.endpoints.find("default").api_key
    assert len(key) == 64 and second.endpoints.find("default").api_key == key
    assert first.secrets == second.secrets
    assert len({key, first.secrets.account_key, first.secrets.worker_token}) == 3
    assert stat.S_IMODE((tmp_path / KEYS).stat().st_mode) == 0o600
    assert first.endpoints.find("default").created_at == second.endpoints.find("default").created_at


def test_configured_keys_are_used_and_not_kept(tmp_path: Path) -> None:
    """Nothing that the operator chose is written to disk or shown."""
    made = keeping(
        tmp_path, account_keys=ACCOUNT, worker_tokens=TOKEN, endpoints=f'[{{"name": "a", "api_key": "{A}"}}]'
    )
    assert made.endpoints.bearer(ACCOUNT).is_operator
    assert made.endpoints.place(1, token=TOKEN).endpoint.name == "a"
    assert (made.secrets.account_key, made.secrets.worker_token) == ("", "")
    assert A not in (tmp_path / KEYS).read_text()


def test_one_key_in_two_roles_stops_the_start(tmp_path: Path) -> None:
    """It would be unclear what it opens."""
    with pytest.raises(SettingsError, match="in use elsewhere"):
        keeping(tmp_path, account_keys=A, endpoints=f'[{{"name": "a", "api_key": "{A}"}}]')


def test_endpoints_of_the_api_are_there_after_a_restart(tmp_path: Path) -> None:
    """And gone after they were removed."""
    first = keeping(tmp_path)
    made = first.endpoints.add(EndpointSettings(name="c", max_workers=2), api_key="c" * 20, created_at=1.0)
    first.save(made, True)
    second = keeping(tmp_path)
    assert second.endpoints.find("c").settings.max_workers == 2
    assert second.endpoints.bearer("c" * 20).endpoint == "c"
    second.save(made, False)
    assert [one.name for one in keeping(tmp_path).endpoints.all()] == ["default"]


def test_a_new_endpoint_of_the_file_takes_nobodys_number(tmp_path: Path) -> None:
    """The SDK and the CLI know the one that was made over the API by its number."""
    first = keeping(tmp_path, endpoints='[{"name": "a"}]')
    made = first.endpoints.add(EndpointSettings(name="c"), api_key="c" * 20, created_at=1.0)
    first.save(made, True)
    second = keeping(tmp_path, endpoints='[{"name": "a"}, {"name": "b"}]')
    assert [(one.name, one.id) for one in second.endpoints.all()] == [("a", 1), ("c", 2), ("b", 3)]


@pytest.mark.parametrize(
    ("described", "said"),
    [
        ('[{"name": "c"}]', "two endpoints have the name c"),
        ('[{"name": "a", "id": 2}]', "two endpoints have the id 2"),
        ('[{"name": "a", "groups": [{"name": "g", "id": 2001}]}]', "two worker groups have the id 2001"),
        (
            '[{"name": "a", "groups": [{"name": "g", "containers": [7]}]},'
            ' {"name": "b", "groups": [{"name": "g", "containers": [7]}]}]',
            "the container 7 is in two groups",
        ),
    ],
)
def test_what_is_there_twice_stops_the_start(tmp_path: Path, described: str, said: str) -> None:
    """Also where one of the two was made over the API."""
    first = keeping(tmp_path)
    first.save(first.endpoints.add(EndpointSettings(name="c"), api_key="c" * 20, created_at=1.0), True)
    with pytest.raises(SettingsError, match=said):
        keeping(tmp_path, endpoints=described)


def test_a_broken_file_of_keys_stops_the_start(tmp_path: Path) -> None:
    """New keys would lock every client out."""
    (tmp_path / KEYS).write_text("{")
    with pytest.raises(SettingsError, match=r"keys\.json"):
        keeping(tmp_path)
