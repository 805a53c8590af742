"""One denoiser with its points, as TransformerLens sees it: install, watch, remove.

``Expert`` is a ``HookedRootModule``, so ``hook_dict``, ``run_with_cache`` and friends work on a single denoiser call.
It shares the transformer's modules and owns no parameter. Points outside the blocks are reached by the same class
swap, on the small modules that compute them.

Not for use before offload hooks that wrap single layers: those hold the forward they found, and a later swap would be
bypassed in silence. ``guards.check_modules`` refuses that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint
from transformer_lens.HookedRootModule import HookedRootModule

from dit_lens.errors import AddressError, InterventionError, LoadError
from dit_lens.wan import blocks
from dit_lens.wan.points import IMAGE_CONTEXT, POINTS

Hook = tuple[str, Callable[..., Tensor | None]]
_LEVEL = 7_001  # marks the hooks of one library call, so that removing them leaves the user's own in place
_TAKE_OUT = "_dit_lens_take_out"  # on a transformer under a lens: what takes its points out

#: Upstream module names on the path of a point, and the TransformerLens names for them.
RENAME = {"attn1": "attn", "attn2": "cross_attn", "ffn": "mlp"}


class TakeOut(list[Callable[[], None]]):
    """What undoes each change that an expert made to a model.

    It holds the model's modules, and neither the expert nor the lens.
    A copy of the model has an empty one: what stands here would take the points out of the original.
    """

    def __call__(self) -> None:
        """Take every point out, the last first; a second time does nothing."""
        while self:
            self.pop()()

    def __deepcopy__(self, memo: Any) -> TakeOut:
        return TakeOut()

    def __reduce__(self) -> Any:
        return TakeOut, ()


class Expert(HookedRootModule):
    """One hooked Wan denoiser, ``high`` or ``low``.

    Args:
        name: ``high`` or ``low``.
        transformer: The model that gets points. A failure on the way leaves it as it was.
        calls: Shared by the experts of one lens: the calls that are running now, one at most.
    """

    def __init__(self, name: str, transformer: nn.Module, calls: list[str] | None = None) -> None:
        super().__init__()
        # Not registered as a child: the points are, under their TransformerLens names.
        self.__dict__["transformer"] = transformer
        self.name = name
        config: Any = transformer.config
        self.image_context = config.added_kv_proj_dim is not None
        self.n_layers: int = config.num_layers
        self.cfg = SimpleNamespace(
            n_layers=config.num_layers,
            n_heads=config.num_attention_heads,
            n_key_value_heads=None,
            d_head=config.attention_head_dim,
            d_model=config.num_attention_heads * config.attention_head_dim,
            d_mlp=config.ffn_dim,
            device=None,
            model_name=f"wan-{name}",
        )
        self._calls = [] if calls is None else calls
        self.take_out = TakeOut()
        try:
            self._install()
            self.setup()
        except BaseException:
            self.close()
            raise

    # -- names

    def setup(self) -> None:
        """Name the points. Only HookPoints get a ``.name``: upstream modules are left as they are."""
        self.hook_dict = {}
        for p in POINTS:
            if p.name in IMAGE_CONTEXT and not self.image_context:
                continue
            for layer in range(self.n_layers) if p.in_block else (-1,):
                hook = self._find(p.at(layer))
                hook.name = p.at(layer)
                self.hook_dict[p.at(layer)] = hook
        self.mod_dict = dict(self.hook_dict)

    def hook(self, path: str) -> HookPoint:
        """The HookPoint of a full path.

        Raises:
            AddressError: There is none; the message lists what is near.
        """
        try:
            return self.hook_dict[path]
        except KeyError:
            near = [p.path for p in POINTS if p.path.rsplit(".", 1)[-1] == path.rsplit(".", 1)[-1]]
            raise AddressError(
                f"expert {self.name!r} has no point {path!r} (layers 0 to {self.n_layers - 1}"
                f"{'' if self.image_context else ', no image context'}); {f'did you mean {near}?' if near else ''} "
                "lens.points() lists all"
            ) from None

    def _find(self, path: str) -> HookPoint:
        module: nn.Module = self.transformer
        back = {new: old for old, new in RENAME.items()}
        for part in path.split("."):
            module = module._modules[back.get(part, part)]  # type: ignore[assignment]
        return module

    # -- running

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The transformer's own forward."""
        return self.transformer(*args, **kwargs)

    @contextmanager
    def listening(self, hooks: Iterable[Hook]) -> Iterator[None]:
        """Attach hooks for the time of the block; they are always removed.

        Args:
            hooks: Pairs of a path and ``fn(activation, hook)``.

        Raises:
            AddressError: For an unknown path.
        """
        attached = []
        try:
            for path, fn in hooks:
                point = self.hook(path)
                point.add_hook(fn, level=_LEVEL)
                attached.append((point, point.fwd_hooks[-1]))
            yield
        finally:
            for point, handle in attached:  # these and no others at the same points
                handle.hook.remove()
                point.fwd_hooks = [other for other in point.fwd_hooks if other is not handle]

    @contextmanager
    def running(self) -> Iterator[None]:
        """Mark one call of the lens as running.

        Raises:
            InterventionError: Inside another call, whose hooks would fire in this one, too.
        """
        if self._calls:
            raise InterventionError(
                "a hook of a running denoiser call cannot run the model again (lens.replay, lens.generate): the hooks "
                "of the outer call would fire in the inner one. Replay before the generation, or write an Edit that "
                "replays in prepare(), as dit_lens.patch does"
            )
        self._calls.append(self.name)
        try:
            yield
        finally:
            self._calls.pop()

    def foreign_hooks(self) -> list[str]:
        """Paths of the points that carry hooks now; between the calls of a lens these are the user's own."""
        return [path for path, point in self.hook_dict.items() if point._forward_hooks or point._backward_hooks]

    @contextmanager
    def starting_at(self, layer: int, stream: Tensor) -> Iterator[None]:
        """Let calls begin at a later block with a stream kept from the same call: earlier blocks pass.

        Through the transformer's own forward, so that offload and parallel hooks still see every block.

        Args:
            layer: The first block that is computed.
            stream: What enters it, (B, N, d).
        """
        with _marked(self.transformer.blocks[:layer], blocks.PASSED, stream):
            yield

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Run every hooked forward, whether or not a torch hook listens (for nnsight and the self-check)."""
        modules = [m for m in self.transformer.modules() if any(n.startswith("hook_") for n in m._modules)]
        with _marked(modules, blocks.WATCHED, True):
            yield

    # -- installing and removing

    def _install(self) -> None:
        transformer = self.transformer
        self.take_out.append(lambda: transformer.__dict__.pop(_TAKE_OUT, None))
        transformer.__dict__[_TAKE_OUT] = self.take_out
        for block in transformer.blocks:
            self._swap(block, blocks.HookedBlock, blocks.BLOCK_POINTS)
            self._swap(block.ffn, blocks.HookedFeedForward, blocks.MLP_POINTS)
            for attn, names in ((block.attn1, blocks.ATTN_POINTS), (block.attn2, blocks.CROSS_POINTS)):
                kept = tuple(n for n in names if self.image_context or not n.endswith("_img"))
                self._swap(attn, None, kept)
                self._swap(attn.processor, blocks.HookedAttnProcessor, ())
        self._tap(transformer.patch_embedding, _TappedPatchEmbedding, ("hook_patch_embed",))
        kept = ("hook_time_embed", "hook_modulation", "hook_text_embed")
        kept += ("hook_image_embed",) if self.image_context else ()
        self._tap(transformer.condition_embedder, _TappedConditions, kept)
        self._tap(transformer.proj_out, _TappedProjection, ("hook_final_norm", "hook_velocity"))

    def _swap(self, module: Any, hooked: type | None, points: tuple[str, ...]) -> None:
        """Give ``module`` the hooked class and its points, and remember how to undo both."""
        original = type(module)

        def undo() -> None:
            if type(module) is not original:
                module.__class__ = original
            module.__dict__.pop(blocks.HELD, None)
            for name in points:
                module._modules.pop(name, None)

        self.take_out.append(undo)
        for name in points:
            module.add_module(name, HookPoint())
        if points:
            module.__dict__[blocks.HELD] = tuple(module._modules[name] for name in points)
        if hooked is not None:
            module.__class__ = hooked

    def _tap(self, module: Any, tap: type, points: tuple[str, ...]) -> None:
        """Mix ``tap`` into the class of a module outside the blocks; its points live on the transformer itself."""
        root, original = self.transformer, type(module)

        def undo() -> None:
            if type(module) is not original:
                module.__class__ = original
            module.__dict__.pop("_taps", None)
            for name in points:
                root._modules.pop(name, None)

        self.take_out.append(undo)
        for name in points:
            root.add_module(name, HookPoint())
        # By dict, not as submodules: a point has one place in the tree, and it is the root.
        module.__dict__["_taps"] = {name: root._modules[name] for name in points}
        module.__class__ = type(original.__name__, (tap, original), {"__module__": original.__module__})

    def close(self) -> None:
        """Take every point out and give every module its own class back."""
        self.take_out()
        self.hook_dict, self.mod_dict = {}, {}

    @property
    def installed(self) -> bool:
        """Whether the points are in place."""
        return bool(self.take_out)


def release(pipe: Any) -> None:
    """Take the points of a lens out of a pipeline, when the lens itself is out of reach; then load it again.

    A pipeline that is under no lens is left as it is.

    Args:
        pipe: A diffusers pipeline that ``dit_lens.load`` wrapped.

    Raises:
        LoadError: For a copy of a wrapped pipeline, whose points only the original's lens could take out.
    """
    models = (getattr(pipe, "transformer", None), getattr(pipe, "transformer_2", None))
    for model in [model for model in models if model is not None]:
        take_out = model.__dict__.get(_TAKE_OUT, TakeOut())
        take_out()
        model.__dict__.pop(_TAKE_OUT, None)
        if any(isinstance(block, blocks.HookedBlock) for block in getattr(model, "blocks", ())):
            raise LoadError(
                "this pipeline is a copy of one that was under a lens, and its points cannot be taken out: load it "
                "again, or copy a pipeline before dit_lens.load or after lens.close()"
            )


@contextmanager
def _marked(modules: Iterable[nn.Module], name: str, value: Any) -> Iterator[None]:
    """A plain attribute on modules for the time of the block, by dict: no module, parameter or buffer is registered."""
    chosen = list(modules)
    for module in chosen:
        module.__dict__[name] = value
    try:
        yield
    finally:
        for module in chosen:
            module.__dict__.pop(name, None)


# An offload hook keeps the forward that it found, and calls it after the lens is closed and the class is upstream's
# again. So each tap without its points steps aside.


class _TappedPatchEmbedding:
    """Shows the patch embedding as tokens, (B, N, d)."""

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        if "_taps" not in self.__dict__:
            return type(self).forward(self, *args, **kwargs)
        out = super().forward(*args, **kwargs)  # type: ignore[misc]  # (B, d, F, R, C)
        tokens = self._taps["hook_patch_embed"](out.flatten(2).transpose(1, 2))  # type: ignore[attr-defined]
        return tokens.transpose(1, 2).unflatten(2, out.shape[2:])


class _TappedConditions:
    """Shows timestep, modulation, text and image embeddings."""

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Tensor | None, ...]:
        if "_taps" not in self.__dict__:
            return type(self).forward(self, *args, **kwargs)
        outputs = super().forward(*args, **kwargs)  # type: ignore[misc]
        taps = self._taps.values()  # type: ignore[attr-defined]
        shown = [tap(out) for tap, out in zip(taps, outputs, strict=False) if out is not None]
        return (*shown, *outputs[len(shown) :])


class _TappedProjection:
    """Shows what enters the last projection, and the velocity that leaves it."""

    def forward(self, hidden: Tensor) -> Tensor:
        if "_taps" not in self.__dict__:
            return type(self).forward(self, hidden)
        taps = self._taps  # type: ignore[attr-defined]
        return taps["hook_velocity"](super().forward(taps["hook_final_norm"](hidden)))  # type: ignore[misc]
