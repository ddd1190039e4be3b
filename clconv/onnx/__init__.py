"""ONNX models on an OpenCL device: a backend, and where each node of a model runs."""

from clconv.errors import missing

try:
    from clconv.onnx.backend import Backend, Prepared
    from clconv.onnx.reporting import report
except ModuleNotFoundError as error:
    raise missing(error, "clconv.onnx", onnx="onnx", google="onnx") from None

__all__ = ["Backend", "Prepared", "report"]
