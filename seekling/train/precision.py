"""Float32 master weights, bfloat16 compute copies, float32 gradient sums (V3 §3.3.1 keeps masters and sums in float32 too).

Under bfloat16 the module's own parameters are bfloat16, so no cast happens inside a forward pass; the float32 masters live
here and are rounded down into the module once a step. Under float32 the parameter *is* the master and its ``.grad`` *is* the
gradient sum: nothing is held twice.

What stays float32 whatever the compute dtype: norm weights, the router's weight and biases. A linear layer's bias is added
inside its product, so it has the product's dtype.
"""

import re
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from seekling.errors import MachineError

_ROUTER = re.compile(r"mlp\.gate\.(weight|bias)$")
_LINEAR_BIAS = re.compile(r"(_proj|_with_mqa|lm_head)\.bias$")


def stays_float32(name: str, tensor: Tensor) -> bool:
    """Whether a tensor keeps float32: the router, on which the choice hangs, and what has one dimension but for the biases of
    linear layers."""
    if _ROUTER.search(name):
        return True
    return tensor.dim() < 2 and not _LINEAR_BIAS.search(name)


def has_fast_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 natively (AVX512-BF16 or AMX); without it bfloat16 is slower than float32."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def compute_dtype(name: str) -> tuple[torch.dtype, str]:
    """Turn a recipe's precision (``auto``, ``float32``, ``bfloat16``) into a dtype and the sentence that says why.

    Raises:
        MachineError: the name is none of the three.
    """
    if name == "auto":
        if has_fast_bfloat16():
            return torch.bfloat16, "bfloat16 compute over float32 master weights (this CPU multiplies bfloat16 natively)"
        return torch.float32, "float32 compute (this CPU has no native bfloat16, which would be slower)"
    if name == "bfloat16":
        note = "" if has_fast_bfloat16() else "; this CPU has no native bfloat16, so expect it to be slower than float32"
        return torch.bfloat16, f"bfloat16 compute over float32 master weights (asked for){note}"
    if name == "float32":
        return torch.float32, "float32 compute (asked for)"
    raise MachineError(f"precision {name!r} is not known; use auto, float32 or bfloat16")


def cast_for_training(model: nn.Module, dtype: torch.dtype) -> list[str]:
    """Cast ``model`` in place for training in ``dtype`` and return the names that stay float32.

    Build :class:`MasterWeights` *before* this call: it copies the float32 values that the cast would round away.
    """
    kept = []
    for name, tensor in _float_tensors(model):
        keep = stays_float32(name, tensor)
        if keep:
            kept.append(name)
        tensor.data = tensor.data.to(torch.float32 if keep else dtype)
    return kept


def _float_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    persistent = model.state_dict()
    for name, buffer in model.named_buffers():
        if name in persistent and buffer.is_floating_point():
            yield name, buffer


class MasterWeights:
    """The float32 side of every trainable parameter: its master value and the gradient sum of the running step.

    Args:
        model: its parameters must still hold the values to train from (float32, or whatever was loaded).
        dtype: what the forward pass computes in; the model is cast to it here.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
        copies = {
            name: p.detach().to(torch.float32, copy=True)
            for name, p in trainable.items()
            if dtype != torch.float32 and not stays_float32(name, p)
        }
        self.kept_float32 = cast_for_training(model, dtype)
        self.params: dict[str, nn.Parameter] = trainable
        self.values: dict[str, Tensor] = {name: copies.get(name, p.data) for name, p in trainable.items()}
        self._cast = [name for name in trainable if name in copies]
        self._sums: dict[str, Tensor] = {}
        for name in self._cast:  # the hook frees each bfloat16 gradient the moment it is complete: they never coexist
            trainable[name].register_post_accumulate_grad_hook(self._adder(name))

    def _adder(self, name: str) -> Callable[[Tensor], None]:
        def add(param: Tensor) -> None:
            grad, held = param.grad, self._sums.get(name)
            assert grad is not None  # the hook runs because there is one
            if held is None:
                self._sums[name] = grad.float()
            else:
                held.add_(grad)
            param.grad = None

        return add

    def grads(self) -> dict[str, Tensor]:
        """Float32 gradient sums of every parameter that received one since :meth:`zero_grad`."""
        out = {}
        for name, p in self.params.items():
            g = self._sums.get(name) if name in self._sums else p.grad
            if g is not None:
                out[name] = g
        return out

    def zero_grad(self) -> None:
        self._sums.clear()
        for p in self.params.values():
            p.grad = None

    @torch.no_grad()
    def write_back(self) -> None:
        """Round the masters into the module's bfloat16 parameters; nothing to do under float32."""
        if self._cast:
            torch._foreach_copy_([self.params[n].data for n in self._cast], [self.values[n] for n in self._cast])

    def full_state(self, model: nn.Module) -> dict[str, Tensor]:
        """``model.state_dict()`` with every trainable tensor in float32: what a checkpoint must hold to resume exactly."""
        master = {id(p): self.values[name] for name, p in self.params.items()}
        return {name: master.get(id(t), t.detach()) for name, t in model.state_dict(keep_vars=True).items()}
