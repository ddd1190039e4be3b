"""The planner by its first name: `clconv.planning.planner` has it."""

from __future__ import annotations

from clconv.planning.planner import (
    Choice,
    KernelPlan,
    candidates,
    chosen_first,
    designs,
    plans,
    serving,
)

__all__ = ["Choice", "KernelPlan", "candidates", "chosen_first", "designs", "plans", "serving"]
