"""A decoder's weights, packed once for the native runner, from a model in memory or straight from any store of weights.

From a store nothing but one tensor at a time is read; GGUF's Q8_0, Q4_0, Q4_1, Q4_K and Q6_K blocks are only rearranged,
every number stays what it is.

>>> weights = PackedWeights(StoreParts(config, open_gguf(path).source), "gguf")
>>> weights.matrix("model.layers.0.self_attn.q_proj.weight").format
'q4_1'

Shapes: O outputs, I inputs, E experts, H heads, N nope dim, V value dim, L kv latent.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Container, Sequence
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from seekling.errors import CheckpointError
from seekling.formats.hf import Piece, pieces
from seekling.formats.source import TensorSource
from seekling.kernels import infer
from seekling.kernels.infer import Packed
from seekling.model.config import ModelConfig
from seekling.model.decoder import Decoder

PackedQuant = Literal["f32", "bf16", "int8", "int4", "int4-64", "gguf"]
# What GGUF types become that are not kept as they are: floats stay floats, others take 8 bits.
_FLOATS = ("F32", "F16", "BF16", "F64")
# Vocabulary tables keep 6 or 8 bits where others take 4: with 4, SmolLM2's perplexity rises by 6 %, with 8 by next to nothing.
_TABLES = ("model.embed_tokens.weight", "lm_head.weight")

Blocks = tuple[str, Tensor, tuple[int, ...]]  # format of infer.BLOCKS, uint8 rows, shape


class Parts(Protocol):
    """Where a decoder's tensors come from, by their ``state_dict`` names."""

    config: ModelConfig

    def has(self, target: str) -> bool:
        """Whether there is such a tensor."""

    def tensor(self, target: str, expert: int | None = None, rows: tuple[int, int] | None = None) -> Tensor:
        """A floating tensor, or one expert's matrix of it, or some rows of that."""

    def blocks(self, target: str, expert: int | None = None, rows: tuple[int, int] | None = None) -> Blocks | str | None:
        """The same as GGUF blocks; the name of its type where the kernels have none for it; None where it is in floats."""

    def halves(self, target: str) -> tuple[Blocks | str | None, Blocks | str | None] | None:
        """``kv_b_proj`` where it is kept as absorbed attention wants it: keys (H, L, N) and values (H, V, L), see `blocks`."""


class DecoderParts:
    """The tensors of a model in memory."""

    def __init__(self, model: Decoder):
        self.config = model.config
        self._state = model.state_dict()

    def has(self, target: str) -> bool:
        return target in self._state

    def tensor(self, target: str, expert: int | None = None, rows: tuple[int, int] | None = None) -> Tensor:
        tensor = self._state[target] if expert is None else self._state[target][expert]
        return tensor if rows is None else tensor[rows[0] : rows[1]]

    def blocks(self, target: str, expert: int | None = None, rows: tuple[int, int] | None = None) -> None:
        return None

    def halves(self, target: str) -> None:
        return None


class StoreParts:
    """The tensors of a checkpoint folder or GGUF file, each read when asked for."""

    def __init__(self, config: ModelConfig, source: TensorSource):
        self.config, self._source = config, source
        self._pieces: dict[str, list[Piece]] = defaultdict(list)
        empty = Decoder.empty(config)
        self._shapes = {name: tuple(tensor.shape) for name, tensor in empty.state_dict().items()}
        for piece in pieces(empty):
            self._pieces[piece.target].append(piece)

    def has(self, target: str) -> bool:
        return target in self._pieces

    def tensor(self, target: str, expert: int | None = None, rows: tuple[int, int] | None = None) -> Tensor:
        piece = self._one(target, expert, rows)
        if piece is not None:
            return self._source.read(piece.name).reshape(self._shape(piece))
        whole = torch.empty(self._shapes[target])  # stacked experts of a family that keeps them in another order
        for part in self._pieces[target]:
            part.put(whole, self._source.read(part.name))
        tensor = whole if expert is None else whole[expert]
        return tensor if rows is None else tensor[rows[0] : rows[1]]

    def blocks(self, target: str, expert: int | None = None, rows: tuple[int, int] | None = None) -> Blocks | str | None:
        piece, read = self._one(target, expert, rows), getattr(self._source, "blocks", None)
        found = None if piece is None or read is None else read(piece.name)
        return None if piece is None or found is None else _blocks(found[0].name, found[1], self._shape(piece))

    def halves(self, target: str) -> tuple[Blocks | str | None, Blocks | str | None] | None:
        piece, read = self._one(target, None, None), getattr(self._source, "stacks", None)
        found = None if piece is None or read is None else read(piece.name)
        if found is None:
            return None
        keys, values = (_blocks(kind.name, data, shape) for kind, data, shape in found)
        return keys, values

    def _one(self, target: str, expert: int | None, rows: tuple[int, int] | None) -> Piece | None:
        """The piece that is exactly this part, in the order of memory."""
        for piece in self._pieces[target]:
            if piece.expert == expert and piece.rows == rows and piece.layout in ("", "row"):
                return piece
        return None

    def _shape(self, piece: Piece) -> tuple[int, ...]:
        return piece.shape if piece.layout == "" else self._shapes[piece.target]


def _blocks(kind: str, data: np.ndarray, shape: tuple[int, ...]) -> Blocks | str | None:
    if kind in _FLOATS:
        return None
    return (kind.lower(), torch.from_numpy(data.copy()), shape) if kind.lower() in infer.BLOCKS else kind


class PackedWeights:
    """Packs tensors on demand.

    Args:
        parts: where they come from.
        quant: "int8", "int4" and "int4-64" quantise, see `_format`; "gguf" keeps the blocks of a GGUF file, and takes 8 bits
            for types the kernels do not have; "bf16" and "f32" keep floats.
    """

    def __init__(self, parts: Parts, quant: PackedQuant):
        self.parts, self.quant, self.config = parts, quant, parts.config
        self._memory = infer.Memory()
        self._made: list[tuple[tuple[str, ...], Callable[[], object]]] = []  # targets -> how to write them again, in place

    def refresh(self, parts: Parts, targets: Container[str] | None = None) -> None:
        """Write what was made of these targets (None: of all) again from other values, where it lies."""
        self.parts = parts
        for made_of, again in self._made:
            if targets is None or any(target in targets for target in made_of):
                again()

    def close(self) -> None:
        """Forget where the weights came from: nothing will be written again, and a file that was read need not stay mapped."""
        self._made.clear()

    def vector(self, target: str) -> Tensor | None:
        """A norm or bias in float32, zeros up to a multiple of 32; None where the model has none."""
        if not self.parts.has(target):
            return None

        def made() -> Tensor:
            vector = self.parts.tensor(target).detach().float().flatten()
            return torch.nn.functional.pad(vector, (0, -vector.numel() % infer.GROUP)).contiguous()

        held = made()
        self._made.append(((target,), lambda: held.copy_(made())))
        return held

    def matrix(self, target: str, format: str | None = None) -> Packed | None:
        """A matrix (O, I) with its bias; None where the model has none."""
        if not self.parts.has(target):
            return None
        content, own = (self.parts.tensor(target), format) if format else self._content(target)
        packed = infer.empty(own, _shape(content), self._memory, self._bias(target))
        self._keep_putting(packed, content, target, format)
        return packed

    def tied_head(self, embedding: Packed) -> Packed:
        """The embedding as the head, with the head's own bias where it has one."""
        bias = infer.padded_bias(self._bias("lm_head.weight"))
        if bias is None:
            return embedding
        self._made.append((("lm_head.weight",), lambda: bias.copy_(infer.padded_bias(self._bias("lm_head.weight")))))  # type: ignore[arg-type]
        return dataclasses.replace(embedding, bias=bias, _c=None)

    def pair(self, gate: str, up: str) -> tuple[Packed | None, Packed | None]:
        """Two matrices that are read together, interleaved where they have one format; None where the model has none."""
        if not self.parts.has(gate):
            return None, None
        first, second = self._content(gate), self._content(up)
        both = self._pair([first[1], second[1]], _shape(first[0]), (self._bias(gate), self._bias(up)))
        self._keep_putting(both[0], first[0], gate)
        self._keep_putting(both[1], second[0], up)
        return both

    def _pair(
        self, formats: Sequence[str], shape: tuple[int, ...], biases: tuple[Tensor | None, Tensor | None]
    ) -> tuple[Packed, Packed]:
        if formats[0] == formats[1]:
            return infer.empty_pair(formats[0], shape, self._memory, biases)
        first, second = (infer.empty(format, shape, self._memory, bias) for format, bias in zip(formats, biases, strict=True))
        return first, second

    def experts(self, gate_up: str, down: str) -> tuple[Packed, Packed, Packed]:
        """The gates, ups (E, M, D) and downs (E, D, M) of all experts of a layer; gates and ups are interleaved where they have
        one format."""
        E, M, D = self.config.n_routed_experts, self.config.moe_intermediate_size, self.config.hidden_size
        halves = ((0, M), (M, 2 * M))
        bias = self.parts.tensor(gate_up + "_bias") if self.parts.has(gate_up + "_bias") else None
        biases = (None, None) if bias is None else (bias[:, :M], bias[:, M:])
        gates, ups = self._pair([self._content(gate_up, 0, rows)[1] for rows in halves], (E, M, D), biases)
        down_bias = self.parts.tensor(down + "_bias") if self.parts.has(down + "_bias") else None
        downs = infer.empty(self._content(down, 0)[1], (E, D, M), self._memory, down_bias)

        def put() -> None:
            for e in range(E):
                for packed, rows in zip((gates, ups), halves, strict=True):
                    self._put(gate_up, packed, self._content(gate_up, e, rows)[0], e)
                self._put(down, downs, self._content(down, e)[0], e)
            for packed, name, rows in ((gates, gate_up, halves[0]), (ups, gate_up, halves[1]), (downs, down, (0, D))):
                if packed.bias is not None:
                    packed.bias.copy_(infer.padded_bias(self.parts.tensor(name + "_bias")[:, slice(*rows)]))  # type: ignore[arg-type]

        put()
        self._made.append(((gate_up, down), put))
        return gates, ups, downs

    def absorbed(self, target: str) -> tuple[Packed, Packed]:
        """``kv_b_proj`` as the two stacks of absorbed attention: queries into the latent space (H, L, N), sums out of it
        (H, V, L)."""
        config = self.config

        def floats() -> tuple[Tensor, Tensor]:
            w = self.parts.tensor(target).view(config.num_attention_heads, -1, config.kv_lora_rank)
            uk_HNL, uv_HVL = w.split([config.qk_nope_head_dim, config.v_head_dim], 1)
            return uk_HNL.transpose(1, 2), uv_HVL

        def stacks() -> list[tuple[Blocks | Tensor, str]]:
            kept = self.parts.halves(target) if self.quant == "gguf" else None
            if kept in (None, (None, None)):
                content, format = self._content(target)
                if self.quant == "gguf":  # where the order of its numbers changes its blocks cannot be kept
                    return [(stack, "q8_0" if isinstance(content, tuple) else format) for stack in floats()]
                return [(stack, self._format(target, stack.shape[-1])) for stack in floats()]
            return [
                (half, half[0]) if isinstance(half, tuple) else (floats()[i], "bf16" if half is None else "q8_0")
                for i, half in enumerate(kept)
            ]

        def put(given: list[tuple[Blocks | Tensor, str]]) -> None:
            for packed, (content, _) in zip(made, given, strict=True):
                for h in range(config.num_attention_heads):
                    if isinstance(content, tuple):
                        kind, rows, shape = content
                        self._put(target, packed, (kind, rows.view(shape[0], -1)[h], shape[1:]), h)
                    else:
                        self._put(target, packed, content[h], h)

        given = stacks()
        # A block of the latent space takes something of every head: one thread writes it, and reads the heads as they lie.
        made = [
            infer.empty(format, _shape(content), self._memory, braided=half == 0)
            for half, (content, format) in enumerate(given)
        ]
        put(given)
        self._made.append(((target,), lambda: put(stacks())))
        return made[0], made[1]

    def _content(
        self, target: str, expert: int | None = None, rows: tuple[int, int] | None = None
    ) -> tuple[Blocks | Tensor, str]:
        """What to pack, GGUF blocks the kernels have or else floats, and in which format."""
        if self.quant != "gguf":
            tensor = self.parts.tensor(target, expert, rows)
            return tensor, self._format(target, tensor.shape[-1])
        blocks = self.parts.blocks(target, expert, rows)
        if isinstance(blocks, tuple):
            return blocks, blocks[0]
        return self.parts.tensor(target, expert, rows), "bf16" if blocks is None else "q8_0"

    def _format(self, target: str, width: int) -> str:
        """Of a matrix quantised here, with rows of ``width``: "int4" stands for GGUF's smallest formats that hold such rows,
        "int4-64" for groups of 64, fewer bytes and a larger loss."""
        if self.quant not in ("int4", "int4-64"):
            return self.quant
        whole = width % infer.BLOCKS["q4_k"][0] == 0
        if target in _TABLES:
            return "q6_k" if whole else "q8_0"
        if self.quant == "int4-64":
            return "q4_64"
        return "q4_k" if whole else "q4_1"

    def _bias(self, target: str) -> Tensor | None:
        name = target.removesuffix("weight") + "bias"
        return self.parts.tensor(name) if self.parts.has(name) else None

    def _keep_putting(self, packed: Packed, content: Blocks | Tensor, target: str, format: str | None = None) -> None:
        """Fill it now, and be able to do so again."""
        self._put(target, packed, content)
        read = (lambda: self.parts.tensor(target)) if format else (lambda: self._content(target)[0])

        def again() -> None:
            self._put(target, packed, read())
            bias = self._bias(target)
            if packed.bias is not None and bias is not None:
                packed.bias.copy_(infer.padded_bias(bias))  # type: ignore[arg-type]

        self._made.append(((target,), again))

    def _put(self, target: str, packed: Packed, content: Blocks | Tensor, index: int = 0) -> None:
        if isinstance(content, tuple):
            infer.refill(packed, content[1], index)
        elif damaged := infer.fill(packed, content, index):
            raise CheckpointError(f"{target} is damaged: {damaged} of its rows hold NaN or numbers too large to be weights")


def _shape(content: Blocks | Tensor) -> tuple[int, ...]:
    return content[2] if isinstance(content, tuple) else tuple(content.shape)
