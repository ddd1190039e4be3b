"""Do imports point one way, and do modules and templates keep to what is theirs?"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import clconv

PACKAGE = Path(clconv.__file__).parent
# Every module, each after those that it may import; "variants.*" stands for those of algorithms.
_ROOMS = (
    "errors", "version", "settings", "progress", "disk", "bounded", "dtypes", "geometry", "problem",
    "reference", "testing",
    "planning", "planning.profiles", "device", "planning.cost", "variants.base",
    "variants.cuts", "variants.products", "variants.schemes", "variants.batched",
    "variants.*",
    "variants", "render",
    "planning.planner", "planner", "planning.records", "planning.shipped",
    "planning.folding",
    "drivers", "drivers.binaries", "drivers.icd", "drivers.cards",
    "drivers.building", "drivers.probe", "drivers.discovery", "drivers.programs",
    "drivers.finished", "drivers.workers", "drivers.memory", "drivers.registry", "runtime",
    "rehearsal", "calls", "calls.copying", "calls.elementwise", "calls.rows", "gpuarray",
    "calls.layouts", "calls.host", "calls.options", "calls.prepared", "calls.draft",
    "calls.recipes", "calls.causal_kernels", "calls.causal", "calls.call", "sequences",
    "functional",
    "signal.asking", "signal.arrays", "signal.numbers", "signal.long", "signal.phases",
    "signal.sums", "signal.shaped",
    "signal.convolving", "signal.filtering", "signal.resampling", "signal.smoothing", "signal",
    "dask",
    "tuning.bench", "tuning.verifier", "tuning",
    "layers", "layers.copying", "layers.variable", "layers.storage", "layers.hdf5",
    "layers.module", "layers.initialisation", "layers.convolution", "conv1d", "layers.deconv1d",
    "layers.pad1d", "layers.activation", "layers.sequential", "layers.parallel",
    "streaming.pieces", "streaming.stream", "streaming.convolution",
    "streaming.deconvolution", "streaming.samples",
    "streaming.containers", "streaming",
    "files", "onnx.attributes", "onnx.evaluator", "onnx.devices", "onnx.graph", "onnx.patterns",
    "onnx.fused", "onnx.quantised", "onnx.wrong", "onnx.host", "onnx.recording", "onnx.program",
    "onnx.kernels", "onnx.work",
    "onnx.folding", "onnx.turning", "onnx.convolutions", "onnx.expressions", "onnx.elementwise",
    "onnx.shapes", "onnx.reductions", "onnx.windows", "onnx.tracing", "onnx.backend",
    "onnx.reporting", "onnx",
    "torch.memory", "torch.batching", "torch.operators", "torch.functions", "torch.expanded",
    "torch.layers", "torch.sequences", "torch.in_transformers",
    "torch.conversion", "torch.patching", "torch.streaming", "torch.reporting", "torch.tuning",
    "torch.warming", "torch",
    "commands", "commands.text", "commands.options", "commands.layers", "commands.roofline",
    "commands.benchmark_worker",
    "commands.benchmark_candidates", "commands.benchmark_plot", "commands.benchmark",
    "commands.devices", "commands.predict", "commands.source", "commands.tune_calibrate",
    "commands.tune_plot", "commands.tune", "commands.steps", "commands.private",
    "commands.report_parts", "commands.report_page", "commands.report_plot", "commands.report",
    "__main__",
)  # fmt: skip


def _room(path: Path) -> str:
    """A module's name within the package, "" of the package's own."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


_KNOWN = {f"clconv.{_room(path)}" for path in PACKAGE.rglob("*.py")}


def _imports(text: str, room: str, is_package: bool) -> set[str]:
    """The full names of all that a module imports, wherever and in whatever form."""
    names = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = node.module or ""
            if node.level:
                home = ["clconv", *(room.split(".") if room else [])]
                home = home[: len(home) + is_package - node.level]
                start = ".".join([*home, *([start] if start else [])])
            for alias in node.names:
                # What is imported from a package may be a module of it.
                full = f"{start}.{alias.name}"
                names.add(full if full in _KNOWN else start)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            names |= {one.value for one in node.args if isinstance(one, ast.Constant)}
    return names


def _algorithms() -> list[str]:
    """The modules of each algorithm's folder, each after those of the folder that it imports."""
    found: list[str] = []
    for folder in sorted((PACKAGE / "variants").iterdir()):
        if not (folder / "__init__.py").exists():
            continue
        waiting = {_room(path): path for path in sorted(folder.glob("*.py"))}
        while waiting:
            for room, path in waiting.items():
                imported = _imports(path.read_text(), room, path.name == "__init__.py")
                if imported.isdisjoint(f"clconv.{one}" for one in waiting if one != room):
                    break
            else:
                raise AssertionError(f"a circle of imports among {', '.join(waiting)}")
            found.append(room)
            del waiting[room]
    return found


ROOMS = tuple(room for one in _ROOMS for room in (_algorithms() if one == "variants.*" else [one]))
# What algorithms share.
SHARED = tuple(f"clconv.{room}" for room in _ROOMS if re.fullmatch(r"variants\.\w+", room))
PLACE = {f"clconv.{room}": i for i, room in enumerate(ROOMS)}
DEVICE_FREE = ROOMS[: ROOMS.index("drivers.building")]
OPTIONAL = {
    "progress": {"tqdm"}, "torch": {"torch"},
    "torch.in_transformers": {"torch", "transformers"}, "onnx": {"onnx"},
    "onnx.host": {"onnx", "onnxruntime"},
    "signal": {"scipy"}, "dask": {"dask", "distributed"}, "layers.hdf5": {"h5py"},
    "files": {"safetensors"}, "dtypes": {"ml_dtypes"},
    "commands.benchmark_worker": {"torch", "onnx", "onnxruntime"},
    "commands.benchmark_plot": {"matplotlib"}, "commands.tune_plot": {"matplotlib"},
    "commands.report_plot": {"matplotlib"},
    "commands.tune": {"onnx", "google"},
}  # fmt: skip


def _prints(text: str) -> bool:
    """Whether a module prints anything."""
    return any(
        isinstance(node, ast.Name) and node.id == "print" for node in ast.walk(ast.parse(text))
    )


@pytest.mark.parametrize(
    "text",
    [
        "import clconv.runtime",
        "import clconv.runtime as r",
        "from clconv.runtime import Runtime",
        "from clconv import errors, runtime",
        "from .runtime import Runtime",
        "from . import runtime",
        "def f():\n    from clconv import runtime",
        "class A:\n    def f(self):\n        import clconv.runtime",
        "if TYPE_CHECKING:\n    from clconv.runtime import Runtime",
        "try:\n    import clconv.runtime\nexcept ImportError:\n    pass",
        "import importlib\nimportlib.import_module('clconv.runtime')",
    ],
)
def test_every_form_of_import_is_seen(text):
    assert "clconv.runtime" in _imports(text, "problem", False)
    inner = text.replace("from .", "from ..")
    assert "clconv.runtime" in _imports(inner, "variants.base", False)
    assert "clconv.runtime" in _imports(inner, "variants", True)


def test_imports_point_one_way():
    """No module imports one that comes after its own, in whatever form, or one that is not here;
    nothing before those that need it knows OpenCL, only render knows Mako, only settings the
    environment, only commands print, and optional packages have a module each."""
    paths = {_room(path): path for path in PACKAGE.rglob("*.py")}
    assert set(paths) - {""} == set(ROOMS), "ROOMS lists every module, in order"
    for room, path in paths.items():
        text = path.read_text()
        imported = _imports(text, room, path.name == "__init__.py")
        roots = {name.split(".")[0] for name in imported}
        assert ("mako" in roots) == (room == "render"), path
        assert ("os.environ" in text) == (room == "settings"), path
        assert room.startswith("commands.") or not _prints(text), path
        own = OPTIONAL.get(room) or OPTIONAL.get(room.partition(".")[0], set())
        assert roots & set().union(*OPTIONAL.values()) <= own, path
        if room in DEVICE_FREE:
            assert "pyopencl" not in roots, path
        if room:
            late = [name for name in imported if PLACE.get(name, -1) >= ROOMS.index(room)]
            assert not late, f"{path} imports {late}, which are not before it"
        if room.startswith("variants."):
            home = ".".join(room.split(".")[:2])
            allowed = (f"clconv.{home}", *SHARED)
            others = [name for name in imported if name.startswith("clconv.variants")]
            strange = [name for name in others if not name.startswith(allowed)]
            assert not strange, f"{path} imports {strange}, which are another algorithm's"


def _mapped(page: str) -> list[Path]:
    """The modules and folders that the map of architecture.md names."""
    found: list[Path] = []
    folders = [Path("clconv")]
    lines = page.partition("```\nclconv/\n")[2].partition("\ntools/")[0].splitlines()
    for line in filter(str.strip, lines):
        depth = (len(line) - len(line.lstrip())) // 2
        if depth > 8:
            continue  # a description goes on
        names = re.match(r"( ?[\w/.]+(?=\s|$))*", line.lstrip())[0].split()
        found += [folders[depth - 1] / name for name in names]
        folders[depth:] = [found[-1]]
    return found


def test_the_map_names_every_module():
    """Once, and nothing that is not there; of templates the folders."""
    root = PACKAGE.parent
    mapped = _mapped((root / "docs" / "architecture.md").read_text())
    assert len(set(mapped)) == len(mapped)
    there = {path.relative_to(root) for path in PACKAGE.rglob("*.py")}
    folders = {path.parent for path in there} - {Path("clconv")}
    folders |= {Path("clconv/templates")}
    modules = {path for path in there if path.name != "__init__.py"}
    shared = {
        Path("clconv/templates", name)
        for name in ("common", "batched", "elementwise", "causal", "long", "resampling")
    }
    assert set(mapped) == modules | folders | shared


def test_templates_say_what_they_compute():
    """Each kernel's template starts with its contract, and has no vendor extension."""
    for path in sorted((PACKAGE / "templates").rglob("*.mako")):
        lines = [one for one in path.read_text().splitlines() if not one.startswith("<%namespace")]
        assert lines[0].startswith("## "), path
        extensions = re.findall(r"#pragma OPENCL EXTENSION (\S+)", path.read_text())
        assert set(extensions) <= {"cl_khr_fp64"}, path
        assert "atomic" not in path.read_text(), path
