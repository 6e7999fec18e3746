"""Upload blocks of Salad's jobs: which place they mean, which are mistakes, which can't be served here."""

from collections.abc import Mapping
from importlib.machinery import ModuleSpec
from typing import Any

import pytest

from lib.delivery import storages
from lib.delivery.refusals import Fields
from lib.delivery.storages import UNCONFIGURED, missing_packages, plan_salad_s3, plan_store
from lib.errors import InvalidRequest, UnsafeInput
from lib.jobs.model import S3Target, StoreKind, StoreTarget
from lib.settings import DeliverySettings, SaladSettings, SettingsError
from lib.storage.guard import AddressGuard

AWS = {"aws_region": "eu-west-1", "aws_access_key_id": "id", "aws_secret_access_key": "hush"}
SALAD = AWS | {"azure_account": "mine", "azure_key": "a2V5", "hf_token": "hush"}
AZURE, HF, HTTP = StoreKind.AZURE, StoreKind.HUGGING_FACE, StoreKind.HTTP


def salad(**settings: Any) -> SaladSettings:
    return SaladSettings.model_validate(settings)


def s3(block: Mapping[str, Any] | None, *allow: str, **settings: Any) -> S3Target | None:
    delivery = DeliverySettings.model_validate({"s3_allow_buckets": allow, "s3_connect_attempts": 5})
    return plan_salad_s3(block, salad(**(AWS | settings)), delivery)


def store(kind: StoreKind, block: Mapping[str, Any] | None, **settings: Any) -> StoreTarget | None:
    return plan_store(kind, block, salad(**(SALAD | settings)), guard=AddressGuard())


def place(kind: StoreKind, **block: Any) -> dict[str, str]:
    target = store(kind, block)
    assert target is not None and target.kind is kind
    return dict(target.place)


def refused(error: pytest.ExceptionInfo[InvalidRequest]) -> str:
    """Where the mistake is, as Salad's ``location``."""
    (one,) = error.value.details["errors"]  # type: ignore[misc]
    assert "hush" not in error.value.message
    return ".".join(one["loc"][1:])


def test_s3() -> None:
    """Any bucket that the operator's keys open; the prefix is what stands before the name, as it is."""
    target = s3(
        {"bucket": "my.bucket", "prefix": "p/ä #?", "async": True, "more": 1}, aws_endpoint_url="http://minio:9000"
    )
    assert target is not None and target.plain and target.operator
    assert (target.bucket_name, target.prefix, target.region) == ("my.bucket", "p/ä #?", "eu-west-1")
    assert (target.access_key_id, target.secret_access_key, target.endpoint_url) == ("id", "hush", "http://minio:9000")
    assert target.connect_attempts == 5
    assert s3(None) is None
    bare = s3({"bucket": "bucket"})
    assert bare is not None and bare.prefix == ""


def test_s3_buckets_on_the_list() -> None:
    """Where there is a list, others are refused."""
    assert s3({"bucket": "shared"}, "shared") is not None
    with pytest.raises(InvalidRequest, match="S3_ALLOW_BUCKETS") as caught:
        s3({"bucket": "other"}, "shared")
    assert refused(caught) == "s3.bucket"


@pytest.mark.parametrize(
    ("block", "location"),
    [
        ({}, "s3.bucket"),
        ({"prefix": "p"}, "s3.bucket"),
        ({"bucket": "a/b"}, "s3.bucket"),
        ({"bucket": 5}, "s3.bucket"),
        ({"bucket": "bkt", "prefix": "../x"}, "s3.prefix"),
        ({"bucket": "bkt", "prefix": "x\ny"}, "s3.prefix"),
        ({"bucket": "bkt", "prefix": "x" * 1025}, "s3.prefix"),
        ({"bucket": "bkt", "prefix": 7}, "s3.prefix"),
        ("bkt", "s3"),
    ],
)
def test_s3_mistakes(block: Any, location: str) -> None:
    """Each names its field."""
    with pytest.raises(InvalidRequest) as caught:
        s3(block)
    assert refused(caught) == location
    assert UNCONFIGURED not in caught.value.details


def test_azure() -> None:
    """A slash at the beginning of the prefix goes, none is added at its end."""
    assert place(AZURE, container="c-1", blob_prefix="/p/q") == {"container": "c-1", "prefix": "p/q"}
    assert place(AZURE, container="outputs", blob_prefix="//p/q") == {"container": "outputs", "prefix": "p/q"}
    assert place(AZURE, container="$web") == {"container": "$web", "prefix": ""}


def test_hugging_face() -> None:
    """A directory has no empty parts, so that the default one is the root."""
    expected = {"repo": "u/r", "repo_type": "model", "revision": "main", "directory": ""}
    assert place(HF, repo="u/r") == expected
    assert place(HF, repo="u/r", directory="/", revision="", repo_type=None) == expected
    assert place(HF, repo="u/r", repo_type="dataset", revision="refs/pr/1", directory="/x y//z/") == {
        "repo": "u/r",
        "repo_type": "dataset",
        "revision": "refs/pr/1",
        "directory": "x y/z/",
    }


def test_http() -> None:
    """As it is written; the guard looks at it before any GPU does."""
    assert place(HTTP, url_prefix="http://files.example/p//") == {"url_prefix": "http://files.example/p//"}
    with pytest.raises(UnsafeInput) as caught:
        store(HTTP, {"url_prefix": "http://169.254.169.254/x"})
    assert caught.value.details["field"] == "http_upload.url_prefix"


@pytest.mark.parametrize(
    ("kind", "block", "location"),
    [
        (AZURE, {}, "azure_blob_upload.container"),
        (AZURE, {"container": "ab"}, "azure_blob_upload.container"),
        (AZURE, {"container": "Upper"}, "azure_blob_upload.container"),
        (AZURE, {"container": "a--b"}, "azure_blob_upload.container"),
        (AZURE, {"container": "a/../b"}, "azure_blob_upload.container"),
        (AZURE, {"container": "outputs", "blob_prefix": "a/../b"}, "azure_blob_upload.blob_prefix"),
        (HF, {"repo": "r"}, "hf_upload.repo"),
        (HF, {"repo": "u/r/x"}, "hf_upload.repo"),
        (HF, {"repo": "../r"}, "hf_upload.repo"),
        (HF, {"repo": "u/r", "repo_type": "space"}, "hf_upload.repo_type"),
        (HF, {"repo": "u/r", "revision": "../x"}, "hf_upload.revision"),
        (HF, {"repo": "u/r", "directory": "a/.."}, "hf_upload.directory"),
        (HTTP, {}, "http_upload.url_prefix"),
        (HTTP, {"url_prefix": "ftp://x/"}, "http_upload.url_prefix"),
        (HTTP, {"url_prefix": ["http://x/"]}, "http_upload.url_prefix"),
    ],
)
def test_mistakes(kind: StoreKind, block: dict[str, Any], location: str) -> None:
    """Each names its field."""
    with pytest.raises(InvalidRequest) as caught:
        store(kind, block)
    assert refused(caught) == location


@pytest.mark.parametrize(
    ("kind", "block", "needed"),
    [
        (AZURE, {"container": "outputs"}, "AZURE_STORAGE_CONNECTION_STRING"),
        (HF, {"repo": "u/r"}, "HF_TOKEN"),
    ],
)
def test_a_storage_that_is_not_configured(kind: StoreKind, block: dict[str, Any], needed: str) -> None:
    """Refused with what is needed, and with a mark for dialects; or passed over, by the operator's word."""
    with pytest.raises(InvalidRequest, match=needed) as caught:
        plan_store(kind, block, salad())
    assert caught.value.details[UNCONFIGURED] == refused(caught) == storages.BLOCKS[kind].loc[-1]
    assert plan_store(kind, block, salad(unconfigured_uploads="ignore")) is None
    assert plan_store(kind, None, salad()) is None


@pytest.mark.parametrize("missing", ["aws_region", "aws_access_key_id", "aws_secret_access_key"])
def test_s3_that_is_not_configured(missing: str) -> None:
    """The region turns it on; half of the keys are none."""
    with pytest.raises(InvalidRequest, match="AWS_REGION") as caught:
        s3({"bucket": "bkt"}, **{missing: None})
    assert caught.value.details[UNCONFIGURED] == "s3"
    assert s3({"bucket": "bkt"}, unconfigured_uploads="ignore", **{missing: None}) is None


def test_s3_by_the_machines_own_keys() -> None:
    """A role, or a file of AWS's own: then there is a region and nothing else."""
    target = s3({"bucket": "bkt"}, aws_access_key_id=None, aws_secret_access_key=None)
    assert target is not None and (target.access_key_id, target.secret_access_key) == ("", "")


def test_a_web_server_needs_no_account() -> None:
    """It is always there."""
    assert plan_store(HTTP, {"url_prefix": "http://files.example"}, salad()) is not None


def test_a_package_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Said at start and to whoever asks for it, and to nobody where the storage is not configured."""
    assert missing_packages(salad(**SALAD)) == {}

    def find(name: str) -> ModuleSpec | None:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr("lib.storage.packages.find_spec", find)
    assert missing_packages(salad()) == {}
    missing = missing_packages(salad(**SALAD))
    assert "requirements-azure.txt" in missing[AZURE] and "requirements-hf.txt" in missing[HF]
    with pytest.raises(InvalidRequest, match="huggingface_hub is not installed") as caught:
        plan_store(HF, {"repo": "u/r"}, salad(**SALAD), missing=missing)
    assert caught.value.details[UNCONFIGURED] == "hf_upload"


def test_a_bad_account_is_said_at_start() -> None:
    """With the variable that is wrong."""
    with pytest.raises(SettingsError, match="AZURE_STORAGE_CONNECTION_STRING"):
        missing_packages(salad(azure_connection_string="nonsense"))


def test_blocks_may_be_elsewhere() -> None:
    """A dialect says where it has them."""
    with pytest.raises(InvalidRequest) as caught:
        plan_store(HF, {}, salad(**SALAD), fields=Fields(loc=("body", "deep", "hub")))
    assert refused(caught) == "deep.hub.repo"
