"""What stops provisioning. One class: the reader is a person at a console, who needs a cause and a next step."""


class ProvisioningError(Exception):
    """A step failed. ``cause`` is one sentence, ``remedy`` one that says what to do next."""

    def __init__(self, cause: str, *, remedy: str = "") -> None:
        super().__init__(f"{cause} {remedy}".strip())
        self.cause = cause
        self.remedy = remedy
