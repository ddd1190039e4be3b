"""Drivers and devices: which there are, which of them build, and what they built."""
