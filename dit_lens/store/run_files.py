"""The files of a saved run: tensors as safetensors and a header as JSON, written to a new folder and moved into place.

``run.json`` holds a checksum of the tensors and one of itself, so that a folder that was cut short, mixed or changed
by accident is refused. Nothing in a folder is executed: no pickle, and no name in it is imported. What the content
means is for :mod:`dit_lens.wan.run_content`.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from dit_lens.errors import StoreError
from dit_lens.store.atomic import new_folder, refuse_foreign
from dit_lens.store.identity import checksum
from dit_lens.store.items import Content, apart, plain

FORMAT = 3
HEADER, TENSORS = "run.json", "run.safetensors"


def write_run(content: Content, folder: str | Path, manifest: str | None = None) -> Path:
    """Write the content of a run; a folder that exists is replaced only when it is empty or holds a run and no more.

    Args:
        content: The content.
        folder: The place.
        manifest: The checksum of the manifest that the run was made under, where it is the result of long work.

    Returns:
        The folder.

    Raises:
        StoreError: The place cannot be written or holds something else, or the header has what JSON cannot say.
    """
    folder = Path(folder)
    try:
        refuse_foreign(folder, {HEADER, TENSORS}, "a saved run")
        with new_folder(folder) as scratch:
            save_file(apart(content.tensors), scratch / TENSORS)
            header = json.loads(json.dumps(content.header, default=plain))
            about = {"format": FORMAT, **header, "manifest": manifest, "tensors": _digest(scratch / TENSORS)}
            about["checksum"] = checksum(about)
            (scratch / HEADER).write_text(json.dumps(about, indent=1), encoding="utf-8")
    except StoreError:
        raise
    except TypeError as error:
        raise StoreError(f"this run cannot be saved: {error}") from error
    except (OSError, SafetensorError) as error:  # safetensors has an error of its own for a full disk
        raise StoreError(f"cannot write a run to {folder}: {error}; choose a folder that can be written") from error
    return folder


def read_run(folder: str | Path) -> Content:
    """Read what :func:`write_run` wrote.

    Args:
        folder: The folder of a saved run.

    Raises:
        StoreError: The folder is missing or damaged, or of another format.
    """
    folder = Path(folder)
    again = "generate it again"
    try:
        about = json.loads((folder / HEADER).read_text(encoding="utf-8"))
        if about["format"] != FORMAT:
            raise StoreError(
                f"the run in {folder} has format {about['format']!r} and this version of dit_lens reads {FORMAT}: load "
                f"it with the version that wrote it, or {again}"
            )
        said = about.pop("checksum")
        if said != checksum(about):
            raise StoreError(f"the run in {folder} is damaged: {HEADER} is not what was written; {again}")
        if about["tensors"] != _digest(folder / TENSORS):
            raise StoreError(f"the run in {folder} is damaged: {TENSORS} is not what was written; {again}")
        header = {k: v for k, v in about.items() if k not in ("format", "manifest", "tensors")}
        return Content(load_file(folder / TENSORS), header)
    except StoreError:
        raise
    except (FileNotFoundError, NotADirectoryError):
        raise StoreError(f"{folder} holds no run: it needs {HEADER} and {TENSORS}, as run.save() writes") from None
    except OSError as error:
        raise StoreError(f"cannot read {folder}: {error}; check that the folder may be read") from error
    except (SafetensorError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise StoreError(f"the run in {folder} is damaged ({error!r}): {again}") from error


def manifest_of(folder: str | Path) -> str | None:
    """The checksum of the manifest that a saved run was made under; None where there is none, or no run."""
    try:
        found = json.loads((Path(folder) / HEADER).read_text(encoding="utf-8"))["manifest"]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return found if isinstance(found, str) else None


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
