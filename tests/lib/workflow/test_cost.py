"""The constant cost model."""

from lib.workflow.cost import ConstantCost


def test_every_job_weighs_the_same_unless_told() -> None:
    """The setting decides; a dialect's own figure wins."""
    model = ConstantCost(workload=100.0)
    assert model.cost(None, b"{}") == 100.0
    assert model.cost(7.5, b"{}") == 7.5
