"""lib.dialects.vast.translate: what an envelope makes of a job."""

from dataclasses import replace

import pytest

from lib.dialects.vast.schema import Envelope
from lib.dialects.vast.translate import job_spec
from lib.errors import InvalidRequest
from lib.jobs.model import DeliverySpec, JobSpec, S3Target
from lib.settings import JobsSettings

ASKED = Envelope(auth_data={}, payload={"input": {}}, session_id=None, complete=True)
TARGET = S3Target(bucket_name="b", access_key_id="i", secret_access_key="s", folder="a/")


def made(target: S3Target | None) -> JobSpec:
    spec = JobSpec(request_id="r", dialect="x", workflow=b"{}", delivery=DeliverySpec(s3=target))
    return job_spec(spec, ASKED, tag=None, keep=True, base_url="http://x", settings=JobsSettings())


def test_its_caller_is_a_stranger() -> None:
    """To the operator, and to every other caller."""
    assert made(None).stranger


def test_a_stranger_has_no_folder_of_choice_in_the_operators_bucket() -> None:
    """It might be another one's, a tenant's even; in a bucket of one's own anything goes."""
    with pytest.raises(InvalidRequest, match="access_key_id"):
        made(replace(TARGET, operator=True))
    assert made(TARGET).delivery.s3 == TARGET
    plain = replace(TARGET, operator=True, folder="")
    assert made(plain).delivery.s3 == plain
