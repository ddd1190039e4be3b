"""ONNX models on an OpenCL device: a backend, and where each node of a model runs."""

from clconv.onnx.backend import Backend, Prepared

__all__ = ["Backend", "Prepared"]
