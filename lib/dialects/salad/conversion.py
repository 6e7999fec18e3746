"""``convert_output``: the options of sharp's encoders, one set a format, strictly typed.

What each one does, and which values are in range, is ``lib.delivery``'s to say.
"""

from functools import reduce
from operator import or_
from types import NoneType
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    SerializerFunctionWrapHandler,
    model_serializer,
)
from pydantic_core import CoreSchema

from lib.serving.schemas import WireModel


class _LeftOut:
    """Makes ``Annotated[T | None, LEFT_OUT] = None`` a field that may be left out, and is never null."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return handler.generate_schema(reduce(or_, (kind for kind in get_args(source) if kind is not NoneType)))


def _whole(value: Any) -> Any:
    """8.0 is 8 in JSON."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _without_null(schema: dict[str, Any]) -> None:
    """A field that may be left out has no default to be shown; what is dropped is not offered."""
    schema.pop("additionalProperties", None)
    for field in schema.get("properties", {}).values():
        if field.get("default", "") is None:
            del field["default"]


LEFT_OUT = _LeftOut()
_SHOWN, _SHOWN_CHARS = 20, 40
WHOLE = BeforeValidator(_whole)


class Part(WireModel):
    """A part of a request: types to the letter, unknown keys dropped."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, json_schema_extra=_without_null)


class _Options(Part):
    """Options of an encoder. What it does not have is dropped, too, but its names are kept: they are warned about."""

    model_config = ConfigDict(extra="allow")

    @property
    def unknown(self) -> list[str]:
        """The first few names that were given and mean nothing here."""
        return [name[:_SHOWN_CHARS] for name, value in (self.model_extra or {}).items() if value is not None][:_SHOWN]

    @model_serializer(mode="wrap")
    def _without_unknown(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in serialize(self).items() if name in type(self).model_fields}


class JpegOptions(_Options):
    """Options of the JPEG encoder."""

    quality: Annotated[int, Field(ge=1, le=100), WHOLE] = 80
    progressive: bool = False
    chromaSubsampling: str = Field("4:2:0", description="`4:2:0` or `4:4:4`.")
    optimizeCoding: bool = True
    mozjpeg: bool = Field(False, description="Stands for trellis, overshoot, optimizeScans and table 3.")
    trellisQuantisation: bool = False
    overshootDeringing: bool = False
    optimizeScans: bool = Field(False, description="Makes it progressive.")
    quantisationTable: Annotated[int, Field(ge=0, le=8), WHOLE] = 0
    background: Annotated[str | list[int] | None, LEFT_OUT] = Field(
        None, description="Ours: the colour behind what is transparent, `#ffffff` or `[255, 255, 255]`; white if unset."
    )


class WebpOptions(_Options):
    """Options of the WebP encoder."""

    quality: Annotated[int, Field(ge=1, le=100), WHOLE] = 80
    alphaQuality: Annotated[int, Field(ge=0, le=100), WHOLE] = 100
    lossless: bool = False
    nearLossless: bool = False
    smartSubsample: bool = False
    preset: Literal["default", "photo", "picture", "drawing", "icon", "text"] = "default"
    effort: Annotated[int, Field(ge=0, le=6), WHOLE] = 4


class _Output(Part):
    keep_metadata: bool = Field(False, description="Ours: the workflow stays in the pictures' metadata.")


class JpegOutput(_Output):
    """Pictures as JPEG; what is no picture stays as it is."""

    format: Literal["jpeg", "jpg"] = Field(description="Also the extension.")
    options: Annotated[JpegOptions | None, LEFT_OUT] = None


class WebpOutput(_Output):
    """Pictures as WebP, animations too."""

    format: Literal["webp"]
    options: Annotated[WebpOptions | None, LEFT_OUT] = None


ConvertOutput = Annotated[JpegOutput | WebpOutput, Field(discriminator="format")]
