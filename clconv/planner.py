"""A shorter name of `clconv.planning.planner`."""

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
