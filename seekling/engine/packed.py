"""A decoder's weights, packed once for the native runner, from a model in memory or straight from any store of weights.

From a store nothing but one tensor at a time is read; GGUF's Q8_0, Q4_0, Q4_1 and Q4_K blocks are only rearranged, every number
stays what it is.

>>> weights = PackedWeights(StoreParts(config, open_gguf(path).source), "gguf")
>>> weights.matrix("model.layers.0.self_attn.q_proj.weight").format
'q4_1'

Shapes: O outputs, I inputs, E experts, H heads, N nope dim, V value dim, L kv latent.
"""

from collections import defaultdict
from typing import Literal, Protocol

import torch
from torch import Tensor

from seekling.formats.hf import Piece, pieces
from seekling.formats.source import TensorSource
from seekling.kernels import infer
from seekling.kernels.infer import Packed
from seekling.model.config import ModelConfig
from seekling.model.decoder import Decoder

PackedQuant = Literal["f32", "bf16", "int8", "int4", "gguf"]
# What GGUF types become that are not kept as they are: floats stay floats, 5 and 6 bits take 8.
_FLOATS = ("F32", "F16", "BF16", "F64")
# Vocabulary tables keep 8 bits under "int4": with 4, SmolLM2's perplexity rises by 6 %, with 8 by next to nothing.
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
        if piece is None or found is None:
            return None
        kind, data, _ = found
        if kind.name in _FLOATS:
            return None
        if kind.name.lower() not in infer.BLOCKS:
            return kind.name
        return kind.name.lower(), torch.from_numpy(data.copy()), self._shape(piece)

    def _one(self, target: str, expert: int | None, rows: tuple[int, int] | None) -> Piece | None:
        """The piece that is exactly this part, in the order of memory."""
        for piece in self._pieces[target]:
            if piece.expert == expert and piece.rows == rows and piece.layout in ("", "row"):
                return piece
        return None

    def _shape(self, piece: Piece) -> tuple[int, ...]:
        return piece.shape if piece.layout == "" else self._shapes[piece.target]


class PackedWeights:
    """Packs tensors on demand.

    Args:
        parts: where they come from.
        quant: "int8" and "int4" quantise (embedding and head to 8 bits either way); "gguf" keeps the blocks of a GGUF file,
            and takes 8 bits for types the kernels do not have; "bf16" and "f32" keep floats.
    """

    def __init__(self, parts: Parts, quant: PackedQuant):
        self.parts, self.quant, self.config = parts, quant, parts.config
        self._memory = infer.Memory()

    def vector(self, target: str) -> Tensor | None:
        """A norm or bias in float32, zeros up to a multiple of 32; None where the model has none."""
        if not self.parts.has(target):
            return None
        vector = self.parts.tensor(target).detach().float().flatten()
        return torch.nn.functional.pad(vector, (0, -vector.numel() % infer.GROUP)).contiguous()

    def matrix(self, target: str, format: str | None = None) -> Packed | None:
        """A matrix (O, I) with its bias; None where the model has none."""
        if not self.parts.has(target):
            return None
        bias_name = target.removesuffix("weight") + "bias"
        bias = self.parts.tensor(bias_name) if self.parts.has(bias_name) else None
        blocks = None if format is not None else self._blocks(target)
        if isinstance(blocks, tuple):
            packed = infer.empty(blocks[0], blocks[2], self._memory, bias)
            infer.refill(packed, blocks[1])
            return packed
        weight = self.parts.tensor(target)
        if format is None:
            format = "q8_0" if self.quant == "int4" and target in _TABLES else self._format(blocks)
        packed = infer.empty(format, tuple(weight.shape), self._memory, bias)
        infer.fill(packed, weight)
        return packed

    def expert_stack(self, target: str, half: int | None = None) -> Packed:
        """All experts of a layer (E, O, I); ``half`` 0 and 1 are the gate's and the up rows of ``gate_up_proj``."""
        E, M = self.config.n_routed_experts, self.config.moe_intermediate_size
        rows = None if half is None else (half * M, (half + 1) * M)
        bias = None
        if self.parts.has(target + "_bias"):
            bias_EO = self.parts.tensor(target + "_bias")
            bias = bias_EO if rows is None else bias_EO[:, rows[0] : rows[1]]
        packed = None
        for e in range(E):
            blocks = self._blocks(target, e, rows)
            if isinstance(blocks, tuple):
                packed = packed or infer.empty(blocks[0], (E, *blocks[2]), self._memory, bias)
                infer.refill(packed, blocks[1], e)
            else:
                weight = self.parts.tensor(target, e, rows)
                packed = packed or infer.empty(self._format(blocks), (E, *weight.shape), self._memory, bias)
                infer.fill(packed, weight, e)
        assert packed is not None
        return packed

    def absorbed(self, target: str) -> tuple[Packed, Packed]:
        """``kv_b_proj`` as the two stacks of absorbed attention: queries into the latent space (H, L, N), sums out of it
        (H, V, L)."""
        config = self.config
        w = self.parts.tensor(target).view(config.num_attention_heads, -1, config.kv_lora_rank)
        uk_HNL, uv_HVL = w.split([config.qk_nope_head_dim, config.v_head_dim], 1)
        format = self._format(self._blocks(target))
        stacks = []
        for stack in (uk_HNL.transpose(1, 2), uv_HVL):
            packed = infer.empty(format, tuple(stack.shape), self._memory)
            for h, matrix in enumerate(stack):
                infer.fill(packed, matrix, h)
            stacks.append(packed)
        return stacks[0], stacks[1]

    def _blocks(self, target: str, expert: int | None = None, rows: tuple[int, int] | None = None) -> Blocks | str | None:
        return self.parts.blocks(target, expert, rows) if self.quant == "gguf" else None

    def _format(self, blocks: Blocks | str | None) -> str:
        if self.quant != "gguf":
            return self.quant
        return "bf16" if blocks is None else "q8_0"
