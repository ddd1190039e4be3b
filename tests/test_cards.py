"""GPUs: those that no driver shows, and those whose driver calls them by another name."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pyopencl as cl
import pytest

from clconv import DeviceError
from clconv.commands import devices as command
from clconv.drivers import cards, discovery
from clconv.drivers.discovery import DeviceInfo, Found

AMD, NVIDIA, INTEL, ASPEED = "0x1002", "0x10de", "0x8086", "0x1a03"


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Makes a machine of PCI devices (class, vendor), with render nodes and .icd files."""

    def make(*devices, nodes=("renderD128",), icds=(), **environment):
        for name in ("RUSTICL_ENABLE", "OCL_ICD_VENDORS"):
            monkeypatch.delenv(name, raising=False)
        pci, dri, vendors = (tmp_path / name for name in ("pci", "dri", "vendors"))
        for folder in (pci, dri, vendors):
            folder.mkdir()
        for i, (kind, vendor) in enumerate(devices):
            (pci / f"0000:0{i}:00.0").mkdir()
            (pci / f"0000:0{i}:00.0/class").write_text(f"{kind}\n")
            (pci / f"0000:0{i}:00.0/vendor").write_text(f"{vendor}\n")
        for name in nodes:
            (dri / name).touch()
        for name in icds:
            (vendors / name).touch()
        monkeypatch.setattr(cards, "PCI", pci)
        monkeypatch.setattr(cards, "NODES", dri)
        monkeypatch.setenv("OPENCL_VENDOR_PATH", str(vendors))
        for name, value in environment.items():
            monkeypatch.setenv(name, value)

    return make


def info(place, name, platform, kind, **more):
    """A device as a driver describes it."""
    fields = {
        "id": f"{place}:0", "index": place, "name": name, "board": "", "vendor": "one",
        "platform": platform, "kind": kind, "version": "OpenCL 3.0", "driver": "1",
        "compute_units": 2, "global_bytes": 1 << 30, "local_bytes": 1 << 15,
        "max_work_group_size": 256, "fp16": False, "fp64": True, "is_default": place == 0,
        "why_not": None,
    }  # fmt: skip
    return DeviceInfo(**{**fields, **more})


ROCM = info(
    0, "gfx1101", "AMD Accelerated Parallel Processing", "discrete GPU",
    board="AMD Radeon RX 7700 XT", vendor="Advanced Micro Devices, Inc.",
)  # fmt: skip
EPYC = info(1, "AMD EPYC", "Intel(R) OpenCL", "CPU", vendor="Intel(R) Corporation")


def test_what_is_hidden(machine):
    """Only GPUs, of makers with OpenCL, and only where no driver shows one of theirs."""
    machine(("0x030000", AMD), ("0x030200", NVIDIA), ("0x020000", INTEL), ("0x030000", ASPEED))
    told = cards.hidden([])
    assert [line.split("GPU of ")[1].split("'s")[0] for line in told] == ["AMD", "NVIDIA"]
    assert "rocm-opencl-icd" in told[0]
    assert "nvidia-opencl-icd" in told[1]
    assert cards.hidden(["Advanced Micro Devices, Inc.", "NVIDIA Corporation"]) == []
    assert len(cards.hidden(["AMD"])) == 1
    # A CPU of the maker's is no GPU of its.
    assert len(discovery.hidden_gpus([EPYC])) == 2
    assert len(discovery.hidden_gpus([ROCM, EPYC])) == 1


def test_why_it_is_hidden(machine, monkeypatch, tmp_path):
    """The first thing in the way is what is told."""
    machine(("0x120000", AMD), icds=("rusticl.icd",))
    (line,) = cards.hidden([])
    assert line.endswith("RUSTICL_ENABLE=radeonsi set")
    monkeypatch.setenv("RUSTICL_ENABLE", "iris,radeonsi")
    assert "RUSTICL_ENABLE=radeonsi set" not in cards.hidden([])[0]
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert "usermod -aG render,video" in cards.hidden([])[0]
    (tmp_path / "dri/renderD128").unlink()
    assert "--device /dev/kfd" in cards.hidden([])[0]


def test_a_system_that_does_not_tell(machine, tmp_path, monkeypatch):
    """Nothing is made up."""
    machine(("0x030000", AMD))
    (tmp_path / "pci/0000:00:00.0/vendor").write_text("none")
    assert cards.hidden([]) == []
    monkeypatch.setattr(cards, "PCI", tmp_path / "no such folder")
    assert cards.hidden([]) == []


def test_who_is_told(machine, monkeypatch, capsys):
    """The list of devices, and errors about a device that is not there."""
    machine(("0x030000", AMD))
    monkeypatch.setattr(discovery, "find", lambda: [Found(EPYC, None)])
    monkeypatch.setattr(command, "devices", lambda: [EPYC])
    monkeypatch.delenv("CLCONV_DEVICE", raising=False)
    assert command.main([]) == 0
    assert "\nThis machine has a GPU of AMD's that no" in capsys.readouterr().err
    for wanted in ("gpu", "radeon"):
        with pytest.raises(DeviceError, match=r"none of: .*EPYC\. this machine has a GPU of AMD's"):
            discovery.meant(wanted)
    assert discovery.meant("cpu")[0].info is EPYC
    monkeypatch.setattr(discovery, "find", list)
    with pytest.raises(DeviceError, match=r"no OpenCL platform.*this machine has a GPU of AMD's"):
        discovery.meant()


def test_names_of_a_card(machine, monkeypatch, capsys):
    """AMD's driver calls a card by its architecture; what users call it finds it, too, and not a
    processor of the same maker."""
    machine()
    monkeypatch.setattr(discovery, "find", lambda: [Found(ROCM, None), Found(EPYC, None)])
    for wanted in ("gfx1101", "radeon", "RX 7700", "amd", "gpu", "accelerated parallel"):
        assert discovery.meant(wanted)[0].info is ROCM, wanted
    assert [one.info for one in discovery.meant("epyc")] == [EPYC]
    with pytest.raises(DeviceError, match=r"0 = 0:0 gfx1101 \(AMD Radeon RX 7700 XT\)"):
        discovery.meant("nvidia")
    monkeypatch.setattr(command, "devices", lambda: [ROCM, EPYC])
    assert command.main([]) == 0
    assert "gfx1101 (AMD Radeon RX 7700 XT)" in capsys.readouterr().out


def test_the_board_s_name():
    """Asked for only where the driver knows the question, which a device may still refuse."""
    assert discovery._board(SimpleNamespace(), ["cl_khr_fp64"]) == ""
    card = SimpleNamespace(name="gfx1101", board_name_amd="AMD Radeon RX 7700 XT ")
    assert discovery._board(card, ["cl_amd_device_attribute_query"]) == "AMD Radeon RX 7700 XT"

    class Refusing:
        name = "gfx1101"

        @property
        def board_name_amd(self):
            raise cl.LogicError("clGetDeviceInfo failed: INVALID_VALUE")

    assert discovery._board(Refusing(), ["cl_amd_device_attribute_query"]) == ""
