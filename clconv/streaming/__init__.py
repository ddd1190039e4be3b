"""Layers that take a signal in chunks, as it arrives, with the same result as for the whole signal.

A stream keeps the last samples, which later outputs need, on the device. Chunks may have any
length: it is an argument of the kernels, so nothing is compiled for it.
"""

from clconv.streaming.containers import StreamingParallel, StreamingSequential
from clconv.streaming.convolution import StreamingConv1D
from clconv.streaming.deconvolution import StreamingDeconv1D
from clconv.streaming.samples import StreamingActivation, StreamingPad1D, causal_padding
from clconv.streaming.stream import Stream

__all__ = [
    "Stream",
    "StreamingActivation",
    "StreamingConv1D",
    "StreamingDeconv1D",
    "StreamingPad1D",
    "StreamingParallel",
    "StreamingSequential",
    "causal_padding",
]
