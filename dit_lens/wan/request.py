"""What a generation is asked for, spelled out: one item for each task and seed, one size, parts of a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dit_lens import checks, pictures
from dit_lens.errors import InterventionError, SamplerError
from dit_lens.wan.conditions import Size
from dit_lens.wan.editing import Intervention
from dit_lens.wan.sampling import Sampling


@dataclass(frozen=True)
class Item:
    """One generation asked for: what it is made from.

    Attributes:
        prompt: A text, or embeddings.
        image: The first frame, or None.
        seed: Of the noise.
        task: What the rest was taken from, or None.
        regions: Name -> bool mask.
    """

    prompt: Any
    image: Any
    seed: int
    task: Any
    regions: Mapping[str, Any]


def items_of(task: Any, prompt: Any, image: Any, seed: Any, regions: Any, takes_image: bool) -> tuple[list[Item], bool]:
    """The items of a generation.

    Args:
        task: A task, a list, or None.
        prompt: Goes before the tasks' own.
        image: Goes before the tasks' own.
        seed: A seed or a list.
        regions: Go before the tasks' own.
        takes_image: Whether the pipeline starts from an image; where it does not, pictures of tasks are left out.

    Returns:
        The items, and whether several were asked for (a list of one is several, too).

    Raises:
        SamplerError: Tasks and seeds do not pair up, a picture cannot be read, or there is nothing to generate from.
    """
    tasks = list(task) if isinstance(task, Sequence) and not isinstance(task, str) else [task]
    if isinstance(task, str):
        raise SamplerError(f"generate({task!r}): a bare string is ambiguous; write prompt={task!r}")
    found, several = checks.seeds(seed)
    seeds = list(found)
    if len(tasks) > 1 and len(seeds) == 1:
        seeds = seeds * len(tasks)
    if len(seeds) > 1 and len(tasks) == 1:
        tasks = tasks * len(seeds)
    if len(tasks) != len(seeds) or not tasks:
        raise SamplerError(f"{len(tasks)} tasks and {len(seeds)} seeds: give one seed, or one for each task")
    items = []
    for one, number in zip(tasks, seeds, strict=True):
        text = prompt if prompt is not None else getattr(one, "prompt", None)
        if text is None:
            raise SamplerError("nothing to generate from: give a task, or prompt= (and image= for image-to-video)")
        picture = image if image is not None else getattr(one, "image", None)
        if not takes_image and image is None:
            picture = None
        picture = pictures.picture(picture)
        named = regions if regions is not None else getattr(one, "regions", None) or {}
        items.append(Item(text, picture, number, one, named))
    many = several or isinstance(task, Sequence)
    return items, many


def check_resumed(given: Mapping[str, Any]) -> None:
    """Refuse arguments that a resumed run would ignore.

    Args:
        given: Arguments beside ``resume=``, by name; None means not given.

    Raises:
        SamplerError: Naming them.
    """
    ignored = [name for name, value in given.items() if value is not None]
    if ignored:
        raise SamplerError(
            f"resume= goes on with the run's own prompt, seed, sampling and regions, so it would ignore "
            f"{', '.join(ignored)}: leave {'it' if len(ignored) == 1 else 'them'} out, or generate anew without resume="
        )


def size_for(task: Any, sampling: Sampling, defaults: Any) -> Size:
    """The size of one item: as given, else its task's own, else the model's.

    Args:
        task: A task, or None.
        sampling: What was given.
        defaults: The model's.
    """
    names = ("height", "width", "num_frames")
    return Size(*(first(getattr(sampling, n), getattr(task, n, None), getattr(defaults, n)) for n in names))


def size_of(items: Sequence[Item], sampling: Sampling, defaults: Any) -> Size:
    """The size of all items: as given, else their tasks' own, else the model's.

    Args:
        items: The items.
        sampling: What was given.
        defaults: The model's.

    Raises:
        SamplerError: Tasks differ.
    """
    sizes = {size_for(item.task, sampling, defaults) for item in items}
    if len(sizes) > 1:
        raise SamplerError(
            f"the items of one generation must share their size, found {sorted(map(str, sizes))}: generate them one by "
            "one, or give height=, width= and num_frames="
        )
    return sizes.pop()


def at_once(batch: int | None, items: int, edits: Sequence[Intervention]) -> int:
    """How many items go through the denoiser together.

    Args:
        batch: The largest number; None for all.
        items: How many there are.
        edits: Interventions, some of which may mix the rows of a batch.

    Raises:
        SamplerError: ``batch`` is no positive integer.
        InterventionError: ``batch`` would part items that an intervention mixes.
    """
    if batch is None:
        return items
    if isinstance(batch, bool) or not isinstance(batch, int) or batch < 1:
        raise SamplerError(
            f"batch={batch!r}: give the largest number of items in one denoiser call, 1 or more, or None for all"
        )
    shared = [edit for edit in edits if getattr(edit, "together", False)]
    if shared and batch < items:
        raise InterventionError(
            f"{shared[0]} shares activations among all {items} items, and batch={batch} would part them: leave batch "
            f"out or give batch={items}; where memory is short, use fewer seeds, frames or pixels"
        )
    return min(batch, items)


def first(*values: Any) -> Any:
    """The first that is not None."""
    return next(v for v in values if v is not None)


def stack_regions(regions: Sequence[Mapping[str, np.ndarray]]) -> dict[str, Tensor]:
    """Token masks of a batch, of the regions that every item has.

    Args:
        regions: Of each item, name -> bool (N,).

    Returns:
        Name -> bool (B, N).
    """
    shared = [name for name in regions[0] if all(name in r for r in regions)]
    return {name: torch.from_numpy(np.stack([r[name] for r in regions])) for name in shared}
