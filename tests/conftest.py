"""What every test may ask for: each family, each scheduler, a pipeline of the two, and the system's Chromium."""

import os
import shutil
from collections.abc import Iterator

import pytest
import torch
from diffusers import DiffusionPipeline
from families import FAMILIES, SCHEDULERS, Family
from quick_rule import COLLECTED, is_quick, long_functions, room_of


@pytest.hookimpl(tryfirst=True)  # before tests are chosen by their marks
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the quick tests: `tests/quick_rule.py` has the rule."""
    config.stash[COLLECTED] = {room_of(item.nodeid): 0 for item in items}
    for item in items:
        if is_quick(item, long_functions()):
            item.add_marker("quick")
            config.stash[COLLECTED][room_of(item.nodeid)] += 1


@pytest.fixture(scope="session", autouse=True)
def few_threads() -> Iterator[None]:
    """Tiny tensors gain nothing from threads, and one thread keeps timings even."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=FAMILIES.values(), ids=str)
def family(request: pytest.FixtureRequest) -> Family:
    """Each of the five families in turn."""
    return request.param


@pytest.fixture(params=SCHEDULERS)
def scheduler(request: pytest.FixtureRequest) -> str:
    """The name of each scheduler in turn, for `family.build(scheduler)`."""
    return request.param


@pytest.fixture
def pipe(family: Family, scheduler: str) -> DiffusionPipeline:
    """A new tiny pipeline for every family and scheduler."""
    return family.build(scheduler)


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of the system's Chromium, for `playwright.chromium.launch(executable_path=chromium)`.

    Without one the test is skipped, unless DIT_LENS_REQUIRE_BROWSER=1 asks for it: then it fails.
    """
    named = os.environ.get("DIT_LENS_CHROMIUM")
    names = [named] if named else ["chromium", "chromium-browser", "google-chrome"]
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        reason = f"no browser among {names} on the PATH; install Debian's `chromium` or set DIT_LENS_CHROMIUM"
        if os.environ.get("DIT_LENS_REQUIRE_BROWSER") == "1":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    return found
