"""The README's first look works as it stands."""

import re
from pathlib import Path

import dit_lens

README = (Path(__file__).resolve().parent.parent / "README.md").read_text(encoding="utf-8")
SAMPLE = "\n".join(re.findall(r"^```python\n(.*?)^```$", README, flags=re.M | re.S))


def test_names_exist() -> None:
    names = set(re.findall(r"\bdl\.(\w+)", SAMPLE))
    assert names
    assert {name for name in names if not hasattr(dit_lens, name)} == set()


def test_sample_runs(capsys) -> None:
    names: dict = {}
    exec(compile(SAMPLE, "README.md", "exec"), names)
    assert "resid_post" in capsys.readouterr().out  # print(lens) showed the points
    names["lens"].close()
