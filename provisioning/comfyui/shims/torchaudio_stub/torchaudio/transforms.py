"""The one name that ComfyUI's modules inherit or reference when they are imported."""


class MelScale:
    """Absent feature, said when it is used."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        raise RuntimeError("Audio models need torchaudio, and none is installed that fits this torch.")
