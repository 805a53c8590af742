"""Sampling arguments under diffusers' own names: given flat, or together as one ``sampling=`` value.

Everything that generates takes both forms and brings them together with :func:`merged`, so that a name means the same
everywhere and a misspelt one is an error::

    lens.generate(task, num_inference_steps=20, guidance_scale=3.0)
    lens.generate(task, sampling=dl.Sampling(num_inference_steps=20, guidance_scale=3.0))
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from inspect import signature
from typing import Any, TypedDict

from dit_lens import checks
from dit_lens.errors import SamplerError


@dataclass(frozen=True)
class Sampling:
    """How a generation is sampled. ``None`` means: as the preset, the task, the lens or the pipeline has it.

    Numbers are finite, and integers where a count is meant.

    Args:
        num_inference_steps: Denoising steps.
        guidance_scale: Classifier-free guidance; 1 or less makes no ``uncond`` calls.
        guidance_scale_2: The low-noise expert's scale; ``guidance_scale`` by default.
        negative_prompt: Text of the ``uncond`` branch.
        height: Pixels.
        width: Pixels.
        num_frames: Frames of the video, 1 + a multiple of the codec's stride.
        max_sequence_length: Text tokens.
        scheduler: A scheduler to use instead of the pipeline's (it is copied, never changed).
        preset: A named sampler, ``"paper"``; what else is given goes before it.
        boundary_ratio: Noise level at which the low-noise expert takes over, from 0 to 1.

    Raises:
        SamplerError: For NaN, infinity and other types.
    """

    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    guidance_scale_2: float | None = None
    negative_prompt: str | None = None
    height: int | None = None
    width: int | None = None
    num_frames: int | None = None
    max_sequence_length: int | None = None
    scheduler: Any = None
    preset: str | None = None
    boundary_ratio: float | None = None

    def __post_init__(self) -> None:
        for name in ("num_inference_steps", "height", "width", "num_frames", "max_sequence_length"):
            self._set(name, checks.count, -math.inf)
        for name in ("guidance_scale", "guidance_scale_2"):
            self._set(name, checks.number)
        self._set("boundary_ratio", checks.number, 0, 1)
        for name in ("negative_prompt", "preset"):
            if not isinstance(getattr(self, name), str | None):
                raise SamplerError(f"{name}={getattr(self, name)!r}: give a text")

    def _set(self, name: str, check: Callable[..., Any], *bounds: float) -> None:
        """Check a number; numpy's become Python's, which files can hold."""
        value = getattr(self, name)
        if value is not None:
            value = check(value, name, *bounds)
            object.__setattr__(self, name, value.item() if hasattr(value, "item") else value)

    def given(self) -> dict[str, Any]:
        """The fields that are not None, by name."""
        return {f.name: value for f in fields(self) if (value := getattr(self, f.name)) is not None}

    def but(self, **changes: Any) -> Sampling:
        """A copy with some fields replaced; None leaves a field as it is."""
        return replace(self, **{name: value for name, value in changes.items() if value is not None})

    def __repr__(self) -> str:
        return f"Sampling({', '.join(f'{name}={value!r}' for name, value in self.given().items())})"


#: Nothing told: everything as the lens and the task have it.
DEFAULT = Sampling()


class SamplingArguments(TypedDict, total=False):
    """The fields of :class:`Sampling` as keyword arguments, for signatures: ``**given: Unpack[SamplingArguments]``."""

    num_inference_steps: int | None
    guidance_scale: float | None
    guidance_scale_2: float | None
    negative_prompt: str | None
    height: int | None
    width: int | None
    num_frames: int | None
    max_sequence_length: int | None
    scheduler: Any
    preset: str | None
    boundary_ratio: float | None


#: What ``sampling=`` takes: a :class:`Sampling`, or a mapping with its names.
SamplingLike = Sampling | Mapping[str, Any]

NAMES: tuple[str, ...] = tuple(f.name for f in fields(Sampling))


def merged(
    sampling: SamplingLike | None, given: Mapping[str, Any], of: Callable[..., Any] | None = None
) -> Sampling:
    """Sampling arguments given together and flat, as one value.

    Args:
        sampling: The ``sampling=`` argument: a Sampling, a mapping with its names, or None.
        given: The flat arguments; None means not given.
        of: The function they were given to, whose own arguments are suggested for a misspelt name, too.

    Raises:
        SamplerError: For an unknown name, for a name in both, and for another kind of value.
    """
    whole: Any = sampling
    if whole is not None and not isinstance(whole, Sampling | Mapping):
        number = f"num_inference_steps={whole}, or " if isinstance(whole, int) else ""
        raise SamplerError(
            f"sampling={whole!r}: give {number}a dit_lens.Sampling, or a mapping with some of {', '.join(NAMES)}"
        )
    check_names(given, of)
    together = whole.given() if isinstance(whole, Sampling) else dict(whole or {})
    check_names(together)
    together = {name: value for name, value in together.items() if value is not None}
    flat = {name: value for name, value in given.items() if value is not None}
    twice = sorted(set(together) & set(flat))
    if twice:
        raise SamplerError(
            f"{', '.join(twice)} given twice, in sampling= and beside it: leave one of them out, or write "
            f"sampling=sampling.but({twice[0]}={flat[twice[0]]!r})"
        )
    return Sampling(**together, **flat)


def of_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Of the arguments of a call, those that concern the sampling."""
    return {name: value for name, value in arguments.items() if name in NAMES or name == "sampling"}


def check_names(names: Iterable[str], of: Callable[..., Any] | None = None) -> None:
    """Refuse a name that no sampling argument has.

    Args:
        names: Names that were given.
        of: The function they were given to.

    Raises:
        SamplerError: With the near names, and all of them.
    """
    for name in names:
        if name not in NAMES:
            own = [] if of is None else [n for n in signature(of).parameters if n not in ("self", "given", "lens")]
            near = _near(name, own)
            meant = f"did you mean {' or '.join(near)}? " if near else ""
            raise SamplerError(f"unknown argument {name!r}: {meant}Sampling arguments are {', '.join(NAMES)}")


def _near(name: str, own: list[str]) -> list[str]:
    """Names that are spelt nearly so, else those that contain it as a word."""
    known = [*NAMES, *own]
    words = [one for one in known if name in one.split("_") or one.startswith(f"{name}_")]
    return words or difflib.get_close_matches(str(name), known, n=2, cutoff=0.6)
