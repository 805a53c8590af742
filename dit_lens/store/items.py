"""What can be kept, and the file that each kind of value becomes.

======================================  ============  ==========================================
value                                   file          comes back as
======================================  ============  ==========================================
plain JSON values                       .json         itself (tuples as lists)
tables, a mapping name -> xr.Dataset    .nc           equal tables, dtypes and attributes included
:class:`Content`                        .safetensors  itself, tensors bit for bit
what has ``content()``, as a run        .safetensors  its content; from memory, itself
======================================  ============  ==========================================

Nothing in a file is executed when it is read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5netcdf
import xarray as xr
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

HEADER = "header"
#: What reading and writing these files raises; h5py and safetensors have errors of their own for a full disk.
TROUBLE = (OSError, RuntimeError, SafetensorError)
DAMAGE = (*TROUBLE, ValueError, LookupError, TypeError)


@dataclass(frozen=True, eq=False)
class Content:
    """Named tensors with a header.

    Attributes:
        tensors: Name -> tensor.
        header: Plain JSON values.
    """

    tensors: Mapping[str, Tensor]
    header: Any = field(default=None)


def suffix(value: Any) -> str:
    """The ending of the file that a value is kept in."""
    if isinstance(value, Content) or hasattr(value, "content"):
        return ".safetensors"
    tables = isinstance(value, Mapping) and value and all(isinstance(v, xr.Dataset) for v in value.values())
    return ".nc" if tables else ".json"


def write(value: Any, file: Path) -> None:
    """Write a value in the form that its kind has.

    Args:
        value: What can be kept, as listed above.
        file: The place; its ending is not looked at.
    """
    kind = suffix(value)
    if kind == ".safetensors":
        content = value if isinstance(value, Content) else value.content()
        save_file(apart(content.tensors), file, {HEADER: json.dumps(content.header, default=plain)})
    elif kind == ".nc":
        for name, table in value.items():
            table.to_netcdf(file, mode="a", group=name, engine="h5netcdf")
    else:
        file.write_text(json.dumps(value, default=plain), encoding="utf-8")


def read(file: Path) -> Any:
    """The value in a file, by its ending.

    Args:
        file: A file that :func:`write` wrote, with the ending of its kind.
    """
    if file.suffix == ".safetensors":
        with safe_open(file, "pt") as opened:
            header = json.loads((opened.metadata() or {})[HEADER])
            return Content({name: opened.get_tensor(name) for name in opened.keys()}, header)  # noqa: SIM118
    if file.suffix == ".nc":
        with h5netcdf.File(file, "r") as opened:
            names = list(opened.groups)
        # Units such as "seconds" are no calendar.
        return {name: xr.load_dataset(file, group=name, engine="h5netcdf", decode_times=False) for name in names}
    return json.loads(file.read_text(encoding="utf-8"))


def apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, contiguous and each with memory of its own, as safetensors needs them.

    Args:
        tensors: Name -> tensor; several may share memory.
    """
    seen: set[int] = set()
    found = {}
    for name, tensor in tensors.items():
        own = tensor.detach().contiguous()
        place = own.untyped_storage().data_ptr()
        found[name] = own.clone() if place in seen else own
        seen.add(place)
    return found


def plain(value: Any) -> Any:
    """Numbers of numpy and torch, paths and mappings as JSON's own values.

    Raises:
        TypeError: The value has no plain form.
    """
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return dict(value)
    if hasattr(value, "tolist"):  # numpy and torch
        return value.tolist()
    raise TypeError(f"a {type(value).__name__} cannot be kept: keep numbers, texts, and lists and mappings of them")
