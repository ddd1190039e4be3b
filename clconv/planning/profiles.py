"""What planning knows about a device: plain numbers, so that it needs no OpenCL."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

from clconv.errors import DeviceError

__all__ = [
    "PROFILES",
    "DeviceProfile",
    "has_full_width",
    "launch_seconds",
    "processor",
    "profile",
    "refined",
    "with_core",
]


@dataclass(frozen=True)
class DeviceProfile:
    """A device in plain numbers, of which planning needs no more. Sizes are in bytes.

    Attributes:
        name: the profile's name.
        kind: "cpu" or "gpu"; accelerators count as GPUs.
        compute_units: a CPU's cores, a GPU's compute units.
        lanes: how many work-items run in lock step.
        vector_floats: how many float32 a CPU's vector register holds, 1 where work-items are the
            lanes.
        max_work_group_size: the most work-items of a work-group.
        max_work_item_sizes: the most along each axis.
        local_bytes: local memory that one work-group may have.
        global_bytes: the device's memory.
        max_alloc_bytes: the largest allocation.
        fp64: whether there is float64.
        half_builtins: whether vload_half is a conversion instruction there rather than a call.
        native_half: whether the driver has half arithmetic, whose conversions of single values are
            instructions too.
        instruction_sets: those that functions have to ask a CPU's compiler for, before vectors of
            16 floats are one register; "" where none need to.
        multiply_add_bytes: bytes of vectors that a core multiplies and adds in a cycle.
        load_bytes: bytes of vectors that a core loads in a cycle.
        vectors_a_cycle: how many vectors of either at most, however narrow they are.
        core_registers: a core's vector registers, 0 where it has those of x86-64: 32 for vectors of
            64 bytes, else 16.
        l1_bytes: a core's first data cache.
        l2_bytes: its second.
        l3_bytes: the third, of all cores that share one.
        clock: its cycles a second.
        unit_local_bytes: local memory that the work-groups of a GPU's compute unit share.
        unit_registers: its 32-bit registers.
        unit_items: how many work-items it holds at once.
        unit_groups: how many work-groups it holds at once.
        item_registers: how many registers a work-item may use before others have to stay away.
        address_registers: how many the compiler spends on indices and addresses in a loop that
            copies eight elements a work-item.
        read_floats: how many float32 a work-item should read from local memory at once.
        fetch_together: how many elements a work-item may copy at once without spilling.
        reported_units: what OpenCL counts as compute units of one of them.
        local_pays: whether local memory is faster than the cache.
        flops: peak of float32 a second, a multiply-add counts two; 0 where not known.
        bandwidth: peak of bytes a second; 0 where not known.
        launch_seconds: what queueing a kernel and waking who runs it takes.
        architecture: the name of the profile with its kind of cores or compute units, "" where that
            is not known.
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
    native_half: bool = False
    instruction_sets: str = ""
    multiply_add_bytes: int = 64
    load_bytes: int = 64
    vectors_a_cycle: int = 4
    core_registers: int = 0
    l1_bytes: int = 32 << 10
    l2_bytes: int = 512 << 10
    l3_bytes: int = 32 << 20
    clock: float = 2e9
    unit_local_bytes: int = 65536
    unit_registers: int = 65536
    unit_items: int = 1024
    unit_groups: int = 16
    item_registers: int = 128
    address_registers: int = 40
    read_floats: int = 4
    fetch_together: int = 8
    reported_units: int = 1
    local_pays: bool = True
    flops: float = 0.0
    bandwidth: float = 0.0
    launch_seconds: float = 5e-6
    architecture: str = ""

    def __post_init__(self) -> None:
        if self.kind not in ("cpu", "gpu"):
            raise DeviceError(f"kind is {self.kind!r}, expected 'cpu' or 'gpu'")

    @property
    def vector_registers(self) -> int:
        """Vector registers of a CPU's core."""
        return self.core_registers or (32 if self.vector_floats >= 16 else 16)

    @property
    def full_width(self) -> bool:
        """Whether a CPU's core multiplies and adds vectors of 64 bytes as often as those of 32."""
        return self.multiply_add_bytes >= 128

    @property
    def asked_for(self) -> str:
        """`instruction_sets` where the vectors are those that have to be asked for, else ""."""
        return self.instruction_sets if self.vector_floats == 16 else ""

    def asking(self) -> DeviceProfile:
        """The device as functions find it that ask for its widest vectors."""
        return replace(self, vector_floats=16) if self.instruction_sets else self

    @property
    def peak_flops(self) -> float:
        """`flops`; where it is not known that of a CPU's cores, or of a GPU a guess of the right
        order, for comparisons alone."""
        if self.vector_floats > 1:
            a_cycle = self.multiply_add_bytes // 4 * 2
            return self.flops or self.compute_units * a_cycle * self.clock
        return self.flops or self.compute_units * 128 * 2 * 1.2e9

    @property
    def peak_bandwidth(self) -> float:
        """`bandwidth`; where it is not known the share of the peak that is common."""
        return self.bandwidth or self.peak_flops / 32

    def within(self, own: DeviceProfile) -> DeviceProfile:
        """The same within the limits of another, so that a device with the profile `own` can run
        what is planned for this one."""
        sizes = zip(self.max_work_item_sizes, own.max_work_item_sizes, strict=True)
        first, second, third = map(min, sizes)
        return replace(
            self,
            max_work_group_size=min(self.max_work_group_size, own.max_work_group_size),
            max_work_item_sizes=(first, second, third),
            local_bytes=min(self.local_bytes, own.local_bytes),
            global_bytes=min(self.global_bytes, own.global_bytes),
            max_alloc_bytes=min(self.max_alloc_bytes, own.max_alloc_bytes),
            fp64=self.fp64 and own.fp64,
        )

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
    **unit: Any,
) -> DeviceProfile:
    return DeviceProfile(
        name,
        "gpu",
        compute_units,
        architecture=name,
        lanes=lanes,
        max_work_group_size=work_group,
        max_work_item_sizes=(work_group, work_group, min(work_group, 1024)),
        local_bytes=local_bytes,
        global_bytes=8 << 30,
        max_alloc_bytes=2 << 30,
        fp64=fp64,
        **unit,
    )


def _amd(
    name: str, compute_units: int, lanes: int, registers: int, items: int, **rest: Any
) -> DeviceProfile:
    # Compute units, wavefronts, 64 KiB of local memory a compute unit (128 a pair in RDNA) and the
    # size of the vector registers: "AMD GPU specifications" in AMD's ROCm documentation. Registers
    # and waves a SIMD: LLVM's "User Guide for AMDGPU Backend" and AMD's "Instruction Set
    # Architecture" reference guides. 256 is what AMD's OpenCL reports as the largest work-group.
    # Estimates: 16 work-groups a unit, and that more than 128 registers keep other waves away.
    return _gpu(
        name,
        compute_units,
        lanes,
        64 << 10,
        work_group=256,
        unit_registers=registers,
        unit_items=items,
        **rest,
    )


def _nvidia(
    name: str, compute_units: int, local: int, items: int, groups: int, **rest: Any
) -> DeviceProfile:
    # Registers (64 K), threads, blocks and shared memory of a multiprocessor: "CUDA C++ Programming
    # Guide", table "Technical Specifications per Compute Capability" (for 12.0 the "Blackwell
    # Tuning Guide" says 32 blocks and 128 KiB instead). NVIDIA's OpenCL gives a work-group 48 KiB.
    # fetch_together is from ptxas's own report of spills.
    return _gpu(
        name,
        compute_units,
        32,
        48 << 10,
        unit_local_bytes=local,
        unit_items=items,
        unit_groups=groups,
        fetch_together=4,
        **rest,
    )


def _intel(
    name: str, compute_units: int, units: int, threads: int, local: int, **rest: Any
) -> DeviceProfile:
    # A compute unit is a (sub)slice or Xe core here, of `units` vector engines with `threads`
    # threads, each of 128 registers of 32 bytes: 128 floats a work-item where 8 share a thread,
    # whether it uses them or not. "oneAPI GPU Optimization Guide", chapter "Intel Xe GPU
    # Architecture" (Xe-LP: 16 EUs, 7 threads, 128 KB; Xe-HPG: 16 engines, 8 threads), and for Gen9
    # (8 EUs, 7 threads, 64 KB) "The Compute Architecture of Intel Processor Graphics Gen9".
    # Estimates: 16 work-groups a unit, and address_registers, which the compiler's report bears
    # out.
    return _gpu(
        name,
        compute_units,
        16,
        64 << 10,
        unit_local_bytes=local,
        unit_items=units * threads * 8,
        unit_registers=units * threads * 8 * 128,
        address_registers=16,
        reported_units=units,
        **rest,
    )


# A core that works on 64 bytes as often as on 32: two multiply-adds and two loads a cycle.
FULL_WIDTH = {"multiply_add_bytes": 128, "load_bytes": 128, "vectors_a_cycle": 2}


def _cpu(name: str, compute_units: int, vector_floats: int, **core: Any) -> DeviceProfile:
    return DeviceProfile(
        name,
        "cpu",
        compute_units,
        architecture=name,
        lanes=1,
        vector_floats=vector_floats,
        max_work_group_size=4096,
        max_work_item_sizes=(4096, 4096, 4096),
        local_bytes=256 << 10,
        global_bytes=8 << 30,
        max_alloc_bytes=2 << 30,
        fp64=True,
        half_builtins=False,
        **core,
    )


# Devices to plan for without having them. A CPU is two cores of a server, as PoCL drives them, but
# "neon", which is a notebook's. A GPU has the figures of one common card of the architecture:
# compute units, boost FLOP/s and memory bandwidth as the vendor states them, on the page of the
# card that is named. Where the vendor states clock and width alone, FLOP/s are their product, two
# for each multiply-add. No GPU's peak has been measured.
PROFILES = {
    p.name: p
    for p in (
        # AVX2 without AVX-512: two multiply-adds and two loads a cycle, of 32 bytes ("Software
        # Optimization Guide for the AMD Zen3 Microarchitecture", "Intel 64 and IA-32 Architectures
        # Optimization Reference Manual"). Smallest common caches and clock; what is not known of
        # another processor is taken from here. Bandwidth: measured, a copy by two cores.
        _cpu("cpu", 2, 8, bandwidth=55e9, launch_seconds=28e-6),
        # AVX-512 at half width: a vector of 64 bytes takes the units for two cycles ("Software
        # Optimization Guide for the AMD Zen4 Microarchitecture"). Clock and bandwidth: measured on
        # an EPYC 9004, 233 GFLOP/s and a copy of 55 GB/s by two cores.
        _cpu(
            "zen4",
            2,
            8,
            instruction_sets="avx512f,avx512vl,avx512bw,avx512dq",
            l2_bytes=1 << 20,
            clock=3.64e9,
            bandwidth=55e9,
            launch_seconds=28e-6,
        ),
        # AVX-512 at full width: "Software Optimization Guide for the AMD Zen5 Microarchitecture".
        # Clock and bandwidth: measured on an EPYC 9005, 537 GFLOP/s and a copy of 42 GB/s by two
        # cores. Intel's servers have such cores too, with caches of their own.
        _cpu(
            "zen5",
            2,
            16,
            **FULL_WIDTH,
            l1_bytes=48 << 10,
            l2_bytes=1 << 20,
            clock=4.2e9,
            bandwidth=42e9,
            launch_seconds=28e-6,
        ),
        # Never run. Four multiply-adds and three loads a cycle, of 16 bytes ("Apple Silicon CPU
        # Optimization Guide"), 32 registers ("Arm Architecture Reference Manual for A-profile").
        # "MacBook Air (M1, 2020)" (apple.com): four performance cores; their caches, clock and
        # 68 GB/s are estimates from what the system reports.
        _cpu(
            "neon",
            4,
            4,
            load_bytes=48,
            core_registers=32,
            l1_bytes=128 << 10,
            l2_bytes=3 << 20,
            clock=3.2e9,
            bandwidth=68e9,
            launch_seconds=28e-6,
        ),
        _gpu("gpu", 16, 32, 32768, work_group=256),
        # "AMD Radeon VII" (amd.com): 60 CUs, 13.8 TFLOPS at the peak clock of 1.8 GHz, 1 TB/s.
        # "Vega 7nm Instruction Set Architecture": 256 registers of 64 lanes a SIMD and 10 waves,
        # 4 SIMDs.
        _amd("gfx906", 60, 64, 64 << 10, 2560, flops=13.8e12, bandwidth=1024e9),
        # "AMD Instinct MI210 Accelerator" (amd.com): 104 CUs, 1.6 TB/s, 22.6 TFLOPS of vectors;
        # twice that with packed float32: "AMD CDNA 2 Architecture" (white paper). "CDNA2
        # Instruction Set Architecture": 512 registers, 8 waves.
        _amd("gfx90a", 104, 64, 128 << 10, 2048, flops=45.3e12, bandwidth=1638e9),
        # "AMD Instinct MI300X Accelerators" (amd.com): 304 CUs, 163.4 TFLOPS, 5.3 TB/s. "CDNA3
        # Instruction Set Architecture": 512 registers, 8 waves.
        _amd("gfx942", 304, 64, 128 << 10, 2048, flops=163.4e12, bandwidth=5300e9),
        # "AMD Radeon RX 6800" (amd.com): 60 CUs, 16.17 TFLOPS, 512 GB/s. "RDNA2 Instruction Set
        # Architecture": 1024 registers of 32 lanes a SIMD and 16 waves, 2 SIMDs a CU.
        _amd("gfx1030", 60, 32, 64 << 10, 1024, flops=16.17e12, bandwidth=512e9),
        # "AMD Radeon RX 7900 XTX" (amd.com): 96 CUs, 61.4 TFLOPS by dual issue, 960 GB/s. "RDNA3
        # Instruction Set Architecture": 1536 registers, 16 waves.
        _amd("gfx1100", 96, 32, 96 << 10, 1024, flops=61.4e12, bandwidth=960e9),
        # "AMD Radeon RX 9070 XT" (amd.com): 64 CUs, 48.7 TFLOPS by dual issue, 640 GB/s. "RDNA4
        # Instruction Set Architecture": 1536 registers, 16 waves.
        _amd("gfx1201", 64, 32, 96 << 10, 1024, flops=48.7e12, bandwidth=640e9),
        # "GeForce RTX 2070" (nvidia.com): 2304 cores, 1.62 GHz, 448 GB/s. "NVIDIA Turing GPU
        # Architecture" (white paper): 64 cores a SM, so 36 of them.
        _nvidia("sm_75", 36, 64 << 10, 1024, 16, flops=7.46e12, bandwidth=448e9),
        # "GeForce RTX 3060 Family" (nvidia.com): 3584 cores, 1.78 GHz, 192 bits of 15 Gbit/s.
        # "NVIDIA Ampere GA102 GPU Architecture" (white paper): 128 cores a SM, so 28.
        _nvidia("sm_86", 28, 100 << 10, 1536, 16, flops=12.7e12, bandwidth=360e9),
        # "NVIDIA H100 Tensor Core GPU" (data sheet, SXM): 67 TFLOPS, 3.35 TB/s. "NVIDIA H100 Tensor
        # Core GPU Architecture" (white paper): 132 SMs.
        _nvidia("sm_90", 132, 228 << 10, 2048, 32, flops=67e12, bandwidth=3350e9),
        # "GeForce RTX 5070 Family" (nvidia.com): 6144 cores, 2.51 GHz, 672 GB/s. "NVIDIA RTX
        # Blackwell GPU Architecture" (white paper): 128 cores a SM, so 48.
        _nvidia("sm_120", 48, 100 << 10, 1536, 24, flops=30.8e12, bandwidth=672e9),
        # HD Graphics 530 of "Intel Core i7-6700K Processor" (ark.intel.com): 1.15 GHz, two channels
        # of DDR4-2133, 34.1 GB/s. "The Compute Architecture of Intel Processor Graphics Gen9": 24
        # EUs with 16 FLOP a cycle, in 3 subslices.
        _intel("skl", 3, 8, 7, 64 << 10, work_group=256, flops=0.442e12, bandwidth=34.1e9),
        # Iris Xe of "Intel Core i7-1185G7 Processor" (ark.intel.com): 96 EUs at 1.35 GHz,
        # LPDDR4x-4267 on 128 bits, 68.3 GB/s. "Intel Xe GPU Architecture": 6 dual subslices, 16
        # FLOP a cycle.
        _intel(
            "tgllp",
            6,
            16,
            7,
            128 << 10,
            work_group=512,
            fp64=False,
            flops=2.07e12,
            bandwidth=68.3e9,
        ),
        # "Intel Arc A770 Graphics" (ark.intel.com, of 16 GB): 32 Xe cores, 2.1 GHz, 560 GB/s.
        # "Intel Xe GPU Architecture": 16 engines a core, 16 FLOP a cycle.
        _intel("acm-g10", 32, 16, 8, 128 << 10, fp64=False, flops=17.2e12, bandwidth=560e9),
    )
}


# Intel's server processors with two units for multiply-adds of 64 bytes: Skylake-SP to Cooper Lake,
# Ice Lake-SP, Sapphire, Emerald and Granite Rapids ("Intel 64 and IA-32 Architectures Optimization
# Reference Manual"). None of them was measured.
FULL_WIDTH_INTEL = frozenset((0x55, 0x6A, 0x6C, 0x8F, 0xCF, 0xAD, 0xAE))
# AMD's Zen 5 has them ("Software Optimization Guide for the AMD Zen5 Microarchitecture"; seen on
# EPYC 9005), but not in the notebooks' chips of these models; Zen 4 has half the width throughout.
ZEN_5_FAMILY = 26
HALF_WIDTH = {
    25: (range(0x10, 0x20), range(0x60, 0x80), range(0xA0, 0xB0)),
    ZEN_5_FAMILY: (range(0x20, 0x30), range(0x60, 0x70)),
}
# What follows from a CPU's core, and not from its driver or system.
CORE_FACTS = (
    "architecture", "multiply_add_bytes", "load_bytes", "vectors_a_cycle", "core_registers",
    "l1_bytes", "l2_bytes", "clock",
)  # fmt: skip


def has_full_width(vendor: str, family: int, model: int) -> bool:
    """Whether a processor's cores work on 64 bytes as often as on 32, by what CPUID says of it."""
    if vendor == "AuthenticAMD":
        half = any(model in models for models in HALF_WIDTH.get(family, ()))
        return family >= ZEN_5_FAMILY and not half
    return vendor == "GenuineIntel" and family == 6 and model in FULL_WIDTH_INTEL


def processor(vendor: str, family: int, model: int, machine: str) -> str:
    """The profile that has a processor's kind of core, by what CPUID and the system say of it."""
    if machine.lower() in ("aarch64", "arm64"):
        return "neon"
    if has_full_width(vendor, family, model):
        return "zen5"
    half = HALF_WIDTH.get(family, ()) if vendor == "AuthenticAMD" else ()
    return "zen4" if any(model in models for models in half) else "cpu"


# What a launch takes until it runs, by the OpenCL platform: one small kernel, called and waited
# for, measured on two cores of Zen 5. Others: an estimate of the order that vendors' tools show.
LAUNCHES = ((r"Portable Computing Language", 28e-6), (r"Intel\(R\) OpenCL$", 7e-6))
OTHER_LAUNCH = 5e-6


def launch_seconds(platform: str) -> float:
    """Seconds of a launch by a platform of this name."""
    return next((took for name, took in LAUNCHES if re.search(name, platform)), OTHER_LAUNCH)


# Which profile's architecture a GPU has, by its name in OpenCL: AMD says gfx1030 or
# gfx90a:sramecc+:xnack-, and NVIDIA's names get sm_86 from the compute capability.
ARCHITECTURES = (
    (r"gfx90[0-6]\b", "gfx906"),
    (r"gfx90[8a]\b", "gfx90a"),
    (r"gfx94\d\b", "gfx942"),
    (r"gfx10\d\d\b", "gfx1030"),
    (r"gfx11\d\d\b", "gfx1100"),
    (r"gfx12\d\d\b", "gfx1201"),
    (r"sm_7\d\b", "sm_75"),
    (r"sm_8\d\b", "sm_86"),
    (r"sm_(9\d|10\d)\b", "sm_90"),
    (r"sm_12\d\b", "sm_120"),
    (r"Arc.* A\d{3}", "acm-g10"),
    (r"Iris.* Xe|UHD Graphics 7\d\d", "tgllp"),
    (r"Iris.* Graphics [56]\d\d|HD Graphics [56]\d\d", "skl"),
)

# The same by the names that cards are sold under, without spaces and hyphens.
CARDS = (
    (r"radeonvii|mi[56]0", "gfx906"),
    (r"mi2[15]0", "gfx90a"),
    (r"mi3\d\d", "gfx942"),
    (r"rx6\d\d0", "gfx1030"),
    (r"rx7\d\d0", "gfx1100"),
    (r"rx90\d0", "gfx1201"),
    (r"rtx20\d0|gtx16\d0|teslat4", "sm_75"),
    (r"rtx[34]0\d0|rtxa\d000", "sm_86"),
    (r"h[12]00", "sm_90"),
    (r"rtx50\d0", "sm_120"),
    (r"arca\d{3}", "acm-g10"),
    (r"irisxe", "tgllp"),
)


def with_core(reported: DeviceProfile, name: str) -> DeviceProfile:
    """What OpenCL reports of a CPU, with what is known of the cores that the profile `name` has."""
    known = PROFILES[name]
    return replace(reported, **{field: getattr(known, field) for field in CORE_FACTS})


def refined(reported: DeviceProfile, name: str) -> DeviceProfile:
    """What OpenCL reports of a GPU, with what is known of the architecture that `name` tells."""
    found = [known for pattern, known in ARCHITECTURES if re.search(pattern, name)]
    if reported.kind != "gpu" or not found:
        return reported
    known = PROFILES[found[0]]
    units = max(1, reported.compute_units // known.reported_units)
    return replace(
        known,
        name=reported.name,
        compute_units=units,
        max_work_group_size=reported.max_work_group_size,
        max_work_item_sizes=reported.max_work_item_sizes,
        local_bytes=reported.local_bytes,
        global_bytes=reported.global_bytes,
        max_alloc_bytes=reported.max_alloc_bytes,
        fp64=reported.fp64,
        flops=known.flops * units / known.compute_units,
        launch_seconds=reported.launch_seconds,
    )


def profile(name: str) -> DeviceProfile:
    """The profile of this name, or of the architecture of the GPU or card that it names;
    DeviceError that lists the names otherwise."""
    if name in PROFILES:
        return PROFILES[name]
    card = re.sub(r"[\s-]", "", name.lower())
    for known, text in ((ARCHITECTURES, name), (CARDS, card)):
        for pattern, its_profile in known:
            if re.search(pattern, text):
                return PROFILES[its_profile]
    raise DeviceError(
        f"no device profile {name!r}, expected one of {', '.join(PROFILES)}, or a card, such as "
        "'RTX 3080'"
    )
