"""The router's metrics, for the reference."""

from router.cases import Ending
from router.dispatch import Figures
from router.metrics import RouterMetrics
from router.model import Condition, Policy, Reason
from router.refusals import Refusal

_VALUES = {
    "`policy`": Policy,
    "`reason` of decisions": Reason,
    "`reason` of refusals and retries": Refusal,
    "`outcome` of requests": Ending,
    "`condition`": Condition,
}


def values() -> str:
    """The closed sets that labels are taken from."""
    return " ".join(f"{name}: {', '.join(f'`{one}`' for one in words)}." for name, words in _VALUES.items())


def exposition() -> str:
    """What ``GET /metrics`` of a router says when every family has a sample."""
    metrics = RouterMetrics()
    metrics.decided(Policy.HYBRID, Reason.EARLIEST_FINISH)
    metrics.ended(Ending.SUCCESS)
    metrics.refused(Refusal.FULL)
    metrics.relayed("wrapper", Ending.SUCCESS)
    metrics.rerouted(Refusal.FULL)
    metrics.desired("images", capacity=1.0, workers=1)
    metrics.fleet(
        Figures(
            endpoint="images",
            rate=0.0,
            capacity=0.0,
            waiting_count=0,
            waiting_work=0.0,
            given_count=0,
            given_work=0.0,
            foreign_load=0.0,
            workers={Condition.READY: 1},
            slow={},
            wait=None,
        )
    )
    return metrics.render()[0].decode()
