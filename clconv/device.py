"""The profiles of devices by their first name: `clconv.planning.profiles` has them."""

from __future__ import annotations

from clconv.planning.profiles import PROFILES, DeviceProfile, has_full_width, profile, refined

__all__ = ["PROFILES", "DeviceProfile", "has_full_width", "profile", "refined"]
