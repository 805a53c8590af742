"""Names of puzzles: one for each family, level and size, and the same puzzle by every way of naming it."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dit_lens import tasks
from dit_lens.errors import TaskError
from dit_lens.tasks import catalog, grid, palette
from dit_lens.tasks.level import COLOURS


@st.composite
def kinds(draw):
    """Any family at any of its levels and sizes."""
    known = catalog.parse(draw(st.sampled_from(tasks.listed())))
    size = draw(st.sampled_from(catalog.sizes(known.family, known.level)))
    return catalog.Kind(known.family, known.level, size)


@settings(deadline=None, max_examples=80)
@given(kinds(), st.integers(0, 5000), st.sampled_from(tasks.SPLITS))
def test_a_task_is_found_again_by_its_three_words(kind, seed, split):
    parts = {
        "level": kind.level, "rows": kind.size.rows, "cols": kind.size.cols, "num_frames": kind.size.num_frames
    }  # fmt: skip
    task = tasks.load(kind.family, seed, split, **parts)
    assert task.name == str(kind) == tasks.canonical(kind.family, **parts)
    assert tasks.load(task.name, task.seed, task.split) == task
    assert tasks.scene(task.name, seed, split) == task.scene
    assert task.scene.size == kind.size
    assert task.frames.shape == (kind.size.num_frames, 16 * kind.size.rows, 16 * kind.size.cols, 3)
    assert (task.num_frames, task.height, task.width, 3) == task.frames.shape
    assert task.family == kind.family
    long = f"{kind.family}-{kind.level}-{kind.size}"
    assert tasks.load(long, seed, split) == task, "the same puzzle, also with nothing left out"


def test_usual_parts_are_left_out():
    assert tasks.load("maze", 3).name == "maze"
    assert tasks.load("maze-lab", 3) == tasks.load("maze", 3, rows=6, num_frames=13)
    assert tasks.load("maze-hard-6x6x17", 3).name == "maze-hard"
    assert tasks.canonical("maze", level="hard", rows=7, cols=7, num_frames=17) == "maze-hard-7x7x17"
    assert tasks.canonical("maze-hard", num_frames=21) == "maze-hard-6x6x21"
    assert tasks.canonical("maze-hard-7x7x17", cols=8) == "maze-hard-7x8x17"


def test_names_are_the_four_of_the_lab_model():
    assert tasks.names() == ("maze", "choose", "occlude", "pattern")
    assert all(tasks.load(name).scene.size == grid.LAB for name in tasks.names())
    assert set(tasks.names()) < set(tasks.listed())
    families = Counter(name.partition("-")[0] for name in tasks.listed())
    assert families == {
        "maze": 3, "choose": 3, "order": 2, "emerge": 2, "slide": 2, "bounce": 2, "occlude": 1, "pattern": 1
    }  # fmt: skip


def test_levels_and_sizes_are_different_puzzles():
    puzzles = {tasks.load(name, 0).scene for name in ("maze", "maze-easy", "maze-7x7x13", "maze-6x6x17", "maze-hard")}
    assert len(puzzles) == 5


def test_fits_is_whether_there_is_such_a_puzzle():
    for name in tasks.listed():
        for rows, cols, frames in ((5, 5, 9), (6, 6, 13), (8, 5, 17), (8, 8, 21), (4, 6, 13), (6, 6, 12)):
            if tasks.fits(name, rows, cols, frames):
                assert tasks.load(name, 0, rows=rows, cols=cols, num_frames=frames).num_frames == frames
            else:
                with pytest.raises(TaskError):
                    tasks.load(name, 0, rows=rows, cols=cols, num_frames=frames)
    assert tasks.fits("maze-hard", 7, 7, 17)
    assert not tasks.fits("maze-hard", 7, 7, 13)


@pytest.mark.parametrize(
    ("call", "hint"),
    [
        (lambda: tasks.load("slide"), "'slide-easy'"),
        (lambda: tasks.load("maze", level="heroic"), "'hard'"),
        (lambda: tasks.load("maze-heroic"), "'hard'"),
        (lambda: tasks.load("maze-hard", level="easy"), "give the family, 'maze'"),
        (lambda: tasks.load("maze", rows=4), "5 to 8"),
        (lambda: tasks.load("maze", rows=6.0), "5 to 8"),
        (lambda: tasks.load("maze", num_frames=12), "num_frames is one of"),
        (lambda: tasks.load("maze-hard-6x6x13"), "6x6x17"),
        (lambda: tasks.load("maze-hard-"), "'maze-hard'"),
        (lambda: tasks.load(3), "'maze-hard'"),
        (lambda: tasks.fits("labyrinth", 6, 6, 13), "'maze'"),
    ],
)
def test_a_name_that_there_is_not_is_refused_with_a_cure(call, hint):
    with pytest.raises(TaskError, match=hint):
        call()


def test_a_video_of_another_size_is_refused():
    with pytest.raises(TaskError, match="height=112, width=96"):
        tasks.load("maze-7x6x13").score(tasks.load("maze").frames)
    with pytest.raises(TaskError, match="num_frames=17"):
        tasks.load("maze-hard").score(tasks.load("maze").frames)


# ---- prompts


def test_no_prompt_is_ambiguous():
    """No two families share one, so the text alone tells the family, the colours, and their order."""
    by_family: dict[str, set[str]] = {}
    for name in tasks.listed():
        by_family.setdefault(name.partition("-")[0], set()).update(tasks.prompts([name]))
    every = [prompt.lower().rstrip(".!") for found in by_family.values() for prompt in found]
    assert len(set(every)) == len(every) == len(tasks.prompts())
    for prompt, (family, named) in tasks.prompts().items():
        assert prompt in by_family[family]
        assert len(prompt.encode()) < 64
        if named:
            words = [word.strip(",:.") for word in prompt.split()]
            assert tuple(word for word in words if word in COLOURS) == named


@pytest.mark.parametrize("name", tasks.listed())
def test_every_prompt_that_is_drawn_is_known(name):
    known = tasks.prompts([name])
    family = name.partition("-")[0]
    assert set(known.items()) <= set(tasks.prompts().items())
    drawn = {tasks.scene(name, seed, "train").prompt for seed in range(200)}
    assert drawn <= set(known)
    assert all(known[prompt][0] == family for prompt in drawn)
    level = catalog.parse(name)
    assert len(set(level.rules.phrases)) >= (4 if level.level == "lab" else 10)
    for task in tasks.batch(name, 10):
        scene, named = task.scene, known[task.prompt][1]
        if family in ("choose", "occlude"):
            assert named == (palette.NAMES[scene.colour],)
        elif family == "order":
            assert named == (palette.NAMES[scene.first[1]], palette.NAMES[scene.then[1]])
        else:
            assert named == ()
