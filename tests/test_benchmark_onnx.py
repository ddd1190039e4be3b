"""What the benchmark of ONNX models says of its figures."""

from __future__ import annotations

import benchmark_onnx
from benchmark_onnx import Result, report


def result(ms, error=""):
    return Result([ms] * 3 if ms else [], [0.0] * 3 if ms else [], None if error else 1e-7, error)


def test_report():
    """Ratios, what is slower than wanted, and what failed."""
    told = report(
        {
            "TCN": {"clconv": result(1.2), "onnxruntime": result(1.5)},
            "ResNet": {"clconv": result(6.0), "onnxruntime": result(5.0)},
            "classifier": {"clconv": result(0.09), "onnxruntime": result(0.05)},
            "U-Net": {"clconv": result(None, "no room"), "onnxruntime": result(2.0)},
        }
    ).splitlines()
    assert "1.200" in told[1]
    assert "0.80" in told[1]
    assert told[-2] == "U-Net: clconv failed: no room"
    assert told[-1] == "slower than wanted: ResNet (1.20, wanted 1.1)"
    assert report({}).splitlines()[-1] == "all as fast as wanted"


def test_networks_can_be_built():
    """Each gives finite outputs of its input."""
    for name in ("ResNet", "InceptionTime", "classifier", "small TCN"):  # quick ones
        _, y = benchmark_onnx.exact_output(name)
        assert abs(y).max() < 1e3, name
