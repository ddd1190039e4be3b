"""What do the attributes of Conv and ConvTranspose mean, as a Geometry?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from clconv.errors import ProblemError
from clconv.geometry import Geometry

__all__ = ["conv_geometry", "same_or_explicit", "transposed_geometry"]

SAME = ("SAME_UPPER", "SAME_LOWER")
AUTO_PADS = ("NOTSET", "VALID", *SAME)
Shape = tuple[int, ...]


def _integers(name: str, value: Sequence[int] | None, default: tuple[int, ...]) -> tuple[int, ...]:
    """An attribute of one spatial axis; ProblemError where it has more or fewer numbers."""
    if value is None:
        return default
    if len(value) != len(default):
        raise ProblemError(f"{name} is {list(value)}, expected {len(default)} for one spatial axis")
    return tuple(int(v) for v in value)


def _taps(shape: Shape, kernel_shape: Sequence[int] | None) -> int:
    if len(shape) != 3:
        raise ProblemError(f"W has shape {shape}, expected three dimensions, as X has")
    taps = int(shape[2])
    if kernel_shape is not None and tuple(kernel_shape) != (taps,):
        raise ProblemError(f"kernel_shape is {list(kernel_shape)}, expected {[taps]}, that of W")
    return taps


def _mode(auto_pad: str | None) -> str:
    mode = auto_pad or "NOTSET"
    if mode not in AUTO_PADS:
        raise ProblemError(f"auto_pad is {mode!r}, expected one of {', '.join(AUTO_PADS)}")
    return mode


def _geometry(
    strides: Sequence[int] | None,
    dilations: Sequence[int] | None,
    group: int | None,
    pads: Sequence[int] | None,
    mode: str,
) -> Geometry:
    """A convolution's attributes, without padding where the mode says something else."""
    (stride,) = _integers("strides", strides, (1,))
    (dilation,) = _integers("dilations", dilations, (1,))
    padding = _integers("pads", pads, (0, 0)) if mode == "NOTSET" else 0
    return Geometry(stride, padding, dilation, group or 1)


def same_or_explicit(geometry: Geometry, mode: str, length: int, taps: int) -> Geometry:
    """With the padding that SAME_UPPER or SAME_LOWER means for an input of that length."""
    if mode in SAME:
        return geometry.with_same_length(length, taps, mode == "SAME_LOWER")
    return geometry


def conv_geometry(x: Shape, w: Shape, attributes: Mapping[str, Any]) -> Geometry:
    """That of a Conv node with one spatial axis. Raises ProblemError."""
    get = attributes.get
    taps, mode = _taps(w, get("kernel_shape")), _mode(get("auto_pad"))
    geometry = _geometry(get("strides"), get("dilations"), get("group"), get("pads"), mode)
    return same_or_explicit(geometry, mode, x[2], taps)


def transposed_geometry(x: Shape, w: Shape, attributes: Mapping[str, Any]) -> Geometry:
    """That of a ConvTranspose node with one spatial axis. Raises ProblemError."""
    get = attributes.get
    taps, mode, length = _taps(w, get("kernel_shape")), _mode(get("auto_pad")), x[2]
    (extra,) = _integers("output_padding", get("output_padding"), (0,))
    sized = get("output_shape") is not None or mode in SAME
    # With an output_shape pads do not count.
    pads = None if sized else get("pads")
    geometry = _geometry(get("strides"), get("dilations"), get("group"), pads, mode)
    geometry = geometry._replace(transposed=True, output_padding=extra)
    if sized:
        same = (geometry.same_length(length),)
        (wanted,) = _integers("output_shape", get("output_shape"), same)
        geometry = geometry.with_out_length(length, taps, wanted, mode != "SAME_UPPER")
        most = geometry.longest_out_length(length, taps)
        if extra < geometry.output_padding and wanted > most:
            raise ProblemError(f"output_shape is {[wanted]}, expected at most {[most]}")
    return geometry
