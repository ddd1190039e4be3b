"""tools/benchmark_signal.py: what it compares, and what it tells of it."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest
from benchmark_signal import (
    Case,
    How,
    Measured,
    Result,
    cases,
    draw,
    main,
    measure,
    report,
    summary,
)
from benchmark_signal_worker import CLASSES, SAME_FILTER, NotServed, Server

from clconv.commands.benchmark_worker import WorkerError


class Here:
    """A worker in this process."""

    pid, pace = 1, None

    def __init__(self, implementation):
        self._server = Server(implementation)

    def ask(self, what, **arguments):
        try:
            return getattr(self._server, what)(**arguments)
        except NotServed as error:
            raise WorkerError(f"NotServed: {error}") from error


class Wrong:
    """Computes something else."""

    def calls(self, case):
        return [lambda: np.ones((case.batch, case.length), np.float32)]


SMALL = (Case("filter", 300, 4, batch=2), Case("resample", 300, 0, up=3, down=2))


@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.kind)
def test_implementations_agree(first_runtime, tmp_path, case):
    names = ("scipy", "scipy-threads", "numpy", "torch")
    workers = {name: Here(CLASSES[name](None)) for name in names}
    ours = CLASSES["clconv"].__new__(CLASSES["clconv"])
    ours.runtime = first_runtime
    workers |= {"clconv": Here(ours), "wrong": Here(Wrong())}
    found = measure(case, workers, How(rounds=1, seconds=0.001, tries=1), tmp_path)
    served = [name for name, one in found.results.items() if one.median_ms is not None]
    expected = ["clconv", "scipy"] if case.kind == "resample" else ["clconv", *names]
    assert set(served) - {"wrong"} == set(expected)
    assert found.best_peer()[1] in {*names, "wrong"}


def test_a_wrong_result_is_not_timed(tmp_path, monkeypatch):
    workers = {"scipy": Here(CLASSES["scipy"](None)), "numpy": Here(Wrong())}
    found = measure(SMALL[0], workers, How(1, 0.001, 1), tmp_path)
    assert found.results["numpy"].error == "its result is not SciPy's"
    assert "numpy failed: its result is not SciPy's" in report([found], ["scipy", "numpy"], [])


def test_the_summary_counts_long_signals_against_the_fastest(tmp_path):
    def measured(length, ours, *peers):
        results = {"clconv": Result("clconv", ours)}
        results |= {name: Result(name, ms) for name, ms in zip("ab", peers, strict=True)}
        return Measured(Case("filter", length, 3), results)

    everything = [measured(10**5, 1.0, 4.0, 9.0), measured(10**6, 4.0, 8.0, 1.0)]
    everything.append(measured(10**3, 100.0, 1.0, 1.0))
    (line,) = summary(everything)
    assert "takes 1.00 times" in line
    assert "in 1 of 2 cases, at worst 4.00 (1 x 1000000, 3 taps)" in line
    draw(everything, str(tmp_path / "times.png"))
    assert (tmp_path / "times.png").read_bytes().startswith(b"\x89PNG")


def test_the_cases():
    """Lengths, taps, batches and ratios as they are promised; SciPy's filters are compared."""
    found = cases()
    assert {case.length for case in found} == {10**n for n in range(3, 8)}
    assert {3, 10**5} <= {case.taps for case in found}
    assert len({(case.up, case.down) for case in found}) == 6
    assert len({case.name for case in found}) == len(found)
    assert set(SAME_FILTER) < set(CLASSES)


def test_earlier_runs_are_told_again(tmp_path, capsys):
    """Several files make one table, in the order of the cases."""
    files = []
    for place, case in enumerate(cases()[:2]):
        results = {n: Result(n, ms, [ms], [0.0]) for n, ms in (("clconv", 1.0), ("scipy", 2.0))}
        content = {
            "versions": {"clconv": f"clconv {place}", "scipy": "scipy 1"},
            "cases": [asdict(Measured(case, results))],
        }
        files.insert(0, tmp_path / f"{place}.json")
        files[0].write_text(json.dumps(content))
    picture = tmp_path / "again.png"
    assert main(["--read", *map(str, files), "--plot", str(picture)]) == 0
    said = capsys.readouterr().out
    assert said.index(cases()[0].name) < said.index(cases()[1].name)
    assert "0.50 (scipy)" in said
    assert "scipy: scipy 1" in said
    assert picture.read_bytes().startswith(b"\x89PNG")
