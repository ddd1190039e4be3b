"""A shorter name of `clconv.planning.profiles`."""

from __future__ import annotations

from clconv.planning.profiles import PROFILES, DeviceProfile, has_full_width, profile, refined

__all__ = ["PROFILES", "DeviceProfile", "has_full_width", "profile", "refined"]
