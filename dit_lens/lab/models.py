"""The lab's models by name: ``lab``, and what differs from a shipped pipeline in its weights alone.

A shipped pipeline is a folder of the package. A checkpoint of its training (``lab40@1600``), another training seed
(``lab40-seed1``) or a student (``lab40-student``) is a file or two in half precision beside it, in a folder of the
repository that is not in the wheel. ``index.json`` there says for every name what it is made of::

    {"lab40@1600": {"of": "lab40", "files": {"transformer": "lab40@1600.safetensors", ...}, "sha256": {file: hash},
                    "settings": {...}, "scheduler": {...}, "codec": {...}, "about": "..."}}

``settings`` and ``scheduler`` are what differs from the pipeline's own, for example a student's four steps. ``codec``
is the configuration of another codec (``{"kind": "coupled", "latents_mean": [...], ...}``), for other latents.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dit_lens.errors import LoadError

WEIGHTS = Path(__file__).parent / "weights"
CHECKPOINTS = Path(__file__).parent / "checkpoints"
INDEX = "index.json"


@dataclass(frozen=True)
class Model:
    """A model of the lab.

    Attributes:
        name: As it is given to ``dit_lens.load``.
        folder: Pipeline in diffusers layout.
        files: Component -> its weights, where they are not the folder's.
        sha256: File name -> hash.
        settings: Generation defaults that differ from the folder's.
        scheduler: Entries of the scheduler's configuration that differ.
        codec: Another codec, as :func:`dit_lens.lab.coupled_codec.codec` takes it.
        about: What it is, in a sentence.
    """

    name: str
    folder: Path
    files: Mapping[str, Path] = field(default_factory=dict)
    sha256: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    scheduler: Mapping[str, Any] = field(default_factory=dict)
    codec: Mapping[str, Any] = field(default_factory=dict)
    about: str = ""

    def equip(self, pipe: Any) -> None:
        """Give a pipeline that was loaded from ``folder`` this model's weights, scheduler and codec.

        A checkpoint of other depth, from before a model grew, gets transformers with as many blocks.

        Raises:
            LoadError: A file is damaged, or does not fit.
        """
        from safetensors.torch import load

        for part, path in self.files.items():
            content = path.read_bytes()
            if hashlib.sha256(content).hexdigest() != self.sha256[path.name]:
                raise LoadError(f"{path} is not the file that {INDEX} describes: check the repository out again")
            state = load(content)
            model = _of_depth(getattr(pipe, part), state)
            try:
                model.load_state_dict(state)
            except RuntimeError as error:
                raise LoadError(
                    f"{path} has tensors of other names or shapes than {part} of {self.folder.name!r}: check both out "
                    "again"
                ) from error
            if model is not getattr(pipe, part):
                pipe.register_modules(**{part: model})
        if self.scheduler:
            pipe.scheduler = type(pipe.scheduler).from_config({**pipe.scheduler.config, **self.scheduler})
        if self.codec:
            from dit_lens.lab.coupled_codec import codec

            pipe.vae = codec(**self.codec).to(pipe.vae.device, pipe.vae.dtype)


def n_blocks(state: Mapping[str, Any]) -> int:
    """How many blocks a transformer's weights have."""
    return len({name.split(".")[1] for name in state if name.startswith("blocks.")})


def _of_depth(model: Any, state: Mapping[str, Any]) -> Any:
    """The transformer, or another one of its build with as many blocks as the weights have."""
    blocks = n_blocks(state)
    if not blocks or blocks == model.config.num_layers:
        return model
    made = type(model).from_config({**model.config, "num_layers": blocks})
    return made.to(model.device, model.dtype).eval()


def pipelines() -> tuple[str, ...]:
    """Names of the pipelines in the package."""
    return tuple(sorted(path.parent.name for path in WEIGHTS.glob("*/model_index.json")))


def names() -> tuple[str, ...]:
    """All names of the lab's models that can be loaded here."""
    return (*pipelines(), *sorted(_index()))


def find(name: Any) -> Model | None:
    """The lab's model of a name.

    Args:
        name: What a user gave to ``dit_lens.load``.

    Returns:
        The model; None where this is not the name of one, but a folder or a hub id.

    Raises:
        LoadError: The name has the form of one, and there is none.
    """
    if not isinstance(name, str):
        return None
    if name in pipelines():
        return Model(name, WEIGHTS / name)
    found = _index().get(name)
    if found is None:
        of = re.split("[@-]", name)[0]
        if of == name or of not in pipelines() or Path(name).exists():
            return None
        raise LoadError(
            f"{name!r} is no model of the lab here: choose from {', '.join(names())}. Checkpoints, training seeds and "
            "students are in the repository and not in the wheel: clone it and install with pip install -e ."
        )
    files = {part: CHECKPOINTS / file for part, file in found["files"].items()}
    rest = {key: found[key] for key in ("sha256", "settings", "scheduler", "codec", "about") if key in found}
    return Model(name, WEIGHTS / found["of"], files, **rest)


def _index() -> dict[str, Any]:
    path = CHECKPOINTS / INDEX
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found
