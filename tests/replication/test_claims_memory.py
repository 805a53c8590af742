"""Claims of working memory: reading and using are judged apart."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from planted_results import every_row, supported

from dit_lens import replication
from dit_lens.experiments import working_memory
from dit_lens.replication import memory


def read_claims(read: xr.Dataset, use: xr.Dataset) -> list[replication.Claim]:
    return every_row("memory", {"read": read, "use": use})


def memory_data(read: float, effect: float, n: int = 10) -> tuple[xr.Dataset, xr.Dataset]:
    accuracy = np.full((2, len(working_memory.KINDS), n, 2, 13), 0.25)
    accuracy[:, 0, :, :, 1:] = read
    what, layers = ["identity", "place"], range(-1, 12)
    one = xr.Dataset(
        {"accuracy": (("label", "kind", "task", "step", "layer"), accuracy), "chance": ("label", [0.25, 1 / 6])},
        {"label": what, "kind": list(working_memory.KINDS), "step": [0, 2], "layer": layers},
    )
    effects = np.zeros((2, 4, n))
    effects[:, 0], effects[:, 3] = effect, 1
    two = xr.Dataset(
        {k: (("label", "kind", "task"), v) for k, v in (("effect", effects), ("flipped", effects > 0.5))},
        {"label": what, "kind": list(working_memory.ARMS)},
    )
    return one, two


@pytest.mark.parametrize(("read", "effect"), [(0.9, 0.0), (0.25, 0.6)])
def test_reading_and_using_are_judged_apart(read: float, effect: float) -> None:
    found = read_claims(*memory_data(read, effect))
    assert supported(found) == [read > 0.5] * 4 + [effect > 0] * 2
    assert found[0].value == pytest.approx(read) and "layers 3-8" in found[0].measure
    assert found[4].value == pytest.approx(effect) and f"hidden {10 if effect > 0.5 else 0}" in found[4].remark


def test_too_few_scenes_to_read_from_are_said_so_and_use_is_judged_all_the_same() -> None:
    use = memory_data(0.9, 0.6, n=4)[1]
    found = every_row("memory", {"use": use})
    assert [claim.verdict for claim in found] == ["cannot be tested on this model"] * 4 + ["undecided"] * 2
    assert found[0].remark == "4 scenes cannot be read from: classifiers hold out one scene in 5, so take 5 or more"
    assert "4 tasks give no verdict" in str(found[-1])


def test_below_five_scenes_only_use_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    for name in ("decodable_while_hidden", "used_while_hidden"):
        monkeypatch.setattr(memory, name, lambda *given, name=name, **more: asked.append(name))
    memory.measured(None, n=4)  # type: ignore[arg-type]
    assert asked == ["used_while_hidden"]
    memory.measured(None, n=5)  # type: ignore[arg-type]
    assert asked[1:] == ["decodable_while_hidden", "used_while_hidden"]


def test_what_every_token_holds_or_does_is_no_memory() -> None:
    """As well read from, and as strong at, as many random tokens elsewhere; the older nulls see nothing of it."""
    read, use = memory_data(0.9, 0.6)
    read["accuracy"].loc[{"kind": "random"}] = read["accuracy"].sel(kind="hidden").values
    use["effect"].loc[{"kind": "random"}] = use["effect"].sel(kind="hidden").values
    assert [claim.id for claim in read_claims(read, use) if claim.verdict == "supported"] == [
        "memory/identity-against-shuffled", "memory/place-against-shuffled"
    ]  # fmt: skip
