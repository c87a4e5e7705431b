"""Golden numbers: what the plain torch model computes for a few prompts, in float64 and float32, layer by layer.

Shapes: T tokens, L layers, K experts a token, V vocabulary.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from seekling.model.decoder import Decoder
from seekling.model.moe import MoE, Trace
from seekling.text.chat import Mark
from seekling.text.special import ASSISTANT, BOS, THINK_END, USER
from seekling.text.tokenizer import Tokenizer

CONTINUE = 24
# A continuation ends before two tokens come closer than this: another sum order may then choose the other one.
MARGIN = 0.02
_LONG = (
    "The seedling counted the stars: one, two, three. The wind laughed. The river looked at the sun and asked the seedling: "
    "what is 3 plus 4? 树苗说：“我会变成一棵树。”"
)

Piece = tuple[str, bool]  # text, and whether it is a control token

PROMPTS: dict[str, tuple[Piece, ...]] = {  # of every generation
    "text": ((BOS, True), ("Once upon a time there was a tree", False)),
    "chat": ((BOS, True), (USER, True), ("What is 3 plus 4?", False), (ASSISTANT, True), (THINK_END, True)),
    "bytes": ((BOS, True), ("return x+1  # 😀 <｜User｜> 一二\n", False)),
    "long": ((BOS, True), (_LONG, False)),
}
# For compressors that close a block of 128 tokens.
_LONGER = (
    (BOS, True),
    (" ".join((_LONG, _LONG.replace("wind", "river").replace("one, two, three", "7, 3, 4"), _LONG[::-1])), False),
)


def prompts_of(arch: str) -> dict[str, tuple[Piece, ...]]:
    """The prompts of a generation, by name."""
    return {**PROMPTS, "longer": _LONGER} if arch == "deepseek_v4" else PROMPTS


@dataclass
class Golden:
    """What one prompt gives.

    Attributes:
        ids: (T,); ``logits`` (T, V); ``norms`` (L, T) L2 norm of each layer's output.
        routers: layer -> (experts (T, K) by falling weight, weights (T, K)), layers behind the main ones not included.
        chosen: layer -> (T, S) bool, the keys or compressed entries that a lightning indexer lets each token see.
        mtp: (T-1, V), the first MTP layer's logits for the token after next, None without MTP.
    """

    ids: Tensor
    logits: Tensor
    norms: Tensor
    routers: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    chosen: dict[int, Tensor] = field(default_factory=dict)
    mtp: Tensor | None = None


def prompt_ids(tokenizer: Tokenizer, pieces: Sequence[Piece]) -> list[int]:
    """Ids of a prompt; control tokens written inside text stay text."""
    return tokenizer.encode_pieces([Mark(text) if mark else text for text, mark in pieces])


@torch.no_grad()
def compute(model: Decoder, ids: Sequence[int]) -> Golden:
    """Run the plain forward pass and note what passes by."""
    ids_BT = torch.tensor([list(ids)])
    norms: list[Tensor] = []

    def note(module: Any, inputs: Any, output: Any) -> None:
        x = output[0] if isinstance(output, tuple) else output
        norms.append(x[0].flatten(1).double().norm(dim=-1))

    hooks = [layer.register_forward_hook(note) for layer in model.main_layers]  # type: ignore[attr-defined]
    trace = Trace()
    chosen: dict[int, Tensor] = {}
    try:
        with _listening(model, chosen):
            x_BTD = model.states(ids_BT, None, trace)
    finally:
        for hook in hooks:
            hook.remove()
    golden = Golden(ids_BT[0], model.head(model.final(x_BTD))[0], torch.stack(norms), chosen=chosen)
    layers = [i for i, layer in enumerate(model.main_layers) if isinstance(layer.mlp, MoE)]
    for layer, routing in zip(layers, trace.routings, strict=True):
        weights, order = routing.weights_NK.sort(dim=-1, descending=True)
        golden.routers[layer] = (routing.indices_NK.gather(1, order), weights)
    if len(model.mtp_layers) and len(ids) > 1:
        states = model.mtp_states(x_BTD[:, :-1], ids_BT[:, 1:, None].expand(-1, -1, len(model.mtp_layers)))
        golden.mtp = model.head(states[0])[0]
    return golden


@contextlib.contextmanager
def _listening(model: Decoder, chosen: dict[int, Tensor]) -> Iterator[None]:
    """Note what the indexers of the main layers choose."""
    indexers = {m: i for i, layer in enumerate(model.main_layers) for m in layer.modules() if hasattr(m, "choose")}

    def noted(module: Any, layer: int) -> Any:
        def choose(*args: Any, **kwargs: Any) -> Tensor:
            chosen[layer] = type(module).choose(module, *args, **kwargs)
            return chosen[layer]

        return choose

    for module, layer in indexers.items():
        object.__setattr__(module, "choose", noted(module, layer))
    try:
        yield
    finally:
        for module in indexers:
            object.__delattr__(module, "choose")
        for layer, tensor in chosen.items():
            T, S = tensor.shape[1:]  # of keys, an indexer may name some that the causal mask hides anyway
            chosen[layer] = tensor[0] & torch.ones(T, S, dtype=torch.bool).tril() if T == S else tensor[0]


@torch.no_grad()
def continuation(model: Decoder, ids: Sequence[int], steps: int = CONTINUE) -> tuple[list[int], list[float]]:
    """Greedy ids after a prompt and by how much each beat the second; ends at a near tie or an end token."""
    ids, out, margins = list(ids), [], []
    for _ in range(steps):
        top = model(torch.tensor([ids]))[0, -1].topk(2)
        margin = float(top.values[0] - top.values[1])
        token = int(top.indices[0])
        if margin < MARGIN:
            break
        out.append(token)
        margins.append(margin)
        ids.append(token)
        if token == model.config.eos_token_id:
            break
    return out, margins


def same_choices(a: Golden, b: Golden) -> bool:
    """Whether every router chose the same experts (as sets) and every indexer the same keys, for every token."""
    experts = all(torch.equal(a.routers[n][0].sort(-1)[0], b.routers[n][0].sort(-1)[0]) for n in a.routers)
    return experts and all(torch.equal(a.chosen[n], b.chosen[n]) for n in a.chosen)
