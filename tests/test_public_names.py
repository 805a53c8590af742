"""The public names: every one is there, in one place, as what it says, and the documentation uses no other."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import re
from pathlib import Path
from types import ModuleType

import pytest

import dit_lens as dl
from dit_lens.runner import Sweep, sweep

HOUSE = Path(__file__).resolve().parent.parent
ROOMS = ("experiments", "figures", "interventions", "measures", "planted", "probing", "replication",
         "runner", "stats", "tasks")  # fmt: skip
#: Reached by two dots: modules that are named as such.
MODULES = {("tasks", "vbvr")}


def public(room: str) -> dict[str, object]:
    module = importlib.import_module(f"dit_lens.{room}")
    return {name: getattr(module, name) for name in module.__all__}


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_names_what_it_has_and_no_files(room: str) -> None:
    """A file may have the name of what it holds: what the room gives is then the function."""
    found = public(room)
    assert found
    modules = {(room, name) for name, value in found.items() if isinstance(value, ModuleType)}
    assert modules <= MODULES


def test_a_name_of_the_package_means_the_same_in_its_room() -> None:
    for room in set(ROOMS) - {"tasks"}:  # dl.load gives a lens, dl.tasks.load a task
        for name, value in public(room).items():
            if name in dl.__all__ and not isinstance(getattr(dl, name), ModuleType):
                assert getattr(dl, name) is value, f"dl.{name} and dl.{room}.{name}"


def test_what_is_fetched_later_is_what_editors_are_told() -> None:
    assert set(dl.__all__) >= {*dl._LAZY, *dl._MODULES}
    tree = ast.parse(inspect.getsource(dl))
    (told,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.name: f"{node.module}.{alias.name}"
        for node in told.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen.keys() == {*dl._LAZY, *dl._MODULES}
    for name, home in seen.items():
        module, _, last = home.rpartition(".")
        found = importlib.import_module(home) if name in dl._MODULES else getattr(importlib.import_module(module), last)
        assert getattr(dl, name) is found


def test_the_package_names_at_most_forty_things() -> None:
    assert len(dl.__all__) <= 40 and sorted(set(dl.__all__)) == dir(dl)
    assert all(getattr(dl, name) is not None for name in dl.__all__)


def test_errors_are_in_a_room_and_found_by_whoever_guesses() -> None:
    names = [name for name, e in vars(dl.errors).items() if inspect.isclass(e) and issubclass(e, dl.DitLensError)]
    assert len(names) > 10
    for name in names:
        assert getattr(dl, name) is getattr(dl.errors, name)
    assert [name for name in dl.__all__ if name.endswith("Error")] == ["DitLensError"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("pach", "did you mean dit_lens.patch"), ("lode", "did you mean dit_lens.load"),
        ("sweeps", "did you mean dit_lens.sweep"), ("interventoins", "did you mean dit_lens.interventions"),
        ("xyzzy", r"dir\(dit_lens\) lists all"), ("NoSuchError", "has no attribute 'NoSuchError'"),
    ],
)  # fmt: skip
def test_a_misspelt_name_is_told_the_near_one(name: str, said: str) -> None:
    with pytest.raises(AttributeError, match=said):
        getattr(dl, name)
    assert not hasattr(dl, name)


def imports(page: Path) -> list[str]:
    """The modules of ours that a page or notebook imports from."""
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".ipynb":
        text = "\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"])
    text = re.sub(r"```python\n# dit_lens/.*?```", "", text, flags=re.S)  # a file of the package itself, to be added
    return re.findall(r"^(?:from|import) +dit_lens\.([\w.]+)", text, flags=re.M)


PAGES = [*(HOUSE / "docs").rglob("*.md"), *(HOUSE / "notebooks").glob("*.ipynb"), HOUSE / "README.md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_documentation_needs_nothing_two_files_deep(page: Path) -> None:
    assert [name for name in imports(page) if "." in name] == []


def test_such_an_import_is_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("from dit_lens.measures.energy import energy_ratio\nfrom dit_lens.tasks import vbvr\n")
    assert imports(page) == ["measures.energy", "tasks"]


def test_a_sweep_has_one_signature() -> None:
    """`sweep` takes what `Sweep` takes, and help describes every argument."""
    made = [p for p in inspect.signature(Sweep).parameters.values() if p.name != "reading"]
    assert list(inspect.signature(sweep).parameters.values()) == made
    for parameter in made:
        assert re.search(rf"^ *\**{parameter.name}:", sweep.__doc__, flags=re.M), parameter.name


def test_experiments_make_runs_and_state_no_claims() -> None:
    """Claims and their rules stand in one room, above the experiments that measure for them."""
    stating = ("CLAIMS", "claims", "read_claims", "measured")
    for room in ("experiments", "layer_map"):
        for file in (HOUSE / "dit_lens" / room).glob("*.py"):
            module = importlib.import_module(f"dit_lens.{room}.{file.stem}".removesuffix(".__init__"))
            assert [name for name in stating if hasattr(module, name)] == [], file
