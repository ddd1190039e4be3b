"""What planning knows about a device: plain numbers, so that it needs no OpenCL."""

from __future__ import annotations

from dataclasses import dataclass, replace

from clconv.errors import DeviceError

__all__ = ["PROFILES", "DeviceProfile", "profile"]


@dataclass(frozen=True)
class DeviceProfile:
    """A device in plain numbers.

    `kind` is "cpu" or "gpu" (accelerators count as GPUs); `vector_floats` is how many float32 a
    CPU's vector register holds, 1 where work-items are the lanes; `lanes` is how many work-items
    run in lock step; `half_builtins` tells whether vload_half is a conversion instruction there
    rather than a call. `l1_bytes` and `l2_bytes` are a CPU core's data caches. Sizes are in bytes.

    Of a GPU's compute unit: `unit_local_bytes` is the local memory that its work-groups share
    (`local_bytes` is what one may have), `unit_registers` its 32-bit registers, `unit_items` and
    `unit_groups` how many work-items and work-groups it holds at once. `item_registers` is how many
    registers a work-item may use before others have to stay away. `read_floats` is how many
    float32 a work-item should read from local memory at once; `local_pays` tells whether local
    memory is faster than the cache. `flops` (float32, a multiply-add counts two) and `bandwidth`
    (bytes) are peaks a second, 0 where they are not known.
    """

    name: str
    kind: str
    compute_units: int
    lanes: int = 32
    vector_floats: int = 1
    max_work_group_size: int = 256
    max_work_item_sizes: tuple[int, int, int] = (256, 256, 64)
    local_bytes: int = 32768
    global_bytes: int = 1 << 30
    max_alloc_bytes: int = 1 << 28
    fp64: bool = False
    half_builtins: bool = True
    l1_bytes: int = 32 << 10
    l2_bytes: int = 512 << 10
    unit_local_bytes: int = 65536
    unit_registers: int = 65536
    unit_items: int = 1024
    unit_groups: int = 16
    item_registers: int = 128
    read_floats: int = 4
    local_pays: bool = True
    flops: float = 0.0
    bandwidth: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in ("cpu", "gpu"):
            raise DeviceError(f"kind is {self.kind!r}, expected 'cpu' or 'gpu'")

    @property
    def vector_registers(self) -> int:
        """Vector registers of a CPU's core: AVX-512 has 32, others 16."""
        return 32 if self.vector_floats >= 16 else 16

    @property
    def peak_flops(self) -> float:
        """`flops`; where it is not known a guess of the right order, for comparisons alone."""
        return self.flops or self.compute_units * 128 * 2 * 1.2e9

    @property
    def peak_bandwidth(self) -> float:
        """`bandwidth`; where it is not known the share of the peak that is common on GPUs."""
        return self.bandwidth or self.peak_flops / 32

    def with_limits(self, max_work_group_size: int) -> DeviceProfile:
        """The same device with smaller work-groups."""
        return replace(
            self,
            max_work_group_size=max_work_group_size,
            max_work_item_sizes=(max_work_group_size,) * 3,
        )


def _gpu(
    name: str,
    compute_units: int,
    lanes: int,
    local_bytes: int,
    *,
    fp64: bool = True,
    work_group: int = 1024,
) -> DeviceProfile:
    return DeviceProfile(
        name,
        "gpu",
        compute_units,
        lanes=lanes,
        max_work_group_size=work_group,
        max_work_item_sizes=(work_group, work_group, min(work_group, 1024)),
        local_bytes=local_bytes,
        global_bytes=8 << 30,
        max_alloc_bytes=2 << 30,
        fp64=fp64,
    )


# Devices to plan for without having them. Compute units of one common card of the architecture:
# Radeon RX 6800 (60), GeForce RTX 3060 (28 multiprocessors), Arc A770 (32 Xe cores).
PROFILES = {
    p.name: p
    for p in (
        DeviceProfile(
            "cpu",
            "cpu",
            2,
            lanes=1,
            vector_floats=8,
            max_work_group_size=4096,
            max_work_item_sizes=(4096, 4096, 4096),
            local_bytes=256 << 10,
            global_bytes=8 << 30,
            max_alloc_bytes=2 << 30,
            fp64=True,
            half_builtins=False,
        ),
        _gpu("gpu", 16, 32, 32768, work_group=256),
        _gpu("gfx1030", 60, 32, 65536, work_group=256),
        _gpu("sm_86", 28, 32, 49152),
        _gpu("acm-g10", 32, 16, 65536, fp64=False),
    )
}


def profile(name: str) -> DeviceProfile:
    """The profile of this name; DeviceError that lists the names otherwise."""
    if name not in PROFILES:
        raise DeviceError(f"no device profile {name!r}, expected one of {', '.join(PROFILES)}")
    return PROFILES[name]
