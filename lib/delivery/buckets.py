"""Where files of RunPod jobs go: ``BUCKET_*`` as settings that deliveries are planned with. Pure.

worker-comfyui puts them into a bucket that is called like the month, unless its endpoint's URL names one; that is
``BUCKET_LAYOUT=month`` here. Otherwise it is the bucket that ``BUCKET_ENDPOINT_URL`` or ``BUCKET_NAME`` names. Keys are
``<folder of the URL>/<month>/<BUCKET_PREFIX>/<job id>/<file name>``, as far as there are such.
"""

from datetime import datetime

from lib.delivery.endpoints import Endpoint, Unclear, is_bucket, read_endpoint
from lib.delivery.refusals import Fields
from lib.settings import DeliverySettings, RunPodSettings, SettingsError

S3_CONFIG = Fields(
    loc=("body", "s3Config"),
    names={
        "access_key_id": "accessId",
        "secret_access_key": "accessSecret",
        "bucket_name": "bucketName",
        "endpoint_url": "endpointUrl",
        "prefix": "objectPath",
    },
)
"""What RunPod calls the fields of a request's own S3 block."""


def effective(delivery: DeliverySettings, runpod: RunPodSettings, *, now: datetime) -> DeliverySettings:
    """Return the settings that RunPod jobs of this moment are planned with: ``delivery`` with ``BUCKET_*`` for the
    ``S3_*`` of keys and place, unless ``S3_BUCKET_NAME`` is set. How a server is spoken to (``S3_ADDRESSING_STYLE``,
    time-outs, life of URLs) stays.

    Cheap enough to be asked for each job, as the month may change; ``lib.app`` asks once at start too, so that a
    mistake is seen there.

    Raises: SettingsError.
    """
    if delivery.s3_bucket_name is not None:
        return delivery
    if runpod.bucket_endpoint_url is None:
        if runpod.bucket_name is not None:
            raise SettingsError(
                f"BUCKET_NAME={runpod.bucket_name!r}: needs BUCKET_ENDPOINT_URL, the URL of its S3 server, for example "
                "https://s3.us-east-1.amazonaws.com; outputs would not be uploaded"
            )
        return delivery
    _check_keys(runpod)
    place = _place(runpod.bucket_endpoint_url, runpod.bucket_name)
    month = now.strftime("%m-%y") if runpod.bucket_layout == "month" else None
    bucket_name = place.bucket_name or month
    if bucket_name is None:
        raise SettingsError(
            "BUCKET_ENDPOINT_URL: names no bucket; set BUCKET_NAME, or BUCKET_LAYOUT=month for buckets that are called "
            "like the month, as worker-comfyui has them"
        )
    monthly = (month,) if month is not None and place.bucket_name else ()
    folders = [part for part in (*monthly, *runpod.bucket_prefix.split("/")) if part]
    return delivery.model_copy(
        update={
            "s3_access_key_id": runpod.bucket_access_key_id,
            "s3_secret_access_key": runpod.bucket_secret_access_key,
            "s3_session_token": None,
            "s3_bucket_name": bucket_name,
            "s3_endpoint_url": place.url,
            "s3_region": runpod.bucket_region or place.region,
            "s3_prefix": place.folder + "".join(f"{folder}/" for folder in folders),
            "s3_allow_buckets": (),
            "s3_public_base_url": None,
        }
    )


def _check_keys(runpod: RunPodSettings) -> None:
    keys = {
        "BUCKET_ACCESS_KEY_ID": runpod.bucket_access_key_id,
        "BUCKET_SECRET_ACCESS_KEY": runpod.bucket_secret_access_key,
    }
    missing = [name for name, key in keys.items() if key is None]
    if missing:
        raise SettingsError(
            f"{' and '.join(missing)}: not set, needed with BUCKET_ENDPOINT_URL; without keys no output can be uploaded"
        )


def _place(url: str, bucket_name: str | None) -> Endpoint:
    if bucket_name is not None and not is_bucket(bucket_name):
        raise SettingsError(f"BUCKET_NAME={bucket_name!r}: is no bucket's name; folders go into BUCKET_PREFIX")
    try:
        return read_endpoint(url, bucket_name=bucket_name)
    except Unclear as error:
        raise SettingsError(f"BUCKET_ENDPOINT_URL: {error}") from error
