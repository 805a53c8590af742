"""How docstrings become pages: a griffe extension for mkdocs (``mkdocs.yml`` names it; nothing else uses it).

Our docstrings are in Google style, with Sphinx's roles (``:func:`dit_lens.patch```) and ``::`` before a block.
mkdocstrings reads the sections, and Markdown in them. So roles become links where their target has a page, and ``::``
becomes ``:``.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

_ROLE = re.compile(r":(class|func|meth|mod|data|attr):`([^`]+)`")


class House(griffe.Extension):
    """Rewrites every docstring of the package once it is read."""

    def on_package(self, *, pkg: griffe.Module, loader: griffe.GriffeLoader, **kwargs: Any) -> None:
        errors = pkg.members["errors"]
        for found in list(_walk(pkg)):
            if found.is_module and found is not errors:  # errors in Raises are links also where they are not imported
                for name in [name for name in errors.members if name.endswith("Error") and name not in found.members]:
                    found.set_member(name, griffe.Alias(name, f"{errors.path}.{name}", parent=found))
            if found.is_module:
                found.exports = None  # a page shows each name once, in the file that defines it
            text = found.docstring.value if found.docstring else ""
            if not text:
                continue
            found.docstring.value = markdown(text, lambda *role, scope=found: target(pkg, scope, *role))


def _walk(found: griffe.Object) -> Any:
    yield found
    for member in found.members.values():
        if not member.is_alias:
            yield from _walk(member)


def markdown(text: str, find: Any) -> str:
    """A docstring as Markdown; ``find(kind, name)`` gives the full path of what a role names, or None."""

    def role(match: re.Match[str]) -> str:
        kind, name = match[1], match[2].removeprefix("~")
        path = find(kind, name)
        return f"`{name}`" if path is None else f'<autoref identifier="{path}" optional><code>{name}</code></autoref>'

    text = _ROLE.sub(role, text)
    return re.sub(r"::$", ":", text, flags=re.M)


def target(pkg: griffe.Module, scope: griffe.Object, kind: str, name: str) -> str | None:
    """Where a role points: a path in the package, a public name (``dit_lens.patch``), or a name in scope."""
    if name.startswith(f"{pkg.name}."):
        rest = name.split(".")[1:]
        homes = _homes(pkg)
        if rest[0] in homes:
            rest = [*homes[rest[0]], *rest[1:]]
        path = _follow(pkg, rest, kind)
    else:
        first, *rest = name.split(".")
        try:
            path = scope.resolve(first)
        except griffe.NameResolutionError:
            return None
        path = _follow(pkg, [*path.split(".")[1:], *rest], kind) if path.startswith(f"{pkg.name}.") else None
    return path


def _homes(pkg: griffe.Module) -> dict[str, list[str]]:
    """Public names that the package fetches when they are first used, and where they live below it."""
    from importlib import import_module

    top = import_module(pkg.name)  # light
    homes = {name: [*home.split(".")[1:], name] for name, home in top._LAZY.items()}
    return homes | {name: home.split(".")[1:] for name, home in top._MODULES.items()}


def _follow(pkg: griffe.Module, parts: list[str], kind: str) -> str | None:
    """The canonical path below the package; a name re-exported by a room is followed to where it is defined."""
    found: Any = pkg
    for i, part in enumerate(parts):
        if part not in found.members:
            return None
        found = found.members[part]
        if found.is_alias:
            try:
                found = found.final_target
            except griffe.GriffeError:
                return None
        inner = found.members.get(part)
        if kind != "mod" and i == len(parts) - 1 and found.is_module and inner is not None and inner.is_function:
            found = inner  # interventions.patch is a file and the function in it
    return found.path
