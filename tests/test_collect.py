"""Reports folded into records, tables and pages; the reports are made up."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import collect
import pytest

from clconv import Conv1dProblem, Pass
from clconv.commands import report
from clconv.commands.report_parts import told_record
from clconv.planning import planner, shipped
from clconv.planning.profiles import profile
from clconv.planning.records import Record, RecordKey, Timing

WHOLE = Conv1dProblem(2, 3, 60, 4, 3, 1, 1)
LENGTHS = (60, 30)


def choices(device):
    """Those that the planner offers on the device, the model's own first."""
    return [plan.choice for plan in planner.plans(WHOLE, Pass.FORWARD, device, exact=True)]


def made(path, cores="zen4", name="Some CPU", platform="P", winner=2, gains=(1.2, 1.3),
         again=(1.2, 1.3), off=2.0, version=report.SCHEMA_VERSION):  # fmt: skip
    """A report of a device with a tuned layer: gains of the search, and of the second time."""
    device = replace(profile(cores), name=name)
    first, best = choices(device)[0], choices(device)[winner]
    lines = []
    for length, gain in zip(LENGTHS, gains, strict=True):
        key = RecordKey(replace(WHOLE, length=length), Pass.FORWARD, None)
        timed = (Timing(first, 1.0, 0, 10.0 * gain, 5), Timing(best, 2.0, 0, 10.0, 5))
        lines.append(told_record("one", Record(key, best, timed, 0, 1.0, "1.0", written=9e8)))
    if again:
        lines += [
            {"layer": "one", "pass": "forward", "length": length,
             "choice": {"variant": best.variant, "tile": dict(best.tile)},
             "again_before_us": 10.0 * gain, "again_after_us": 10.0}
            for length, gain in zip(LENGTHS, again, strict=True)
        ]  # fmt: skip
    layer = {"layer": "big", "pass": "forward", "variant": "strip", "tile": {}, "bytes": 1e6,
             "flops": 1e9, "predicted_us": 1e4, "median_us": 1e4 * off, "others": 0.5}  # fmt: skip
    info = {"name": name, "platform": platform, "driver": "7", "kind": "CPU"}
    steps = {
        "devices": [{"info": info, "profile": asdict(device), "variants": ["strip"]},
                    {"roofline": {"peak_gflops": 100.0, "copy_gbs": 10.0}}, {"check": "ok"}],
        "accuracy": [{"normals": 0.5, "integers": 0.0}, {"normals": None, "wrong": "2 of 9"}],
        "layers": [layer], "tuned": lines,
    }  # fmt: skip
    named = [{"name": key, "lines": found} for key, found in steps.items()]
    content = {"schema": report.SCHEMA, "version": version, "date": "2025-01-31", "clconv": "0.1",
               "steps": named}  # fmt: skip
    path.write_text(json.dumps(content))
    return collect.Report(path)


def test_which_choices_hold(tmp_path):
    """Those that are faster at both lengths, in both measurements."""
    path = tmp_path / "a.json"
    (kept,) = made(path).shipped()
    assert kept.choice == choices(profile("zen4"))[2]
    assert [(m.length, m.untuned_us) for m in kept.measured] == [(60, 12.0), (30, 13.0)]
    for more in ({"gains": (1.2, 1.04)}, {"again": (1.04, 1.3)}, {"again": ()}):
        assert made(path, **more).shipped() == []


def test_levels(tmp_path):
    """As wide as reports agree, and no wider."""

    def levels(*reports):
        found = collect.levelled([made(tmp_path / f"{i}.json", **r) for i, r in enumerate(reports)])
        return sorted((t.rank, len(rs), len(rs[0].measured)) for t, rs in found)

    one, twin, other = {}, {"name": "Another CPU"}, {"cores": "zen5", "name": "A third CPU"}
    assert levels(one) == [(0, 1, 2)]
    assert levels(one, one) == [(0, 1, 4)]  # of one device
    assert levels(one, twin) == [(1, 1, 4)]
    assert levels(one, twin | {"winner": 3}) == [(0, 1, 2), (0, 1, 2)]
    assert levels(one, twin | {"gains": (1.0, 1.0), "again": ()}) == [(0, 1, 2)]
    assert levels(one, one | {"again": (1.0, 1.0)}) == []  # the device contradicts itself
    same = choices(profile("zen4"))[2] == choices(profile("zen5"))[2]
    assert levels(one, other) == ([(2, 1, 4)] if same else [(0, 1, 2), (0, 1, 2)])


def test_files_of_records(tmp_path, capsys):
    """What they have of other layers stays; what was measured again is replaced."""
    reports, folder = tmp_path / "reports", tmp_path / "records"
    reports.mkdir()
    folder.mkdir()
    found = made(reports / "a.json", platform="Portable Computing Language")
    (record,) = found.shipped()
    other = replace(record, layer=record.layer._replace(kernel_size=9))
    target = shipped.targets("Some CPU", "Portable Computing Language", found.profile)[0]
    for _ in range(2):
        assert collect.main([str(reports), "--records", str(folder)]) == 0
        assert "1 records hold, of 1 passes of layers that were tuned" in capsys.readouterr().out
        (path,) = folder.iterdir()
        assert path.name == "zen4-pocl.json"
        assert shipped.parse(path.read_text()) == (target, [record])
    path.write_text(shipped.text(target, [other, replace(record, date="2020-01-01")]))
    path = path.rename(folder / "mine.json")
    assert collect.main([str(reports), "--records", str(folder)]) == 0
    assert shipped.parse(path.read_text()) == (target, [record, other])
    assert target.fits("Some CPU", "Portable Computing Language", found.profile)
    made(reports / "b.json", name="Another CPU", platform="Portable Computing Language", winner=3)
    assert collect.main([str(reports), "--records", str(folder)]) == 0
    assert {one.name for one in folder.iterdir()} == {"mine.json", "zen4-pocl.json"}


def test_tables(tmp_path, capsys):
    """Of devices, into a page between its markers; of the cost model's errors."""
    reports, page = tmp_path / "reports", tmp_path / "devices.md"
    reports.mkdir()
    made(reports / "a.json")
    made(reports / "b.json", name="Another CPU", off=8.0)
    (reports / "a.md").write_text("its page")
    page.write_text(f"before\n{collect.BEGIN}\nold\n{collect.END}\nafter\n")
    assert collect.main([str(reports), "--devices", str(page)]) == 0
    said = capsys.readouterr().out
    assert "| zen4 | strip | forward | 2 | 4 | 2 | 8 | big |" in said
    text = page.read_text()
    assert text.startswith(f"before\n{collect.BEGIN}\n")
    assert text.endswith(f"\n{collect.END}\nafter\n")
    assert "old" not in text
    row = next(line for line in text.splitlines() if "Some CPU" in line)
    assert row.startswith("| [Some CPU](reports/a.md) | P 7 | zen4 | 2025-01-31 | 0.1 | ok | ")
    assert " | 1 of 2 | 100 | 10 | 50% | 2.00 (1) | 0 of 1 |" in row
    assert "| Another CPU | P 7 |" in text


HEAD = '{"schema": "clconv report", "version": 1'


@pytest.mark.parametrize(
    ("content", "message"),
    [("[]", "is no report of version 1"), ("{}", "is no report"), ("{", "JSONDecodeError"),
     (HEAD + "}", "x.json is damaged: KeyError"),
     (HEAD + ', "steps": [{"name": "layers", "lines": [{"median_us": 1}]}]}', "x.json is damaged")],
)  # fmt: skip
def test_what_is_no_report(tmp_path, capsys, content, message):
    page = tmp_path / "page.md"
    page.write_text("no markers")
    (tmp_path / "x.json").write_text(content)
    assert collect.main([str(tmp_path), "--devices", str(page)]) == 1
    assert message in capsys.readouterr().err
    made(tmp_path / "x.json")
    assert collect.main([str(tmp_path), "--devices", str(page)]) == 1
    assert "no <!-- reports: begin -->" in capsys.readouterr().err
    assert page.read_text() == "no markers"
    (tmp_path / "none").mkdir()
    assert collect.main([str(tmp_path / "none")]) == 1
    assert "no reports in" in capsys.readouterr().err


# The step, its line, its member (all of these are in what `made` writes), and another value of it.
DAMAGES = [
    ("devices", 0, "profile", {"speed": 9}, "TypeError"),
    ("devices", 0, "info", {"name": "a"}, "KeyError: 'platform'"),
    ("devices", 1, "roofline", 3, "TypeError"),
    ("layers", 0, "predicted_us", 0, "ZeroDivisionError"),
    ("layers", 0, "flops", None, "TypeError"),
    ("tuned", 0, "record", 3, "ValueError: 3 where an object was expected"),
    ("tuned", 2, "again_after_us", 0, "ZeroDivisionError"),
    ("tuned", 2, "choice", 5, "TypeError"),
]


@pytest.mark.parametrize(("step", "line", "member", "value", "why"), DAMAGES)
def test_damaged_members(tmp_path, capsys, step, line, member, value, why):
    """Whatever is not what it should be, the file and the fault are named."""
    path = tmp_path / "x.json"
    made(path)
    assert collect.main([str(tmp_path)]) == 0
    content = json.loads(path.read_text())
    lines = next(one["lines"] for one in content["steps"] if one["name"] == step)
    assert member in lines[line]
    lines[line][member] = value
    path.write_text(json.dumps(content))
    assert collect.main([str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert f"x.json is damaged: {why}" in said, said
