"""What Salad's webhooks are told: the first one of each output apart, the second one of the whole job, once. Pure."""

from collections.abc import Mapping
from typing import Any

from lib.dialects.salad.failures import told_failure
from lib.dialects.salad.render import content, encoded, error_of, graph_of, name, result, stamp, stats, told_files
from lib.jobs.model import Job, WebhookScheme, WebhookTarget

COMPLETE = "prompt.complete"
FAILED = "prompt.failed"
OUTPUT = "output.complete"


def render_webhook(job: Job, target: WebhookTarget) -> bytes | list[bytes]:
    """Return the bodies for a finished job: one for each output in the first webhook's form, else one. A job that made
    no file tells the first webhook that it is over all the same, in an event of ours."""
    if target.scheme is not WebhookScheme.SALAD:
        return encoded(_whole(job, target.extra_params))
    about, graph = {"id": job.spec.request_id}, graph_of(job)
    if (error := error_of(job)) is not None:
        return encoded({"event": FAILED, **about, **graph, **told_failure(error)})
    end = {**graph, "stats": stats(job, to_the_end=False)}
    bodies = [
        encoded({"event": OUTPUT, "image": content(item), **about, "filename": name(item), **end})
        for item in told_files(job)
    ]
    return bodies or encoded({"event": COMPLETE, **about, "images": [], "filenames": [], **end})


def _whole(job: Job, echo: Mapping[str, Any]) -> dict[str, Any]:
    """``echo``: what is told of the request again; without it, its id."""
    at = stamp(job.timings.finished_at or job.timings.accepted_at)
    about = {"id": job.spec.request_id}
    if (error := error_of(job)) is not None:
        return {"type": FAILED, "timestamp": at, **about, **graph_of(job), **told_failure(error)}
    return {"type": COMPLETE, "timestamp": at, **graph_of(job), **about, **echo, **result(job)}
