"""How much work a job is. Vast counts every ComfyUI job alike; so does this model."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ConstantCost:
    """A ``CostModel`` that gives each job the same workload, unless the caller's dialect fixed one."""

    workload: float

    def cost(self, spec_cost: float | None, workflow: bytes) -> float:
        """Return the job's workload in workload units."""
        return self.workload if spec_cost is None else spec_cost
