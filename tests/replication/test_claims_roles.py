"""Claims on the division of labour: verdicts follow planted profiles."""

from __future__ import annotations

import pytest
from planted_results import evidence

from dit_lens.replication import read


@pytest.mark.parametrize(
    ("levels", "verdicts"),
    [
        ({"attention": [1, 0, 0], "effect": [0, 1, 0], "readout": [0, 0, 1]}, [True, True]),
        ({"attention": [0, 0, 1], "effect": [0, 1, 0], "readout": [1, 0, 0]}, [True, False]),
        ({"attention": [1, 0, 0], "effect": [0, 0, 1], "readout": [0, 0, 1]}, [True, False]),
        ({}, [False, False]),
    ],
)
def test_verdicts_follow_the_profiles(levels: dict[str, list[float]], verdicts: list[bool]) -> None:
    rows = read("roles", {"trained": evidence(levels, 0), "control": evidence({}, 1)})
    assert [row.verdict == "supported" for row in rows] == verdicts
    assert rows[1].low <= rows[1].value <= rows[1].high and {row.n for row in rows} == {8}
    assert rows[1].null < 0 and ("no stages and no single place found" in rows[0].remark) == (not verdicts[0])
    if all(verdicts):
        assert rows[1].value == pytest.approx(1 / 3, abs=0.1)  # from third to third; noise draws to the middle
