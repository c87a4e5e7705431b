"""Golden numbers: what the plain torch model computes for a few prompts, in float64 and float32, layer by layer.

Shapes: T tokens, L layers, K experts a token, V vocabulary.
"""

from collections.abc import Sequence
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

PROMPTS: dict[str, tuple[Piece, ...]] = {
    "text": ((BOS, True), ("Once upon a time there was a tree", False)),
    "chat": ((BOS, True), (USER, True), ("What is 3 plus 4?", False), (ASSISTANT, True), (THINK_END, True)),
    "bytes": ((BOS, True), ("return x+1  # 😀 <｜User｜> 一二\n", False)),
    "long": ((BOS, True), (_LONG, False)),
}


@dataclass
class Golden:
    """What one prompt gives.

    Attributes:
        ids: (T,); ``logits`` (T, V); ``norms`` (L, T) L2 norm of each layer's output.
        routers: layer -> (experts (T, K) by falling weight, weights (T, K)), layers behind the main ones not included.
        mtp: (T-1, V), the first MTP layer's logits for the token after next, None without MTP.
    """

    ids: Tensor
    logits: Tensor
    norms: Tensor
    routers: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
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
    try:
        x_BTD = model.states(ids_BT, None, trace)
    finally:
        for hook in hooks:
            hook.remove()
    golden = Golden(ids_BT[0], model.head(model.model.norm(x_BTD))[0], torch.stack(norms))
    layers = [i for i, layer in enumerate(model.main_layers) if isinstance(layer.mlp, MoE)]
    for layer, routing in zip(layers, trace.routings, strict=True):
        weights, order = routing.weights_NK.sort(dim=-1, descending=True)
        golden.routers[layer] = (routing.indices_NK.gather(1, order), weights)
    if len(model.mtp_layers) and len(ids) > 1:
        states = model.mtp_states(x_BTD[:, :-1], ids_BT[:, 1:, None].expand(-1, -1, len(model.mtp_layers)))
        golden.mtp = model.head(states[0])[0]
    return golden


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
    """Whether every router chose the same experts (as sets) for every token."""
    return all(torch.equal(a.routers[n][0].sort(-1)[0], b.routers[n][0].sort(-1)[0]) for n in a.routers)
