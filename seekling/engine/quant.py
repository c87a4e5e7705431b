"""Weight-only quantisation in plain torch: small in memory, dequantised on the fly, not fast.

int8: one scale per output channel, symmetric, 8 bits a weight and 4 bytes a channel.
int4: groups of 32 inputs with a bfloat16 scale and minimum each, 5 bits a weight in all. int4-64: groups of 64, 4.5 bits.

Every linear layer, the head and the stacked experts are quantised. Left as they are: the embedding (and a head tied to
it), norms, biases, routers, the head weights of an indexer. Only the matrix in use is dequantised, and of the experts only
those a batch was routed to.

Tensor suffixes: O outputs, I inputs, G groups, E experts, N tokens, D hidden; … stands for leading dimensions.
"""

import copy
import dataclasses

import torch
from torch import Tensor, nn

from seekling.kernels import ops
from seekling.model.decoder import Decoder
from seekling.model.moe import Experts, Routing, gptoss_experts
from seekling.model.v4.moe import V4Experts, clamped_experts

GROUPS = {"int4": 32, "int4-64": 64}  # inputs that share a scale


class Packed(nn.Module):
    """A quantised weight (…, O, I) of any number of leading dimensions.

    Args:
        weight: the matrix or stack of matrices; not kept.
        quant: "int8", "int4" or "int4-64".
    """

    q: Tensor
    scale: Tensor
    low: Tensor

    def __init__(self, weight: Tensor, quant: str):
        super().__init__()
        self.dtype, self.inputs, self.quant = weight.dtype, weight.shape[-1], quant
        w = weight.detach().to(torch.promote_types(weight.dtype, torch.float32))
        if quant == "int8":
            scale = (w.abs().amax(-1, keepdim=True) / 127).float()
            self.register_buffer("q", (w / scale.clamp_min(1e-38)).round().clamp(-127, 127).to(torch.int8))
            self.register_buffer("scale", scale)
            return
        group = GROUPS[quant]
        w = nn.functional.pad(w, (0, -self.inputs % group), mode="constant")
        w = w.unflatten(-1, (-1, group))
        low, high = w.amin(-1, keepdim=True), w.amax(-1, keepdim=True)
        scale, low = ((high - low) / 15).bfloat16(), low.bfloat16()
        # Rounded with the stored, already rounded scale and minimum, so that their rounding is partly made good.
        q = ((w - low) / scale.to(w.dtype).clamp_min(1e-38)).round().clamp(0, 15).to(torch.uint8)
        half = group // 2
        self.register_buffer("q", q[..., :half] | q[..., half:] << 4)
        self.register_buffer("scale", scale)
        self.register_buffer("low", low)

    def dequantise(self, index: Tensor | None = None) -> Tensor:
        """The weight (…, O, I) in its old dtype; with `index` only those entries of the first dimension."""
        q, scale = (self.q, self.scale) if index is None else (self.q[index], self.scale[index])
        if self.quant == "int8":
            return q.to(self.dtype) * scale.to(self.dtype)
        low = self.low if index is None else self.low[index]
        q = torch.cat([q & 15, q >> 4], -1).to(self.dtype)
        return (q * scale.to(self.dtype) + low.to(self.dtype)).flatten(-2)[..., : self.inputs]

    def nbytes(self) -> int:
        """Bytes held."""
        return sum(buffer.nbytes for buffer in self.buffers())


class QuantLinear(nn.Module):
    """Stands in for ``nn.Linear``; `weight` is dequantised at every access (absorbed attention reads it too)."""

    def __init__(self, linear: nn.Linear, quant: str):
        super().__init__()
        self.packed = Packed(linear.weight, quant)
        self.bias = None if linear.bias is None else nn.Parameter(linear.bias.detach().clone(), requires_grad=False)

    @property
    def weight(self) -> Tensor:
        return self.packed.dequantise()

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight, self.bias)


class QuantExperts(nn.Module):
    """Stands in for `Experts`."""

    def __init__(self, experts: Experts, quant: str):
        super().__init__()
        self.gate_up = Packed(experts.gate_up_proj, quant)
        self.down = Packed(experts.down_proj, quant)
        self.config = experts.config
        self.limit = experts.config.swiglu_limit if isinstance(experts, V4Experts) else None
        biased = experts.config.expert_bias and not isinstance(experts, V4Experts)
        self.biases = (experts.gate_up_proj_bias, experts.down_proj_bias) if biased else None

    def forward(self, x_ND: Tensor, routing: Routing) -> Tensor:
        used_E, index_NK = routing.indices_NK.unique(return_inverse=True)
        gate_up, down = self.gate_up.dequantise(used_E), self.down.dequantise(used_E)
        used = dataclasses.replace(routing, indices_NK=index_NK)
        if self.limit is not None:
            return clamped_experts(x_ND, used, gate_up, down, self.limit)
        if self.config.swiglu_limit is not None or self.biases is not None:
            biases = None if self.biases is None else (self.biases[0][used_E], self.biases[1][used_E])
            return gptoss_experts(x_ND, used, gate_up, down, biases, self.config)
        return ops.grouped_experts(x_ND, routing.weights_NK, index_NK, gate_up, down)


def quantised(model: Decoder, quant: str) -> Decoder:
    """A quantised copy for generation; ``model`` stays as it is and shares nothing with the copy."""
    tied = model.lm_head.weight is model.model.embed_tokens.weight
    keep = {id(model.lm_head)} if tied else set()
    replace: dict[str, nn.Linear | Experts] = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, Experts)) and id(module) not in keep and not name.endswith("indexer.weights_proj")
    }
    # The big weights are not copied first: deepcopy takes what `memo` says for them, and they are dropped below.
    memo = {id(p): p for module in replace.values() for p in module.parameters()}
    out = copy.deepcopy(model, memo)
    for name, module in replace.items():
        new = QuantLinear(module, quant) if isinstance(module, nn.Linear) else QuantExperts(module, quant)
        out.set_submodule(name, new)
    return out.eval().requires_grad_(False)


def weight_bytes(model: nn.Module) -> int:
    """Bytes of all parameters and buffers, a shared one counted once."""
    return sum({t.data_ptr(): t.nbytes for t in (*model.parameters(), *model.buffers())}.values())
