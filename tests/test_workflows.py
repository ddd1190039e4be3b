"""Do the workflows, forms and metadata for a public repository name what there is?"""

from __future__ import annotations

import os
import re
from pathlib import Path

import yaml  # which dask asks for

import clconv

ROOT = Path(__file__).parents[1]
FILES = {
    path.relative_to(ROOT / ".github").as_posix(): yaml.safe_load(path.read_text())
    for path in (ROOT / ".github").rglob("*.yml")
}
PROJECT = (ROOT / "pyproject.toml").read_text()


def steps(name):
    """Every step of a workflow."""
    return [step for job in FILES[name]["jobs"].values() for step in job["steps"]]


def test_workflows_run_what_is_here():
    """Scripts, tests and extras exist; actions have versions; no job may last for ever."""
    for name in ("workflows/ci.yml", "workflows/release.yml"):
        assert FILES[name][True]  # "on", which YAML reads so
        assert FILES[name]["permissions"] == {"contents": "read"}
        assert all(job["timeout-minutes"] <= 120 for job in FILES[name]["jobs"].values())
        for step in steps(name):
            assert ("uses" in step) != ("run" in step), step
            assert re.fullmatch(r"[\w.-]+/[\w.-]+@(v\d+|release/v\d+)", step.get("uses", "a/b@v1"))
            for path in re.findall(r"(?:tests|tools)/[\w/]+\.py", step.get("run", "")):
                assert (ROOT / path).is_file(), path
            for extra in re.findall(r"\}\[([\w,]+)\]", step.get("run", "")):
                for one in extra.split(","):
                    assert re.search(rf"^{one} = \[", PROJECT, re.MULTILINE), one
    assert "secrets" not in (ROOT / ".github/workflows/release.yml").read_text()
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_pythons():
    """Those that are promised are those that are tested, from the oldest on."""
    promised = re.findall(r"Python :: (3\.\d+)", PROJECT)
    assert re.search(r'requires-python = ">=(.*)"', PROJECT)[1] == promised[0]
    tested = FILES["workflows/ci.yml"]["jobs"]["drivers-from-pip"]["strategy"]["matrix"]["python"]
    tried = FILES["workflows/release.yml"]["jobs"]["try"]["strategy"]["matrix"]["python"]
    assert promised == tested == tried


def test_forms():
    """Each asks for what it needs under a name of its own, and all for the report."""
    forms = {name: form for name, form in FILES.items() if "body" in (form or {})}
    assert len(forms) == 3
    for name, form in forms.items():
        assert form["name"], name
        assert form["description"], name
        names = [part["id"] for part in form["body"] if part["type"] != "markdown"]
        assert len(set(names)) == len(names)
        assert "report" in names


def test_versions():
    """Whoever cites clconv cites this version."""
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert cited["version"] == clconv.__version__
    assert f"\n## {clconv.__version__}" in (ROOT / "CHANGELOG.md").read_text()
