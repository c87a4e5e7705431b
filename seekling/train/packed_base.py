"""A frozen base in 8 or 4 bits, to train adapters over: only what is multiplied by is floats, for as long as that takes.

>>> lm = open_packed("smollm2", "gguf", torch.bfloat16)      # a GGUF file's blocks as they are; int8, int4 …: rounded
>>> add_lora(lm.model, LoraSettings(rank=16))
>>> lm.runner                                                # draws from the same bytes (`seekling.engine`)

Everything is packed once, in the native runner's layout, straight from the store, one tensor at a time: no whole model in
floats ever exists.  Norms, routers, a shared expert's gate and biases stay floats.

Shapes: O outputs, I inputs, H heads, N nope dim, V value dim, L kv latent.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from seekling.engine.backend import open_store
from seekling.engine.native_runner import NativeRunner, unsupported
from seekling.engine.packed import DecoderParts, PackedWeights, Parts, StoreParts
from seekling.errors import MachineError, RecipeError
from seekling.formats.adapters import fingerprint, model_fingerprint
from seekling.formats.checkpoint import cast, fitted
from seekling.kernels.infer import Packed
from seekling.kernels.packed_weight import FrozenLinear, PackedWeight, Part
from seekling.lm import GGUF, LM, is_adapter, load, resolve
from seekling.model import Decoder
from seekling.model.config import ModelConfig
from seekling.model.moe import Routing, activated, by_expert
from seekling.quants import QUANTS
from seekling.train.precision import stays_float32


class PackedLinear(nn.Module):
    """A frozen linear layer; ``weight`` is no tensor but what gives one."""

    def __init__(self, weight: PackedWeight, bias: Tensor | None = None):
        super().__init__()
        self.weight = weight
        self.register_buffer("bias", None if bias is None else bias.to(weight.dtype), persistent=False)

    def effective_weight(self) -> Tensor:
        """(O, I) as floats, for code that reads the matrix instead of calling the layer."""
        return self.weight.dense()

    def forward(self, x: Tensor) -> Tensor:
        return FrozenLinear.apply(x, self.weight, self.bias)


class PackedEmbedding(nn.Module):
    """A frozen embedding."""

    def __init__(self, weight: PackedWeight):
        super().__init__()
        self.weight = weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.weight.chosen(ids).view(*ids.shape, -1)


class PackedExperts(nn.Module):
    """Frozen experts: see `seekling.model.moe.Experts`."""

    def __init__(self, stacks: tuple[Packed, Packed, Packed], config: ModelConfig, dtype: torch.dtype):
        super().__init__()
        self.config = config
        gates, ups, downs = stacks
        E, M, D = gates.shape
        self._matrices = {
            "gate_up": [PackedWeight((Part(gates, e), Part(ups, e)), dtype) for e in range(E)],
            "down": [PackedWeight((Part(downs, e),), dtype) for e in range(E)],
        }
        self._biases: dict[str, Tensor] = {}
        if gates.bias is not None and ups.bias is not None and downs.bias is not None:
            both = torch.cat([gates.bias[:, :M], ups.bias[:, :M]], 1)
            self._biases = {"gate_up": both.to(dtype), "down": downs.bias[:, :D].to(dtype)}

    def matrix(self, half: str, expert: int) -> tuple[PackedWeight, Tensor | None]:
        """One expert's matrix (O, I) of ``gate_up`` or ``down``, and its bias."""
        bias = self._biases.get(half)
        return self._matrices[half][expert], None if bias is None else bias[expert]

    def activated(self, gate_up: Tensor) -> Tensor:
        """(..., 2M) -> (..., M)."""
        return activated(gate_up, self.config)

    def forward(self, x_ND: Tensor, routing: Routing) -> Tensor:
        def expert(e: int, x_JD: Tensor) -> Tensor:
            hidden = self.activated(FrozenLinear.apply(x_JD, *self.matrix("gate_up", e)))
            return FrozenLinear.apply(hidden, *self.matrix("down", e))

        return by_expert(x_ND, routing, self.config.n_routed_experts, expert)


class SharedWeights(PackedWeights):
    """Packs every tensor once, for the runner and for the trainer."""

    def __init__(self, parts: Parts, quant: Any):
        super().__init__(parts, quant)
        self._held: dict[tuple[str, ...], Any] = {}

    def release(self) -> None:
        """Forget where the tensors came from; nothing is packed after this."""
        self._held.clear()
        self._made.clear()
        self.parts = None  # type: ignore[assignment]

    def _once(self, key: tuple[str, ...], make: Callable[[], Any]) -> Any:
        if key not in self._held:
            self._held[key] = make()
        return self._held[key]

    def matrix(self, target: str, format: str | None = None) -> Packed | None:
        return self._once((target, format or ""), lambda: super(SharedWeights, self).matrix(target, format))

    def pair(self, gate: str, up: str) -> tuple[Packed | None, Packed | None]:
        return self._once((gate, up), lambda: super(SharedWeights, self).pair(gate, up))

    def experts(self, gate_up: str, down: str) -> tuple[Packed, Packed, Packed]:
        return self._once((gate_up, down), lambda: super(SharedWeights, self).experts(gate_up, down))

    def absorbed(self, target: str) -> tuple[Packed, Packed]:
        return self._once((target,), lambda: super(SharedWeights, self).absorbed(target))

    def linear(self, name: str, dtype: torch.dtype) -> PackedLinear:
        """The layer of that name, as the runner has it."""
        home, _, kind = name.rpartition(".")
        if kind == "kv_b_proj":
            k_b, v_b = self.absorbed(f"{name}.weight")  # (H, L, N), (H, V, L)
            heads = range(k_b.shape[0])
            return PackedLinear(PackedWeight(tuple(p for h in heads for p in (Part(k_b, h, True), Part(v_b, h))), dtype))
        if kind in ("gate_proj", "up_proj"):
            packed = self.pair(f"{home}.gate_proj.weight", f"{home}.up_proj.weight")[kind == "up_proj"]
        elif kind == "lm_head" and self.config.tie_word_embeddings:
            table = self.matrix("model.embed_tokens.weight")
            packed = None if table is None else self.tied_head(table)
        else:
            packed = self.matrix(f"{name}.weight")
        assert packed is not None  # the model has the layer
        bias = None if packed.bias is None else packed.bias[: packed.shape[0]]
        return PackedLinear(PackedWeight((Part(packed),), dtype), bias)


@dataclass(kw_only=True)
class PackedLM(LM):
    """A model over packed weights, the runner that shares them, and the fingerprint of the base they were packed from."""

    runner: NativeRunner
    fingerprint: str


def open_packed(path_or_name: str, quant: str, compute: torch.dtype) -> PackedLM:
    """What ``seekling.load`` opens, its matrices packed and frozen.

    Args:
        quant: int8, int4, int4-64, or gguf for the blocks of a GGUF file as they are.
        compute: float32 or bfloat16.

    Raises:
        MachineError: the native kernels do not compute a part of this model; RecipeError: ``gguf`` for what is no GGUF file.
    """
    path = resolve(path_or_name)
    if quant == "gguf" and path.suffix != GGUF:
        raise RecipeError(f"--base-quant gguf keeps the blocks of a GGUF file, which {path} is not: give {' or '.join(QUANTS)}")
    if is_adapter(path):  # merged first, so in floats while it is packed
        lm = load(path, torch.bfloat16, stays_float32)
        config, tokenizer, mark = lm.config, lm.tokenizer, model_fingerprint(lm.model)
        parts: Any = DecoderParts(lm.model)
    else:
        config, tokenizer, source, _ = open_store(path)
        config = fitted(config, source)
        mark = fingerprint(source.shapes, source.read, config.num_hidden_layers)
        parts = StoreParts(config, source)
    missing = unsupported(config)
    if missing:
        raise MachineError(f"--base-quant: the native kernels do not compute {', '.join(missing)}; leave it out")
    config = dataclasses.replace(config, num_nextn_predict_layers=0)  # adapters do not learn through MTP layers
    parts.config = config
    weights = SharedWeights(parts, quant)
    runner = NativeRunner(weights)
    model = packed_decoder(weights, parts, compute)
    weights.release()
    return PackedLM(model, tokenizer, path, runner=runner, fingerprint=mark)


def packed_decoder(weights: SharedWeights, parts: Parts, compute: torch.dtype) -> Decoder:
    """The decoder whose matrices are those of a runner."""
    config = weights.config
    model = Decoder.empty(config, dtype=compute)
    cast(model, compute, stays_float32)
    for name, module in list(model.named_modules()):
        if name.endswith(".experts"):
            stacks = weights.experts(f"{name}.gate_up_proj", f"{name}.down_proj")
            model.set_submodule(name, PackedExperts(stacks, config, compute))
        elif isinstance(module, nn.Linear) and name != "lm_head" and not name.endswith("shared_expert_gate"):
            model.set_submodule(name, weights.linear(name, compute))
    table = weights.linear("model.embed_tokens", compute)
    model.model.embed_tokens = PackedEmbedding(table.weight)
    model.set_submodule("lm_head", weights.linear("lm_head", compute))
    rest = {name: parts.tensor(name).to(tensor.dtype, copy=True) for name, tensor in model.state_dict().items()}
    model.load_state_dict(rest, assign=True)
    return model.eval().requires_grad_(False)
