"""ONNX models on an OpenCL device: a backend, and where each node of a model runs."""

from clconv.onnx.backend import Backend, Prepared
from clconv.onnx.reporting import report

__all__ = ["Backend", "Prepared", "report"]
