"""The README of a reference folder: what is in it and how to test an engine against it."""

from collections.abc import Sequence
from typing import Any

from seekling.model.config import ModelConfig
from seekling.plan import count

_SCRIPT = """\
import json
import numpy as np
from safetensors.numpy import load_file

facts, golden = json.load(open("golden.json")), load_file("golden.safetensors")
for name, prompt in facts["prompts"].items():
    logits = my_engine(prompt["ids"])                 # (T, V): the logits after each token of the prompt
    print(name, np.abs(logits - golden[f"{name}.logits"]).max())
"""


def readme(arch: str, seed: int, config: ModelConfig, facts: dict[str, Any], gguf: bool, notes: Sequence[str] = ()) -> str:
    """Markdown; the same for the same arguments."""
    p = config.parameters()
    tolerance = facts["tolerance"]
    mtp = f", and {count(p.mtp)} in its MTP layer" if p.mtp else ""
    lengths = ", ".join(f"`{name}` {len(prompt['ids'])}" for name, prompt in facts["prompts"].items())
    files = [
        (
            "`config.json`, `model.safetensors`",
            "the model, every matrix in bfloat16 numbers, names as in the published checkpoints",
        ),
    ]
    if p.mtp:
        files.append(
            ("`model-mtp.safetensors`", f"layer {config.num_hidden_layers}, the MTP layer; an engine without MTP skips it")
        )
    if gguf:
        files.append(("`model.gguf`", "the same model and tokenizer for llama.cpp and its kin, float32 (without MTP)"))
    files += [
        ("`tokenizer.json`, `tokenizer_config.json`, `chat_template.jinja`", "a byte-level BPE with DeepSeek's control tokens"),
        ("`golden.json`", "for eyes: ids, top five logits, greedy continuations, last layer norms and experts of each prompt"),
        ("`golden.safetensors`", "for programs: all numbers below"),
    ]
    tensors = [
        ("`P.ids`", "(T,) the prompt's token ids"),
        (
            "`P.logits`",
            "(T, V) float64: the whole network in float64, rope tables and router in float32 as published code has them",
        ),
        ("`P.logits_float32`", "(T, V) the same in float32, to see how far rounding alone goes"),
        ("`P.hidden_norms`", "(layers, T) length of each layer's output, before the final norm"),
        (
            "`P.router.L.experts`, `P.router.L.weights`",
            "(T, k) the experts of layer L by falling weight; weights as they multiply",
        ),
    ]
    if any(layer.startswith("index") for layer in facts["tensors"]):
        tensors.append(("`P.index.L`", "(T, S) 1 where layer L's indexer lets token t see key (or compressed entry) s"))
    if p.mtp:
        tensors.append(
            ("`P.mtp_logits`", "(T-1, V) row t: the MTP layer given hidden state t and token t+1, logits of token t+2")
        )
    about = _ABOUT.get(arch, "")
    return f"""\
# A tiny {arch} model to test engines against

Random weights from seed {seed}, {count(p.total)} parameters{mtp}.
It says nothing sensible, but every part of the architecture counts in its numbers. {about}

Made by `seekling reference --arch {arch} --seed {seed} --out DIR`; the same command gives the same bytes. Free to use for
anything (CC0).

| file | what |
|---|---|
{_rows(files)}
{"".join(f"{chr(10)}- {note}" for note in notes)}

## Golden numbers

Prompts P, with their lengths in tokens: {lengths}. `bytes` has an emoji and a control token written as text, which must stay
text; `long` is longer than YaRN's original context of {_original(config)}.

| tensor | what |
|---|---|
{_rows(tensors)}

Every choice of a router or indexer stays the same when all weights change by {facts["noise"]:g} of their size, so
another choice in float32 is an error, not a tie. A continuation in `golden.json` ends early where two tokens come closer than
{facts["margin"]}.

## Test an engine

```python
{_SCRIPT}```

| engine computes in | allowed |
|---|---|
| float32 | {tolerance["float32"]:g} for each logit (ten times what the order of sums does); continuations and experts equal |
| float64 | {tolerance["float64"]:g} with rope tables and router in float32, else as float32 |
| bfloat16 | median of all differences {tolerance["bfloat16"]:g}; a token that chooses another expert differs by more |

Or save your tensors under these names to a safetensors file and let `seekling reference --check DIR --logits FILE` compare.
`seekling reference --check DIR` tests Seekling itself.

Where to look when numbers differ: take the first layer whose `hidden_norms` differ. Wrong from the first token on: embedding,
norms, projections or, from layer {config.first_k_dense_replace} on, experts (compare `router` first: the bias counts in the
choice only, then group limit and scaling factor). Right at the first token and worse from token to token: rope (pairs
interleaved or halved), YaRN or the softmax scale.
"""


_ABOUT = {
    "deepseek_v2": (
        "MLA with query compression, softmax router limited to 2 of 4 groups, two shared experts, YaRN with mscale 0.707."
    ),
    "deepseek_v3": (
        "MLA with query compression, sigmoid router with a bias for the choice only, limited to 2 of 4 groups, one shared "
        "expert, YaRN with mscale 1, one MTP layer."
    ),
    "deepseek_v32": "V3 with DeepSeek Sparse Attention: a lightning indexer lets each query see 16 keys.",
    "deepseek_v4": (
        "Four residual streams mixed by hyper-connections, one layer of sliding attention and two each of CSA (rate 4, "
        "indexer, 8 entries) and HCA (rate 128) with sinks, two hash-routed layers, clamped SwiGLU, one MTP layer."
    ),
}


def _rows(rows: list[tuple[str, str]]) -> str:
    return "\n".join(f"| {a} | {b} |" for a, b in rows)


def _original(config: ModelConfig) -> int:
    scaling = config.rope_scaling
    return (scaling.original_max_position_embeddings if scaling else None) or config.max_position_embeddings
