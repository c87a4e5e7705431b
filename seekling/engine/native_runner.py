"""The fast runner: a whole step of a decoder in one native call, over packed weights and paged cache (csrc/infer_step.cpp).

Activations are quantised to int8 in groups of 32 before every product with quantised weights; the residual stream, norms,
softmax and routers are float32; the cache is bfloat16. A token's logits are bit-identical whatever other rows are in the
step, however its prompt is cut into chunks, and for any number of threads.

>>> runner = NativeRunner.from_gguf("SmolLM2-135M-Instruct.Q4_1.gguf")
>>> runner.allocate(256)
>>> logits_RV = runner.step([Chunk([1, 2, 3], start=0, pages=[0])])
"""

import ctypes
import itertools
import os
import weakref
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from seekling.engine.native_adapters import AdapterTable
from seekling.engine.packed import DecoderParts, PackedQuant, PackedWeights, Parts, StoreParts
from seekling.engine.runner import PAGE, Chosen, Chunk, Content
from seekling.errors import MachineError, SeeklingError
from seekling.formats.adapters import Adapter
from seekling.kernels import infer, native
from seekling.kernels.infer_model import CBurst, CLayer, CStep, NativeModel
from seekling.machine import usable_cores
from seekling.model.config import ModelConfig
from seekling.model.decoder import Decoder
from seekling.model.rope import RopeTable

CacheDtype = Literal["bf16", "int8"]
_MOST_CHANNELS = 1024  # of a head or latent: rows of that size live on the stack
_ITEM = 32  # outputs of one piece of work; rows of logits are padded to it
_KEPT = 1 << 25  # bytes of logits that are kept for the next step
CHOICE = np.dtype([("expert", np.int32), ("weight", np.float32)])  # struct Chosen


def unsupported(config: ModelConfig) -> list[str]:
    """What of this model the native runner does not compute; empty when it can run it."""
    bad = []
    if not infer.available():
        bad.append(f"without its kernels: {native.status()}")
    if config.v4 is not None:
        return [*bad, "DeepSeek-V4"]
    layers = range(config.num_hidden_layers)
    if any(config.layer_type(i) == "linear_attention" for i in layers):
        bad.append("linear attention")
    if config.index_topk is not None:
        bad.append("sparse attention behind an indexer")
    if config.norm_residual is not None:
        bad.append("residuals of norms")
    if config.rope_scaling is not None and config.rope_scaling.rope_type in ("dynamic", "longrope"):
        bad.append(f"rope scaling of type {config.rope_scaling.rope_type}")
    if config.attention == "mla" and any(config.window(i) for i in layers):
        bad.append("sliding windows with MLA")
    if max(config.head_dim, config.v_head_dim, config.kv_lora_rank, config.rope_dim) > _MOST_CHANNELS:
        bad.append(f"heads or latents of more than {_MOST_CHANNELS} channels")
    return bad


class NativeRunner:
    """See `seekling.engine.runner.Runner`.

    Args:
        model: a `Decoder`, whose weights are copied into packed form (the model itself is not kept), or `PackedWeights`.
        quant: "int8", "int4", "int4-64", "bf16" or "f32".
        threads: default torch's number at each step, but no more than the cores this process may use (affinity, cgroup quota).
        cache: "bf16", or "int8" for half the memory: a scale for each token's key and value of a head, or latent and key.
        drafts: pack the first MTP layer too (`seekling.engine.native_draft` runs it); steps keep their `raw_states`.

    Raises:
        MachineError: the model has a part that the native kernels do not compute, or they are not built.
    """

    page_tokens = PAGE
    chosen: Chosen | None = None

    def __init__(
        self,
        model: Decoder | PackedWeights,
        quant: PackedQuant = "bf16",
        threads: int | None = None,
        cache: CacheDtype = "bf16",
        drafts: bool = False,
    ):
        weights = model if isinstance(model, PackedWeights) else PackedWeights(DecoderParts(model), quant)
        self.config, self.quant, self.threads, self.cache = weights.config, weights.quant, threads, cache
        missing = unsupported(self.config)
        if missing:
            raise MachineError(f"the native runner does not compute {', '.join(missing)}; use the torch runner")
        self.drafts = drafts and self.config.num_nextn_predict_layers > 0
        self.raw_states: list[np.ndarray] = []  # of the last step, before the final norm, one (T, D padded to 32) a chunk
        self.state_floats = -(-self.config.hidden_size // infer.GROUP) * infer.GROUP
        self._native = NativeModel()
        self._out = np.empty(0, np.float32)
        self._most_threads = usable_cores()
        self._held: Callable[[], object] = lambda: None
        self._rope = RopeTable(self.config)
        self._positions = 0
        self._pool: Tensor | None = None
        self._pages = 0
        self._describe(weights)
        self._weights = weights if isinstance(weights.parts, DecoderParts) else None
        if self._weights is None:
            weights.close()

    def refresh(self, parts: Parts, targets: Container[str] | None = None) -> None:
        """Pack tensors of a model in memory anew in place: those of ``targets``, or all. What was cached is stale then."""
        if self._weights is None:
            raise SeeklingError("only a runner made from a model in memory can take new weights")
        self._weights.refresh(parts, targets)

    @classmethod
    def from_gguf(cls, path: str | os.PathLike, quant: PackedQuant = "gguf", threads: int | None = None) -> "NativeRunner":
        """A runner over a GGUF file, whose blocks are kept as they are; the file is not held open."""
        from seekling.formats.families import read_config
        from seekling.formats.gguf_file import open_gguf

        file = open_gguf(path)
        return cls(PackedWeights(StoreParts(read_config(file.raw_config), file.source), quant), threads=threads)

    @property
    def path(self) -> str:
        """Which code runs, for people."""
        return f"{native.status()}, {self.quant}" + (", int8 cache" if self.cache == "int8" else "")

    def weight_bytes(self) -> int:
        """Bytes of the packed weights."""
        return sum(w.nbytes() for w in self.packed())

    def packed(self) -> list[infer.Packed]:
        """Every packed matrix once."""
        return list({w.data.data_ptr(): w for w in self._native.keep if isinstance(w, infer.Packed)}.values())

    def embedding_bytes(self) -> int:
        """Bytes of the embedding, of which a token reads one row only."""
        return self._embedding.nbytes()

    # ---- the model as the kernels see it -------------------------------------------------------------------------------

    def _describe(self, weights: PackedWeights) -> None:
        config, m = self.config, self._native.model
        m.cache_int8 = int(self.cache == "int8")
        gqa = config.attention == "gqa"
        embedding = weights.matrix("model.embed_tokens.weight")
        assert embedding is not None
        head = weights.tied_head(embedding) if config.tie_word_embeddings else weights.matrix("lm_head.weight")
        assert head is not None
        self._embedding = embedding
        m.embedding, m.head = self._native.matrix(embedding), self._native.matrix(head)
        m.final_norm = self._vector(weights.vector("model.norm.weight"))
        m.layer_count, m.hidden, m.vocabulary = config.num_hidden_layers, config.hidden_size, config.vocab_size
        m.attention, m.heads, m.kv_heads = int(not gqa), config.num_attention_heads, config.num_key_value_heads if gqa else 1
        m.head_dim = config.head_dim if gqa else config.v_head_dim
        m.rotary, m.interleaved = config.rope_dim, self._interleaved()
        m.qk_norm = {None: 0, "head": 1, "full": 2}[config.qk_norm]
        if not gqa:
            m.nope, m.latent, m.q_latent = config.qk_nope_head_dim, config.kv_lora_rank, config.q_lora_rank or 0
        m.width_max = self._widest()
        m.eps, m.attention_scale = config.rms_norm_eps, config.softmax_scale
        m.qk_eps = config.rms_norm_eps if gqa else 1e-6  # see model/attention.py
        self._describe_router()
        layers = (CLayer * (config.num_hidden_layers + self.drafts))()
        offset, each = 0, self._native.layer_page_bytes()
        for i, layer in enumerate(layers):
            self._describe_attention(layer, weights, i)
            self._describe_mlp(layer, weights, i)
            layer.cache_offset = offset
            offset += each
        m.page_bytes = offset
        m.layers = ctypes.addressof(layers)
        if self.drafts:
            self._describe_draft(weights)
        self._native.keep.append(layers)
        self._adapters = AdapterTable(config, layers, m.head)

    def _describe_draft(self, weights: PackedWeights) -> None:
        config, draft = self.config, self._native.model.draft
        name = f"model.layers.{config.num_hidden_layers}."
        draft.join = self._matrix(weights, name + "eh_proj.weight")
        draft.token_norm, draft.state_norm, draft.head_norm = (
            self._vector(weights.vector(f"{name}{norm}.weight")) for norm in ("enorm", "hnorm", "shared_head.norm")
        )
        draft.state_first, draft.after_norm = int(config.mtp_hidden_first), int(config.mtp_after_norm)

    def draft_vocabulary(self, tokens: int) -> None:
        """The MTP layer chooses among so many first tokens; 0 = among all."""
        self._native.model.draft.vocabulary = tokens

    def _describe_router(self) -> None:
        config, m = self.config, self._native.model
        m.experts, m.experts_per_token, m.expert_width = (
            config.n_routed_experts,
            config.num_experts_per_tok,
            config.moe_intermediate_size,
        )
        first = config.topk_method == "topk_first"
        m.scoring = 2 if first else {"softmax": 0, "sigmoid": 1}[config.scoring_func]
        m.normalise, m.routed_scale = int(config.renormalises), 1.0 if first else config.routed_scaling_factor
        m.norm_min = -1.0 if config.router_norm_min is None else config.router_norm_min
        grouped = config.topk_method in ("noaux_tc", "bias", "group_limited_greedy")
        m.group_count, m.groups_kept = config.n_group if grouped else 1, config.topk_group
        m.group_best = 1 if config.topk_method == "group_limited_greedy" else 2
        m.clamped = int(config.swiglu_limit is not None or config.expert_bias)
        m.swiglu_alpha = 1.0 if config.swiglu_alpha is None else config.swiglu_alpha
        m.swiglu_limit = 3e38 if config.swiglu_limit is None else config.swiglu_limit

    def _describe_attention(self, layer: Any, weights: PackedWeights, i: int) -> None:
        config, name = self.config, f"model.layers.{i}.self_attn."
        layer.attention_norm = self._vector(weights.vector(f"model.layers.{i}.input_layernorm.weight"))
        layer.window, layer.kind = config.window(i) or 0, int(config.attention == "mla")
        layer.o = self._matrix(weights, name + "o_proj.weight")
        layer.q = self._matrix(weights, name + "q_proj.weight")
        if config.attention == "gqa":
            layer.k, layer.v = (self._matrix(weights, f"{name}{kind}_proj.weight") for kind in "kv")
            layer.q_norm, layer.k_norm = (self._vector(weights.vector(f"{name}{kind}_norm.weight")) for kind in "qk")
            layer.sinks = self._vector(weights.vector(name + "sinks"))
            return
        layer.q_a, layer.q_b = (self._matrix(weights, f"{name}{kind}_proj.weight") for kind in ("q_a", "q_b"))
        layer.kv_a = self._matrix(weights, name + "kv_a_proj_with_mqa.weight")
        k_b, v_b = weights.absorbed(name + "kv_b_proj.weight")
        layer.k_b, layer.v_b = self._native.matrix(k_b), self._native.matrix(v_b)
        layer.q_norm = self._vector(weights.vector(name + "q_a_layernorm.weight"))
        layer.k_norm = self._vector(weights.vector(name + "kv_a_layernorm.weight"))

    def _describe_mlp(self, layer: Any, weights: PackedWeights, i: int) -> None:
        name = f"model.layers.{i}.mlp."
        layer.mlp_norm = self._vector(weights.vector(f"model.layers.{i}.post_attention_layernorm.weight"))
        layer.moe = int(self.config.is_moe(i))
        dense = name + ("shared_experts." if layer.moe else "")
        gate, up = weights.pair(dense + "gate_proj.weight", dense + "up_proj.weight")
        layer.gate, layer.up = self._native.matrix(gate), self._native.matrix(up)
        layer.down = self._matrix(weights, dense + "down_proj.weight")
        if not layer.moe:
            return
        layer.router = self._native.matrix(weights.matrix(name + "gate.weight", "f32"))
        layer.router_bias = self._vector(weights.vector(name + "gate.e_score_correction_bias"))
        layer.shared_gate = self._native.matrix(weights.matrix(name + "shared_expert_gate.weight", "f32"))
        stacks = weights.experts(name + "experts.gate_up_proj", name + "experts.down_proj")
        layer.expert_gate, layer.expert_up, layer.expert_down = (self._native.matrix(stack) for stack in stacks)

    def _interleaved(self) -> int:
        config = self.config
        return int(config.rope_interleave or (config.attention == "mla" and config.rope_arithmetic == "complex"))

    def _widest(self) -> int:
        """The longest row of activations that is ever quantised."""
        c = self.config
        heads = c.num_attention_heads * max(c.head_dim, c.v_head_dim)
        return max(c.hidden_size, heads, c.intermediate_size, c.shared_width, c.moe_intermediate_size, c.kv_lora_rank,
                   c.q_lora_rank or 0, 2 * c.hidden_size * self.drafts)  # fmt: skip

    def _matrix(self, weights: PackedWeights, target: str) -> Any:
        return self._native.matrix(weights.matrix(target))

    def _vector(self, vector: Tensor | None) -> int | None:
        if vector is None:
            return None
        self._native.keep.append(vector)
        return vector.data_ptr()

    # ---- the pool --------------------------------------------------------------------------------------------------------

    def allocate(self, pages: int) -> None:
        """Pages 0 … pages - 1. Memory is taken as they come into use."""
        size = self._native.model.page_bytes
        self._use(infer.Memory.map(pages * size).view(pages, size), pages)

    def _use(self, pool: Tensor | None, pages: int) -> None:
        self._pool, self._pages = pool, pages
        self._native.model.pool = None if pool is None else pool.data_ptr()

    @property
    def page_bytes(self) -> int:
        """Bytes of a page of all layers."""
        return self._native.model.page_bytes

    def copy_page(self, src: int, dst: int) -> None:
        assert self._pool is not None, "allocate() comes first"
        self._pool[dst] = self._pool[src]

    def read_page(self, page: int) -> Content:
        assert self._pool is not None, "allocate() comes first"
        return self._pool[page].numpy().tobytes()

    def write_page(self, page: int, content: Content) -> None:
        assert self._pool is not None, "allocate() comes first"
        self._pool[page].numpy()[:] = np.frombuffer(content, np.uint8)

    def bytes(self) -> int:
        """Bytes the pool may take."""
        return 0 if self._pool is None else self._pool.nbytes

    # ---- adapters --------------------------------------------------------------------------------------------------------

    @property
    def adapters(self) -> Mapping[str, int]:
        """Names that a chunk may choose."""
        return self._adapters.numbers

    def add_adapter(self, name: str, adapter: Adapter) -> None:
        """Let chunks be computed with this adapter; see `seekling.engine.native_adapters`."""
        self._native.model.adapters = self._adapters.add(name, adapter)
        self._native.model.most_rank = self._adapters.most_rank

    # ---- a step ----------------------------------------------------------------------------------------------------------

    def step(self, chunks: Sequence[Chunk]) -> Tensor:
        """Float32 logits (R, V) of the rows asked for, in the order of the chunks."""
        return self._run(chunks, states=False)

    def states(self, chunks: Sequence[Chunk]) -> Tensor:
        """A step that gives the final-normed states (R, D) in place of the logits."""
        return self._run(chunks, states=True)

    def states_of(self, ids: Sequence[int], step_tokens: int = 512) -> Iterator[Tensor]:
        """Final-normed states of a whole text, piece by piece (R, D), computed in pages of its own.

        Between two pieces the runner may be stepped, which overwrites the states.
        """
        pages = list(range(-(-len(ids) // PAGE)))
        own: Tensor | None = None
        for first in range(0, len(ids), step_tokens):
            kept = self._pool, self._pages
            try:
                if own is None:
                    self.allocate(len(pages))
                    own = self._pool
                else:
                    self._use(own, len(pages))
                states = self.states([Chunk(list(ids[first : first + step_tokens]), first, pages, "all")])
            finally:
                self._use(*kept)
            yield states

    def _run(self, chunks: Sequence[Chunk], states: bool) -> Tensor:
        ids: list[int] = []
        pages: list[int] = []
        wanted: list[int] = []
        row_ends, starts, offsets = [0], [], []
        for chunk in chunks:
            first = len(ids)
            ids += chunk.ids
            row_ends.append(len(ids))
            starts.append(chunk.start)
            offsets.append(len(pages))
            pages += chunk.pages[: -(-chunk.end // PAGE)]
            if chunk.want != "none":
                wanted += range(first if chunk.want == "all" else len(ids) - 1, len(ids))
            if len(pages) - offsets[-1] < -(-chunk.end // PAGE) or not chunk.ids:
                raise SeeklingError(f"a chunk of {len(chunk.ids)} tokens up to {chunk.end} came with {len(chunk.pages)} pages")
        self.chosen = None
        if not ids:
            return torch.empty(0, self.config.hidden_size if states else self.config.vocab_size)
        self.check(ids, pages, max(chunk.end for chunk in chunks))
        parts = [ids, row_ends, starts, offsets, pages, wanted]
        if self._adapters.numbers:
            parts.append([-1 if chunk.adapter is None else self._adapters.numbers[chunk.adapter] for chunk in chunks])
        numbers = np.array(list(itertools.chain.from_iterable(parts)), dtype=np.int32)
        address = numbers.__array_interface__["data"][0]
        at = list(itertools.accumulate((4 * len(part) for part in parts), initial=address))
        which = at[6] if self._adapters.numbers and max(parts[6]) >= 0 else None
        size = self.config.hidden_size if states else self.config.vocab_size
        width = -(-size // _ITEM) * _ITEM
        out = self._result(len(wanted), width)
        routed = None
        if any(chunk.experts for chunk in chunks):
            layers = sum(self.config.is_moe(i) for i in range(self.config.num_hidden_layers))
            routed = np.zeros((len(wanted), layers, self.config.num_experts_per_tok), CHOICE)
        logits, normed = (None, out.data_ptr()) if states else (out.data_ptr(), None)
        raw = np.empty((len(ids), self.state_floats), np.float32) if self.drafts else None
        step = CStep(*at[:5], which, at[5], logits, normed, None if raw is None else raw.__array_interface__["data"][0],
                     None if routed is None else routed.ctypes.data, width, len(chunks), len(wanted),
                     self.team(), 0)  # fmt: skip
        self._native.step(step)
        if raw is not None:
            self.raw_states = [raw] if len(chunks) == 1 else [raw[a:b] for a, b in itertools.pairwise(row_ends)]
        if routed is not None:
            self.chosen = Chosen(routed["expert"], routed["weight"])
        return out if width == size else out[:, :size]

    def _result(self, rows: int, width: int) -> Tensor:
        """Float32 (rows, width) for what a step gives: where the last one's lies, once nobody holds that any more."""
        if 4 * rows * width > _KEPT:
            return torch.empty(rows, width)
        if self._held() is not None or self._out.size < rows * width:
            self._out = np.empty(rows * width, np.float32)
        array = self._out[: rows * width].reshape(rows, width)
        self._held = weakref.ref(array)  # any tensor or array over this memory keeps `array` alive
        return torch.from_numpy(array)

    def team(self) -> int:
        """Threads of the next step."""
        return self.threads or min(torch.get_num_threads(), self._most_threads)

    def burst(self, call: CBurst) -> None:
        """See `seekling.engine.native_burst.burst`."""
        self._native.burst(call)

    def check(self, ids: Sequence[int], pages: Sequence[int], end: int) -> None:
        """Refuse tokens and pages there are not, and have rotations for all places before ``end``."""
        if min(ids) < 0 or max(ids) >= self.config.vocab_size:
            raise SeeklingError(f"token ids must lie in 0..{self.config.vocab_size - 1}")
        if min(pages) < 0 or max(pages) >= self._pages:
            raise SeeklingError(f"page {max(pages)} was asked for, but the cache has {self._pages}")
        if end > self._positions:
            cos, sin = self._rope.upto(max(end, min(self.config.max_position_embeddings, 4096)), torch.device("cpu"))
            self._positions, self._tables = cos.shape[0], (cos.contiguous(), sin.contiguous())
            self._native.model.cosines, self._native.model.sines = (t.data_ptr() for t in self._tables)
