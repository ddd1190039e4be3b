"""Do the pages say what users need: every public name, every argument, in examples that hold?"""

from __future__ import annotations

import dataclasses
import doctest
import enum
import importlib
import importlib.util
import inspect
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clconv import functional, render, testing
from clconv.commands import layers
from clconv.planning import planner

ROOT = Path(__file__).parent.parent
PUBLIC = (
    "clconv", "clconv.functional", "clconv.gpuarray", "clconv.errors", "clconv.signal",
    "clconv.dask", "clconv.streaming", "clconv.torch", "clconv.onnx", "clconv.tuning",
    "clconv.testing", "clconv.files",
)  # fmt: skip
# Modules whose every name has an example; in those of FAILING every function says what it raises.
SHOWN = ("clconv.functional", "clconv.gpuarray", "clconv.signal")
FAILING = ("clconv.functional", "clconv.signal", "clconv.dask")
# Names of first rank elsewhere.
FIRST = {
    "clconv": (
        "Activation", "Conv1D", "Conv1dProblem", "Deconv1D", "Module", "Pad1D", "Parallel",
        "Runtime", "Sequential", "Variable", "devices", "plan", "prepare_weight", "variants",
    ),
    "clconv.dask": ("conv1d", "convolve", "lfilter", "resample_poly"),
    "clconv.streaming": ("StreamingConv1D", "StreamingSequential", "causal_padding"),
    "clconv.torch": (
        "Conv1d", "ConvTranspose1d", "causal_conv1d_fn", "causal_conv1d_update", "conv1d",
        "conv_transpose1d", "convert", "patched", "report", "revert", "stream", "tune", "warm_up",
    ),
    "clconv.onnx": ("Backend",),
    "clconv.tuning": ("tune",),
    "clconv.testing": ("assert_exact", "assert_within_bound", "gamma"),
    "clconv.files": ("build",),
}  # fmt: skip
# Blocks that are no sessions, by their first lines: files, another package, long times.
OTHERS = (
    "#         name, batch",  # which test_a_file_of_layers loads
    "import unittest",
    "from clconv.torch import use_in_transformers",
    "from clconv import Conv1D, Sequential\n\nconv = Conv1D(64, 128, 5)",  # tuning takes long
    "import clconv.torch\nimport torch\n\nmodel = ",  # likewise
    '"""One output a work-item',  # which test_the_algorithm_of_the_page runs
)
SECTION = re.compile(r"^(Args|Attributes|Returns|Raises|Examples):$", re.MULTILINE)
DIRECTIVE = re.compile(r"^::: (\S+)(?:\n    options:\n      members: \[(.*)\])?", re.MULTILINE)
LINK = re.compile(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)")


def _named(path: str) -> Any:
    """What a dotted path means."""
    first, *parts = path.split(".")
    found: Any = importlib.import_module(first)
    for i, part in enumerate(parts, 1):
        if not hasattr(found, part):
            importlib.import_module(".".join([first, *parts[:i]]))
        found = getattr(found, part)
    return found


def _referred() -> dict[str, list[str]]:
    """{public name: members} of all entries in the reference."""
    text = "\n".join(page.read_text() for page in sorted((ROOT / "docs/reference").glob("*.md")))
    return {
        name: members.split(", ") if members else [] for name, members in DIRECTIVE.findall(text)
    }


def _names(module: str) -> list[str]:
    found = importlib.import_module(module)
    public = getattr(found, "__all__", None) or [
        name
        for name, value in vars(found).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module
    ]
    if module == "clconv.errors":  # whose functions make messages for clconv itself
        return [name for name in public if inspect.isclass(getattr(found, name))]
    return [name for name in public if not inspect.ismodule(getattr(found, name))]


def _sections(text: str) -> dict[str, list[str]]:
    """{title: lines} of a docstring; "" is what comes first."""
    first, *others = SECTION.split(text)
    return {"": first.splitlines()} | {
        title: body.splitlines() for title, body in zip(others[::2], others[1::2], strict=True)
    }


def _described(lines: list[str]) -> list[str]:
    return [found[1] for line in lines if (found := re.match(r"    (\w+): \S", line))]


def _parameters(thing: Any) -> list[str] | None:
    """The arguments to describe; None where there are none of clconv's own."""
    if isinstance(thing, property):
        return None
    if inspect.isclass(thing):
        makers = [one for one in thing.__mro__ if "__init__" in vars(one)]
        if not makers[0].__module__.startswith("clconv") or issubclass(thing, enum.Enum):
            return None
    return [name for name in inspect.signature(thing).parameters if name not in ("self", "cls")]


def _faults(path: str, thing: Any) -> list[str]:
    """What a docstring lacks."""
    text = inspect.getdoc(thing) or ""
    parts = _sections(text)
    faults = []
    if not re.match(r"[^\n]+[.:]\n?(\n|$)", text):
        faults.append("has no first sentence on a line of its own")
    if dataclasses.is_dataclass(thing) or hasattr(thing, "_fields"):
        wanted = list(getattr(thing, "_fields", getattr(thing, "__dataclass_fields__", {})))
        wanted = [name for name in wanted if not name.startswith("_")]
        title = "Attributes"
    else:
        wanted, title = _parameters(thing) or [], "Args"
    found = _described(parts.get(title, []))
    faults += [f"does not describe {name}" for name in wanted if name not in found]
    faults += [f"describes {name}, which is no argument" for name in found if name not in wanted]
    if inspect.isroutine(thing):
        hint = inspect.signature(thing).return_annotation
        if (
            hint not in ("None", None, inspect.Signature.empty)
            and wanted
            and "Returns" not in parts
        ):
            faults.append("does not say what it returns")
    return [f"{path} {fault}" for fault in faults]


@pytest.mark.parametrize("module", PUBLIC)
def test_every_public_name_is_in_the_reference(module):
    referred = _referred()
    for name in _names(module):
        value = _named(f"{module}.{name}")
        if inspect.isclass(value) or inspect.isroutine(value):
            entries = [
                f"{one}.{name}" for one in PUBLIC if getattr(_named(one), name, None) is value
            ]
            assert any(entry in referred for entry in entries), f"{module}.{name}"


def test_every_entry_describes_its_arguments():
    faults = []
    for path, members in _referred().items():
        thing = _named(path)
        faults += _faults(path, thing)
        for member in members:
            of = inspect.getattr_static(thing, member)
            is_plain = isinstance(of, property) or not callable(getattr(thing, member))
            if is_plain:
                fields = _described(_sections(inspect.getdoc(thing) or "").get("Attributes", []))
                assert member in fields or inspect.getdoc(of), f"{path}.{member}"
            else:
                faults += _faults(f"{path}.{member}", getattr(thing, member))
    assert not faults, "\n".join(faults)


def test_what_has_to_be_shown_is():
    for module in PUBLIC:
        for name in _names(module):
            parts = _sections(inspect.getdoc(_named(f"{module}.{name}")) or "")
            shown = module in SHOWN or name in FIRST.get(module, ())
            assert "Examples" in parts or not shown, f"{module}.{name} has no example"
            if module in FAILING:
                assert "Raises" in parts, f"{module}.{name} does not say what it raises"


@pytest.mark.parametrize("module", [one for one in PUBLIC if one != "clconv.functional"])
def test_examples_of_docstrings(module):
    """In a namespace with what the module of the name has; test_page_examples.py has the others."""
    finder, runner = doctest.DocTestFinder(recurse=False), doctest.DocTestRunner()
    for name in _names(module):
        value = _named(f"{module}.{name}")
        if not (inspect.isclass(value) or inspect.isroutine(value)):
            continue
        home = importlib.import_module(value.__module__)
        for example in finder.find(value, name, home, vars(home)):
            assert runner.run(example).failed == 0, f"{module}.{name}"


def test_a_missing_argument_is_seen():
    def described(x: int, y: int) -> int:
        """Adds.

        Args:
            x: a number.
            z: another one.
        """
        return x + y

    assert _faults("it", described) == [
        "it does not describe y",
        "it describes z, which is no argument",
        "it does not say what it returns",
    ]


def _pages() -> list[Path]:
    return [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]


@pytest.mark.parametrize("page", _pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_pages(page):
    """All Python on a page is a session, which pytest runs; what it links to is there."""
    text = page.read_text()
    for block in re.findall(r"^```(?:python|py|pycon)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        assert block.startswith((">>> ", *OTHERS)), block
    for target in LINK.findall(text):
        assert (page.parent / target).exists(), target


def test_drawings_are_those_of_the_pages():
    """`python docs/drawings/draw.py` draws them again after a change of figures."""
    folder = ROOT / "docs/drawings"
    loader = importlib.util.spec_from_file_location("draw", folder / "draw.py")
    draw = importlib.util.module_from_spec(loader)
    loader.loader.exec_module(draw)
    assert len(draw.figures((ROOT / "docs/benchmarks.md").read_text())) > 3
    for name, make in draw.DRAWINGS.items():
        assert (folder / f"{name}.svg").read_text() == make(), name


def test_a_file_of_layers(tmp_path):
    """The row of the page is one, with the names that stand above it."""
    page = (ROOT / "docs/tuning.md").read_text()
    ((names, row),) = re.findall(r"^#\s+(name, batch.*)\n(LAYERS = .*)$", page, re.MULTILINE)
    assert names.split(", ") == [field.name for field in dataclasses.fields(layers.Layer)]
    (tmp_path / "layers.py").write_text(row)
    (layer,) = layers.load(str(tmp_path / "layers.py"))
    assert len(re.findall(r"[\w\"]+", row)) == 1 + len(dataclasses.fields(layer))
    assert layer.problem.output_shape == (1, 64, 16000)


def test_the_lines_that_the_page_changes():
    """They are those of the file; what comes out has the new one besides the others."""
    page = (ROOT / "docs/add-an-algorithm.md").read_text()
    text = (ROOT / "clconv/variants/__init__.py").read_text()
    (diff,) = re.findall(r"^```diff\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    lines = diff.splitlines()
    assert len(lines) == 4
    for old, new in zip(lines[::2], lines[1::2], strict=True):
        assert (old[0], new[0]) == ("-", "+")
        assert text.count(f"{old[1:]}\n") == 1, old
        assert sorted(re.findall(r"\w+", new)) == sorted([*re.findall(r"\w+", old), "single"])


def test_the_algorithm_of_the_page(runtime, rng, tmp_path, monkeypatch):
    """Its two files, as they are there, compute what they should."""
    page = (ROOT / "docs/add-an-algorithm.md").read_text()
    blocks = re.findall(r"<!-- the file clconv/(\S+) -->\n```\w+\n(.*?)^```", page, re.M | re.S)
    for path, text in blocks:
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_text(text)
    loader = importlib.util.spec_from_file_location("single", tmp_path / blocks[0][0])
    single = importlib.util.module_from_spec(loader)
    loader.loader.exec_module(single)
    folders = [*render._templates.directories, str(tmp_path / "templates/single")]
    monkeypatch.setattr(render._templates, "directories", folders)
    monkeypatch.setattr(planner, "VARIANTS", (*planner.VARIANTS, single))
    planner.designs.cache_clear()
    try:
        for problem in single.EXAMPLES.values():
            x = testing.integers(rng, problem.input_shape, np.float32)
            weight = testing.integers(rng, problem.weight_shape, np.float32)
            place = problem.stride, problem.padding, problem.dilation, problem.groups
            y = functional.conv1d(x, weight, None, *place, variant="single", runtime=runtime)
            testing.assert_right(
                y, problem, "forward", {"x": x, "weight": weight}, largest=testing.LARGEST_INTEGER
            )
    finally:
        planner.designs.cache_clear()
