"""The versions that a number depends on."""

from __future__ import annotations

from functools import cache
from importlib import metadata


@cache
def _found() -> tuple[tuple[str, str], ...]:
    found = []
    for name in ("dit-lens", "torch", "diffusers", "transformers", "transformer-lens", "nnsight"):
        try:
            found.append((name, metadata.version(name)))
        except metadata.PackageNotFoundError:
            found.append((name, "not installed"))
    if found[0][1] == "not installed":  # run from its folder
        import dit_lens

        found[0] = ("dit-lens", dit_lens.__version__)
    return tuple(found)


def versions() -> dict[str, str]:
    """Package -> installed version, of everything that can change a number."""
    return dict(_found())
