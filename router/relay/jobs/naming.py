"""Whose a job is: stores know owners by one name, ``<endpoint>/<tenant>``."""

from router.ports import RelayJob
from router.relay.ports import Visitor


def owner_of(visitor: Visitor) -> str:
    """The name space of a visitor's jobs; the endpoint's own key has one too."""
    return f"{visitor.endpoint}/{visitor.tenant}"


def tenant_of(job: RelayJob) -> str:
    """The tenant as the endpoint knows it."""
    return job.tenant.partition("/")[2]
