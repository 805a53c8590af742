"""The findings page: verdicts corrected over all rows, what decides them, and one number in one row."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import xarray as xr

from dit_lens.replication import TABLE, Reading, Row, Untestable
from dit_lens.replication.row import REASONS, SHARE
from dit_lens.stats import fdr

FILE = Path(__file__).resolve().parent.parent / "benchmarks" / "findings.py"


def module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, FILE.with_name(f"{name}.py"))
    assert spec is not None and spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    sys.modules[name] = made  # one imports the other
    spec.loader.exec_module(made)
    return made


@pytest.fixture(scope="module")
def page() -> ModuleType:
    return module("findings_page")


@pytest.fixture(scope="module")
def benchmark(page: ModuleType) -> ModuleType:
    return module("findings")


def row(id: str, effect: list[float], null: list[float], **states: Any) -> tuple[Row, Reading]:
    read = Reading(xr.DataArray(effect, dims="task"), xr.DataArray(null, dims="task"))
    said = {"smallest": 0.1, "bounds": SHARE, **states}
    return Row(id, f"Claim {id} | holds.", "a share", "share", "chance", lambda m: read, **said), read


@pytest.fixture(scope="module")
def stored(benchmark: ModuleType) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    noise = 0.05 * rng.standard_normal((2, 12))
    yes, base = (0.8 + noise[0]).tolist(), (0.2 + noise[1]).tolist()
    claims = [
        one.claim(read)
        for one, read in (
            row("noise/yes", yes, base), row("noise/no", base, yes), row("noise/few", yes[:3], base[:3]),
            row("noise/built", [0.6] * 12, [0.0] * 12, zero_null=True),
        )
    ]  # fmt: skip
    one, _ = row("swap/mute", [], [])
    claims.append(one.claim(Untestable("no video could be read")))
    first, read = row("swap/same", yes, base)
    claims.append(first.claim(read, also=("Another claim.",)))
    rows = [json.loads(json.dumps(benchmark.plain(claim), allow_nan=False)) for claim in claims]
    about = {"date": "2026-01-01", "made": {"torch": "2"}, "weights": "0", "minutes": 1.0}
    return {"lab": {"noise": {"rows": rows[:4], **about}, "swap": {"rows": rows[4:], **about}}}


def lines_of(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("| ") and line[2].isdecimal()]


def test_every_row_says_what_it_rests_on(page: ModuleType, stored: dict[str, Any]) -> None:
    yes, no, few, built, mute, same = lines_of(page.table(stored))
    assert "Claim noise/yes \\| holds | " in yes and yes.endswith("**supported** |") and "| 12 | 0.1 / " in yes
    assert "(chance) | 0." in yes and "[" in yes.split("(chance)")[1]
    assert no.endswith("**contradicted** |") and "(chance) | -0." in no
    assert few.endswith("**undecided** |") and "| 3 | " in few and "[" not in few
    assert built.endswith("**supported** |") and "0 (exact) (chance)" in built and "**0.6 [" in built
    assert mute.endswith("**cannot be tested on this model** |")
    assert "Claim swap/same \\| holds. Also: Another claim | " in same


def test_p_is_corrected_over_the_whole_page(page: ModuleType, stored: dict[str, Any]) -> None:
    verdicts = [page.verdict_of(row) for entry in stored["lab"].values() for row in entry["rows"]]
    tested = [one for one in verdicts if one is not None]
    known = fdr([one.p for one in tested])
    yes = lines_of(page.table(stored))[0].split(" | ")
    assert float(yes[-2]) == pytest.approx(known[0], rel=0.01) and known[0] > tested[0].p
    assert tested[2].n == 3 and np.isnan(tested[2].p), "NaN is kept as null, and comes back"


def test_the_page_counts_and_gives_its_reasons(page: ModuleType, stored: dict[str, Any]) -> None:
    text = page.table(stored)
    assert "Of 6 rows: 3 supported; 1 contradicted; 1 undecided; 0 shown, and the placebo shows it too; 1 that" in text
    assert all(f"| {kind} | {least:g} | {why} |" in text for kind, (least, why) in REASONS.items())
    assert "Supported where the interval of the paired difference from the null lies above it; contradicted" in text
    assert "no video could be read." in text.lower()


def test_other_trainings_stand_beside_a_model_with_an_interval_over_them(
    page: ModuleType, stored: dict[str, Any]
) -> None:
    def noise(*differences: float | None) -> dict[str, Any]:
        rows = [
            {**row, "judged": row["judged"] | {"difference": d}}
            for row, d in zip(stored["lab"]["noise"]["rows"], differences, strict=True)
        ]
        return {"noise": {**stored["lab"]["noise"], "rows": rows}}

    kept = {"lab40": noise(0.6, -0.6, 0.1, 0.5), "lab40-seed1": noise(0.5, -0.2, None, 0.5), "lab4": noise(9, 9, 9, 9)}
    kept["lab40-student"] = noise(9, 9, 9, 9)  # no training of it
    found = page.trainings(kept, "lab40", "noise")
    assert found == {
        "noise/yes": "0.6, 0.5: 0.55 [-0.0853, 1.19]", "noise/no": "-0.6, -0.2: -0.4 [-2.94, 2.14]",
        "noise/built": "0.5, 0.5: 0.5",
    }  # fmt: skip
    text = page.table(stored | kept)
    assert "## The forty-layer specimen" in text and "| over trainings |" in text
    lines = lines_of(text)
    assert "| 0.6, 0.5: 0.55 [-0.0853, 1.19] |" in lines[6] and len(lines) == 10, "other trainings have no rows"
    assert "| over trainings |" not in page.table(stored)


def test_another_training_is_asked_the_same_without_other_models(benchmark: ModuleType) -> None:
    own, other = benchmark.asked_of("lab40"), benchmark.asked_of("lab40-seed2")
    assert own.keys() == other.keys() and own["schedules"]["student"] == "lab40-student"
    assert "student" not in other["schedules"] and other["emerge"] == own["emerge"]
    assert set(benchmark.asked_of("lab")) == set(TABLE) - {"emerge"}


def test_a_model_that_is_asked_nothing_is_refused(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for given, said in ((["--model", "wan"], "choose from lab, lab40"), (["--model", "lab40", "swap"], "not asked")):
        monkeypatch.setattr("sys.argv", ["findings.py", *given])
        with pytest.raises(SystemExit):
            benchmark.main()
        assert said in capsys.readouterr().err


def test_a_trial_leaves_the_page_alone(benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sys.argv", ["findings.py", "--n", "3"])
    with pytest.raises(SystemExit):
        benchmark.main()
    (tmp_path / "findings.json").write_text(json.dumps({"lab": {"noise": {"rows": [{"verdict": "supported"}]}}}))
    monkeypatch.setattr("sys.argv", ["findings.py", "--table", "--out", str(tmp_path)])
    with pytest.raises(SystemExit):
        benchmark.main()


def test_the_page_is_made_again_from_its_rows(
    page: ModuleType, benchmark: ModuleType, stored: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "findings.json").write_text(json.dumps(stored))
    monkeypatch.setattr("sys.argv", ["findings.py", "--table", "--out", str(tmp_path)])
    benchmark.main()
    assert (tmp_path / "findings.md").read_text() == page.table(stored)
    assert json.loads((tmp_path / "findings.json").read_text()) == stored
