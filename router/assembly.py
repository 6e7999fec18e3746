"""Which parts the process is made of; the one place that knows them all."""

from router.parts import PartBuilder

PARTS: tuple[PartBuilder, ...] = ()
