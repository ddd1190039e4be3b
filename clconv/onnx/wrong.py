"""Which nodes does `onnx.reference` compute wrongly? Found by `tools/check/onnx_nodes.py`."""

from __future__ import annotations

from clconv.onnx.graph import Node

__all__ = ["wrong_in_reference"]


def wrong_in_reference(node: Node) -> str | None:
    """What of a node comes out wrong there, None where nothing is known to."""
    return None
