"""What stops provisioning, in words that may be shown to anybody.

One class: the reader is a person at a console, who needs a cause and a next step. The cause also goes to the report,
the worker's ``/health`` and the autoscaler, so no URL in it keeps what is secret there.
"""

import re

_QUERY = re.compile(r"""((?:https?://|\burl: /)[^\s?'"<>]*)\?[^\s'"<>)]*""")
_USER = re.compile(r"(https?://)[^\s/@'\"<>]+@")


class ProvisioningError(Exception):
    """A step failed. ``cause`` is one sentence, ``remedy`` one that says what to do next."""

    def __init__(self, cause: str, *, remedy: str = "") -> None:
        cause = without_secrets(cause)
        super().__init__(f"{cause} {remedy}".strip())
        self.cause = cause
        self.remedy = remedy


def cause_of(error: Exception) -> str:
    """Give why, without what to do next: for lists of several failures."""
    return error.cause if isinstance(error, ProvisioningError) else without_secrets(error)


def without_secrets(text: object) -> str:
    """Take queries and user names out of the URLs of a text: tokens of model sites are there."""
    return _QUERY.sub(r"\1?...", _USER.sub(r"\1", str(text)))
