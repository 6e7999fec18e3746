"""Which parts the process is made of; the one place that knows them all."""

from router.page import page
from router.parts import PartBuilder
from router.relay.part import relay
from router.scaling.part import scaling
from router.wire import wire

PARTS: tuple[PartBuilder, ...] = (wire, page, relay, scaling)
