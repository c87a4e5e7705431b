"""Activation-aware scaling (arXiv 2306.00978, 2211.10438): a model made easier to quantise without changing what it computes.

A few input channels of a layer are much larger than the rest. In a group of 32 quantised together they take the whole range,
and an error of their weights counts most. Every channel j is divided by s_j where it is made (in the norm, or the rows of the
up projection before it) and its weights are multiplied by s_j: equal mathematics, but even groups. How far to go is searched
for each layer: the s that leaves the least error of its outputs, activations and weights quantised as the engine does.

>>> seen = observe(model, rows)                      # inputs of every layer over some text
>>> scale(model, seen, bits=4)                       # in place
>>> seen.importance("model.layers.0.mlp.down_proj.weight")

Shapes: N tokens, I inputs, O outputs, E experts, M expert width.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from seekling.model.attention import MLA
from seekling.model.decoder import Decoder
from seekling.model.layers import MLP
from seekling.model.moe import MoE

GROUP = 32
SAMPLE = 256  # tokens whose inputs are kept for the search
FEW = 8  # an expert that fewer of them chose is left as it is
OUTPUTS = 4096  # about so many outputs judge a scale
SHARES = (0.25, 0.5, 0.75, 1.0)


@dataclass
class Inputs:
    """What came into one layer: some of the rows (N, I), and the mean square of every channel over all."""

    rows_NI: Tensor = field(default_factory=lambda: torch.empty(0))
    square_I: Tensor = field(default_factory=lambda: torch.zeros(()))
    count: int = 0

    def add(self, x: Tensor, keep: Tensor) -> None:
        flat = x.detach().float().reshape(-1, x.shape[-1])
        self.square_I = self.square_I + flat.square().sum(0)
        self.rows_NI = flat[keep] if not self.count else torch.cat([self.rows_NI, flat[keep]])
        self.count += len(flat)


class Seen:
    """Inputs by the name of the layer that takes them; `chosen` has the experts of the kept rows, by the name of the MoE."""

    def __init__(self) -> None:
        self.inputs: dict[str, Inputs] = {}
        self.chosen: dict[str, Tensor] = {}
        self._importance: dict[str, Tensor] = {}

    def importance(self, target: str) -> Tensor | None:
        """Mean square (I,) of the inputs of a weight by its ``state_dict`` name, (E, I) of stacked experts; None if unknown."""
        return self._importance.get(target)

    def weigh(self, target: str, importance: Tensor) -> None:
        self._importance[target] = importance


def observe(model: Decoder, rows: Sequence[Sequence[int]], tell: Callable[[int], None] = lambda tokens: None) -> Seen:
    """Run some text through the model and watch its layers."""
    seen = Seen()
    total = sum(map(len, rows))
    picked = torch.empty(0, dtype=torch.int64)  # of the row that runs
    handles = []

    def watch(module: nn.Module, name: str) -> None:
        seen.inputs[name] = Inputs()
        handles.append(module.register_forward_pre_hook(lambda _, args, at=name: seen.inputs[at].add(args[0], picked)))

    def choices(module: nn.Module, name: str) -> None:
        def hook(_: Any, args: Any) -> None:
            kept = args[1].indices_NK[picked]
            seen.chosen[name] = torch.cat([seen.chosen[name], kept]) if name in seen.chosen else kept

        handles.append(module.register_forward_pre_hook(hook))

    for name, module in model.named_modules():
        last = name.rpartition(".")[2]
        if last in ("self_attn", "mlp", "q_b_proj", "kv_b_proj", "o_proj", "down_proj") or name == "lm_head":
            watch(module, name)
        if isinstance(module, MoE):
            choices(module.experts, name)
    try:
        with torch.no_grad():
            for row in rows:
                share = max(1, min(len(row), round(SAMPLE * len(row) / total)))
                picked = torch.linspace(0, len(row) - 1, share).long()
                model(torch.tensor([list(row)]))
                tell(len(row))
    finally:
        for handle in handles:
            handle.remove()
    return seen


def scale(model: Decoder, seen: Seen, bits: int, tell: Callable[[int], None] = lambda layers: None) -> None:
    """Scale every layer's channels in place, and note the importance of each (for `seekling.kernels.infer.fill`)."""
    config = model.config
    clamped = config.swiglu_limit is not None or config.expert_bias
    with torch.no_grad():
        for number, layer in enumerate(model.main_layers):
            name = f"model.layers.{number}"
            attention, mlp = layer.self_attn, cast(MLP | MoE, layer.mlp)
            _attention(layer.input_layernorm.weight, attention, f"{name}.self_attn", seen, bits)
            _feed_forward(layer.post_attention_layernorm.weight, mlp, f"{name}.mlp", seen, bits, clamped)
            tell(1)
        if not config.tie_word_embeddings:
            _balance(seen, "lm_head", {"lm_head.weight": model.lm_head.weight}, [model.model.norm.weight], bits)


def _attention(norm: Tensor, attention: Any, name: str, seen: Seen, bits: int) -> None:
    readers = {}
    for last in ("q_proj", "q_a_proj", "k_proj", "v_proj", "kv_a_proj_with_mqa"):
        if hasattr(attention, last):
            readers[f"{name}.{last}.weight"] = getattr(attention, last).weight
    _balance(seen, name, readers, [norm], bits)
    if isinstance(attention, MLA):
        if hasattr(attention, "q_b_proj"):
            reader = {f"{name}.q_b_proj.weight": attention.q_b_proj.weight}
            _balance(seen, f"{name}.q_b_proj", reader, [attention.q_a_layernorm.weight], bits)
        reader = {f"{name}.kv_b_proj.weight": attention.kv_b_proj.weight}
        _balance(seen, f"{name}.kv_b_proj", reader, [attention.kv_a_layernorm.weight], bits)
    if f"{name}.o_proj" in seen.inputs:
        found = seen.inputs[f"{name}.o_proj"]
        seen.weigh(f"{name}.o_proj.weight", found.square_I / max(1, found.count))


def _feed_forward(norm: Tensor, mlp: MLP | MoE, name: str, seen: Seen, bits: int, clamped: bool) -> None:
    if isinstance(mlp, MLP):
        readers = {f"{name}.{kind}_proj.weight": getattr(mlp, f"{kind}_proj").weight for kind in ("gate", "up")}
        _balance(seen, name, readers, [norm], bits)
        _down(mlp, name, seen, bits)
        return
    experts = mlp.experts
    # The kept rows as they were: the experts' own inputs are made of them, before the norm is scaled.
    rows_NI = seen.inputs[name].rows_NI
    hidden = list(_hidden(rows_NI, seen.chosen[name], experts.gate_up_proj)) if not clamped else []
    stack = experts.gate_up_proj
    readers = {f"{name}.experts.gate_up_proj": stack.view(-1, stack.shape[-1])}
    if mlp.shared_experts is not None:
        shared = mlp.shared_experts
        readers |= {f"{name}.shared_experts.{k}_proj.weight": getattr(shared, f"{k}_proj").weight for k in ("gate", "up")}
    exact: list[Tensor] = [mlp.gate.weight]  # the router, and Qwen's gate of the shared expert, are kept in float32
    if mlp.shared_expert_gate is not None:
        exact.append(mlp.shared_expert_gate.weight)
    s_I = _balance(seen, name, readers, [norm], bits)
    for weight in exact:
        weight *= s_I
    importance = seen.importance(f"{name}.experts.gate_up_proj")
    if importance is not None:
        seen.weigh(f"{name}.experts.gate_up_proj", importance.expand(stack.shape[0], -1))
    if mlp.shared_experts is not None:
        _down(mlp.shared_experts, f"{name}.shared_experts", seen, bits)
    if clamped:
        return
    squares = []
    for e, x_NM in hidden:
        s_M = torch.ones(experts.down_proj.shape[-1])
        if len(x_NM) >= FEW:
            s_M = _search(x_NM, [experts.down_proj[e]], bits)
            experts.down_proj[e] *= s_M
            experts.gate_up_proj[e, len(s_M) :] /= s_M[:, None]
            squares.append((x_NM / s_M).square().mean(0))
        else:
            squares.append(s_M)  # nothing known: all alike
    seen.weigh(f"{name}.experts.down_proj", torch.stack(squares))


def _hidden(rows_NI: Tensor, chosen_NK: Tensor, stack_EMI: Tensor) -> Iterator[tuple[int, Tensor]]:
    """For every expert what its down projection takes, over the rows that chose it."""
    for e in range(stack_EMI.shape[0]):
        gate, up = (rows_NI[(chosen_NK == e).any(-1)] @ stack_EMI[e].float().T).chunk(2, -1)
        yield e, nn.functional.silu(gate) * up


def _down(mlp: MLP, name: str, seen: Seen, bits: int) -> None:
    made = [mlp.up_proj.weight, *([] if mlp.up_proj.bias is None else [mlp.up_proj.bias])]
    _balance(seen, f"{name}.down_proj", {f"{name}.down_proj.weight": mlp.down_proj.weight}, made, bits)


def _balance(seen: Seen, name: str, readers: dict[str, Tensor], makers: Sequence[Tensor], bits: int) -> Tensor:
    """Scale the channels between their makers (first dimension) and their readers (last dimension); returns s (I,)."""
    found = seen.inputs[name]
    s_I = _search(found.rows_NI, list(readers.values()), bits)
    for target, weight in readers.items():
        weight *= s_I
        seen.weigh(target, found.square_I / max(1, found.count) / s_I.square())
    for maker in makers:
        maker /= s_I.view(-1, *[1] * (maker.dim() - 1))
    return s_I


def _search(x_NI: Tensor, weights: Sequence[Tensor], bits: int) -> Tensor:
    """The scales (I,) under which quantised products are nearest to the exact ones."""
    w_OI = torch.cat([w.float()[:: max(1, len(w) * len(weights) // OUTPUTS)] for w in weights])
    exact_NO = x_NI @ w_OI.T
    best, least = torch.ones(x_NI.shape[-1]), float("inf")
    for s_I in _candidates(x_NI, w_OI):
        y_NO = rounded(x_NI / s_I, 8) @ rounded(w_OI * s_I, bits).T
        error = float((y_NO - exact_NO).square().sum())
        if error < least:
            best, least = s_I, error
    return best


def _candidates(x_NI: Tensor, w_OI: Tensor) -> Iterator[Tensor]:
    yield torch.ones(x_NI.shape[-1])
    if not len(x_NI):
        return
    largest, usual = x_NI.abs().amax(0), x_NI.square().mean(0).sqrt()
    for size_I in (largest, usual):
        for share in SHARES:
            yield _even(size_I).pow(share)
    yield (_even(largest) / _even(w_OI.abs().amax(0))).sqrt()


def _even(size_I: Tensor) -> Tensor:
    """Positive numbers around 1, at most a factor of 1000 from their middle."""
    log = size_I.clamp_min(float(size_I.max().clamp_min(1e-30)) * 1e-6).log()
    return (log - log.mean()).clamp(-6.9, 6.9).exp()


def rounded(x: Tensor, bits: int) -> Tensor:
    """Numbers as groups of 32 hold them: 8 bits around zero with one scale, 4 bits with scale and minimum."""
    width = x.shape[-1]
    g = nn.functional.pad(x, (0, -width % GROUP)).unflatten(-1, (-1, GROUP))
    if bits == 8:
        step = g.abs().amax(-1, keepdim=True).clamp_min(1e-30) / 127
        g = (g / step).round() * step
    else:
        low = g.amin(-1, keepdim=True)
        step = (g.amax(-1, keepdim=True) - low).clamp_min(1e-30) / 15
        g = ((g - low) / step).round() * step + low
    return g.flatten(-2)[..., :width]
