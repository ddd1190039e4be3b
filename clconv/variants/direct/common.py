"""What do the portable variant's passes share? Registers, constants, shares of the work, its
price."""

from __future__ import annotations

from clconv.dtypes import is_short
from clconv.planning import cost
from clconv.planning.cost import Cost, Sums, Tally
from clconv.variants.base import Constants, Request, kernel_constants

__all__ = ["modelled", "portable_constants", "registers", "shares_of", "tap"]

# Positions of one batch element that a share of a weight gradient takes at once.
UNIT_LENGTHS = (64, 2048)


def portable_constants(request: Request, lanes: int) -> Constants:
    """What common.cl.mako needs. The loads and stores of this variant are many and small: where a
    driver has instructions to convert them, integer arithmetic instead takes a compiler seconds."""
    device = request.device
    half_builtins = device.half_builtins or device.native_half
    return kernel_constants(device, request.problem.dtype, lanes, half_builtins)


def registers(request: Request) -> int:
    """Sums that a work-item may keep in registers, with room for what it loads."""
    if request.device.vector_floats == 1:
        return 16
    # Converting 16 bits takes some of them.
    wide = request.device.vector_registers == 32 and not is_short(request.problem.dtype)
    return 24 if wide else 12


def tap(request: Request, sums: int, weights: int, loads: float) -> Sums:
    """What a tap of a tile takes: vectors of sums, weights to all lanes, vectors loaded."""
    return cost.portable_tap(cost.portable_width(request.device), sums, weights, loads)


def modelled(request: Request, sums: Sums, taps: float, *, overlapped: bool = False) -> Cost:
    """Of so many taps a position. On CPUs what comes and goes takes its time too, beside the sums
    where these read on and on, else after them."""
    problem, device = request.problem, request.device
    tally = Tally()
    tally.sums(sums, taps)
    positions = problem.batch * problem.positions(request.pass_)
    unit = positions * cost.portable_seconds(device)
    if device.vector_floats == 1:
        return tally.cost(unit)
    samples = problem.in_channels * problem.stride + problem.out_channels
    moving = samples * problem.dtype.itemsize / cost.PORTABLE_BYTES
    if overlapped:
        return tally.cost(unit).bounded(unit * moving)
    tally.add("memory", moving)
    return tally.cost(unit)


def shares_of(request: Request, tiles: int, most_bytes: float, share_bytes: int) -> tuple[int, int]:
    """(unit length, units) so many that the shares can keep the device busy, and how many may be.

    Too few weights for the device means many shares; workspace limits them.
    """
    problem, device = request.problem, request.device
    wanted = device.compute_units * (4 if device.vector_floats > 1 else 16 * device.lanes)
    shares = max(1, min(-(-wanted // max(tiles, 1)), int(most_bytes // share_bytes)))
    per_share = -(-problem.batch * problem.out_length // shares)
    low, high = UNIT_LENGTHS
    return min(max(per_share, low), high), shares
