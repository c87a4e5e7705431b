"""What a decoder is: one set of fields for every family, and the counts that follow from them.

The names are Hugging Face's where a family has one (DeepSeek-V3's before all); ``seekling.formats.families`` translates each
family's ``config.json`` to these fields and back.  Published values: DeepSeek-V2 §2, DeepSeek-V3 §2 and §4.2.
A dense model is one without routed experts, or whose ``first_k_dense_replace`` is not smaller than ``num_hidden_layers``.
"""

import math
from dataclasses import dataclass

from seekling.errors import ConfigError, raise_all
from seekling.model.checks import problems
from seekling.model.v4 import counts as v4_counts
from seekling.model.v4.config import V4Config


@dataclass(frozen=True)
class RopeScaling:
    """How rotary frequencies change for a longer context.

    ``rope_type``: ``yarn`` (DeepSeek, gpt-oss, Qwen), ``linear``, ``dynamic`` (NTK), ``llama3`` or ``longrope``.
    ``mscale`` / ``mscale_all_dim`` enlarge the softmax temperature (DeepSeek-V2 §3.1.4): m = 0.1·mscale·ln(factor) + 1.
    """

    rope_type: str
    factor: float
    original_max_position_embeddings: int | None = None
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float | None = None
    mscale_all_dim: float | None = None
    attention_factor: float | None = None
    truncate: bool = True
    low_freq_factor: float | None = None
    high_freq_factor: float | None = None
    short_factor: tuple[float, ...] | None = None
    long_factor: tuple[float, ...] | None = None


@dataclass(frozen=True)
class NormResidual:
    """MiniMax's residual form: the norm's output goes on beside the block, x = α·norm(x) + β·block(norm(x)).

    One pair each for full attention, linear attention and the feed-forward part (MiniMax-01 §2, DeepNorm).
    """

    full_alpha: float = 1.0
    full_beta: float = 1.0
    linear_alpha: float = 1.0
    linear_beta: float = 1.0
    mlp_alpha: float = 1.0
    mlp_beta: float = 1.0


@dataclass(frozen=True)
class Parameters:
    """Parameter counts. ``active`` is what one token touches in the main model, both embedding tables counted."""

    total: int
    active: int
    embedding: int
    head: int
    mtp: int

    @property
    def active_matmul(self) -> int:
        """Active parameters that take part in a matrix product: all but the input embedding."""
        return self.active - self.embedding


@dataclass(frozen=True)
class ModelConfig:
    """The decoder's shape.

    ``attention`` is ``mla`` (latent attention: the kv_lora_rank … v_head_dim fields), ``gqa`` (num_key_value_heads, head_dim
    and the fields after them) or ``v4`` (DeepSeek-V4: head_dim, q_lora_rank, qk_rope_head_dim and the nested ``v4``).
    ``index_topk`` puts an indexer before MLA that picks so many keys a query (``model/sparse.py``).  ``layer_types`` gives each
    layer ``full_attention``, ``sliding_attention`` or ``linear_attention``, or one of V4's kinds; None means full attention
    everywhere.  Linear layers work through whole rows in blocks of ``linear_block`` tokens (``model/lightning.py``).

    ``topk_method`` with ``scoring_func``: ``noaux_tc`` with sigmoid (V3), ``greedy`` and ``group_limited_greedy`` with softmax
    (V2, Qwen), ``bias`` with softmax (ERNIE: a bias steers the choice), ``topk_first`` with softmax (gpt-oss: softmax over the
    chosen logits only).

    ``mtp_hidden_first`` and ``mtp_after_norm`` choose what DeepSeek's sources leave open about MTP (V3 §2.2): the order in
    which ``eh_proj`` concatenates (the published weights put the embedding first) and whether the hidden state is taken after
    the final norm.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    moe_intermediate_size: int = 0
    # attention
    attention: str = "mla"
    kv_lora_rank: int = 0
    qk_nope_head_dim: int = 0
    qk_rope_head_dim: int = 0
    v_head_dim: int = 0
    q_lora_rank: int | None = None
    attention_bias: bool = False
    index_topk: int | None = None
    index_n_heads: int = 0
    index_head_dim: int = 0
    num_key_value_heads: int = 0
    head_dim: int = 0
    rotary_dim: int | None = None
    qkv_bias: bool = False
    o_bias: bool = False
    qk_norm: str | None = None
    attention_sinks: bool = False
    sliding_window: int | None = None
    layer_types: tuple[str, ...] | None = None
    linear_block: int = 256
    norm_residual: NormResidual | None = None
    # mixture of experts
    n_routed_experts: int = 0
    num_experts_per_tok: int = 0
    n_shared_experts: int = 0
    shared_expert_intermediate_size: int = 0
    shared_expert_gate: bool = False
    first_k_dense_replace: int = 0
    moe_layers: tuple[int, ...] | None = None
    n_group: int = 1
    topk_group: int = 1
    scoring_func: str = "sigmoid"
    topk_method: str = "noaux_tc"
    norm_topk_prob: bool = True
    router_norm_min: float | None = None
    router_float32: bool = True
    router_bias: bool = False
    routed_scaling_factor: float = 1.0
    expert_bias: bool = False
    swiglu_alpha: float | None = None
    swiglu_limit: float | None = None
    # multi-token prediction
    num_nextn_predict_layers: int = 0
    mtp_hidden_first: bool = False
    mtp_after_norm: bool = False
    # positions, norms, tables
    max_position_embeddings: int = 4096
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling | None = None
    rope_interleave: bool = True
    rms_norm_eps: float = 1e-6
    tie_word_embeddings: bool = False
    mlp_bias: bool = False
    head_bias: bool = False
    initializer_range: float = 0.02
    bos_token_id: int | None = 0
    eos_token_id: int | tuple[int, ...] | None = 1
    pad_token_id: int | None = None
    model_type: str = "deepseek_v3"
    v4: V4Config | None = None

    def __post_init__(self) -> None:
        self.validate()

    # ---- derived -------------------------------------------------------------------------------------------------

    @property
    def qk_head_dim(self) -> int:
        """Width of one query head."""
        return self.head_dim if self.attention == "gqa" else self.qk_nope_head_dim + self.qk_rope_head_dim

    @property
    def rope_dim(self) -> int:
        """Rotated channels of a head."""
        return (self.rotary_dim or self.head_dim) if self.attention == "gqa" else self.qk_rope_head_dim

    @property
    def rope_arithmetic(self) -> str:
        """How the family's reference code rounds when it rotates (see ``rope.rotate``)."""
        return {"deepseek_v2": "complex", "ernie4_5": "float32", "ernie4_5_moe": "float32"}.get(self.model_type, "native")

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """Every token that ends a text."""
        if self.eos_token_id is None:
            return ()
        return self.eos_token_id if isinstance(self.eos_token_id, tuple) else (self.eos_token_id,)

    @property
    def renormalises(self) -> bool:
        """Whether chosen expert weights are divided by their sum; transformers ignores the key for DeepSeek-V2."""
        return self.norm_topk_prob and self.model_type != "deepseek_v2"

    @property
    def shared_width(self) -> int:
        """Width of the shared expert's MLP, 0 without one."""
        return self.shared_expert_intermediate_size or self.n_shared_experts * self.moe_intermediate_size

    @property
    def max_row(self) -> int:
        """Longest row of one forward pass: dynamic NTK reaches ``factor`` times beyond the trained positions."""
        scaling = self.rope_scaling
        reach = scaling.factor if scaling is not None and scaling.rope_type == "dynamic" else 1.0
        return int(self.max_position_embeddings * reach)

    def layer_type(self, layer: int) -> str:
        """``full_attention``, ``sliding_attention`` or ``linear_attention``; MTP layers are full."""
        if self.layer_types is None or layer >= self.num_hidden_layers:
            return "full_attention"
        return self.layer_types[layer]

    def window(self, layer: int) -> int | None:
        """Tokens a position of this layer may look back on, itself included; None without a limit."""
        return self.sliding_window if self.layer_type(layer) == "sliding_attention" else None

    def is_moe(self, layer: int) -> bool:
        """Whether layer ``layer`` routes to experts; MTP layers (index ≥ ``num_hidden_layers``) do as the last layer does."""
        layer = min(layer, self.num_hidden_layers - 1)
        if self.n_routed_experts == 0:
            return False
        return layer >= self.first_k_dense_replace if self.moe_layers is None else layer in self.moe_layers

    @property
    def router_layers(self) -> list[int]:
        """Indices of the layers that have a router, MTP layers last."""
        return [i for i in range(self.num_hidden_layers + self.num_nextn_predict_layers) if self.is_moe(i)]

    def kv_elements_per_token(self) -> int:
        """Cached numbers per token over the main layers: L·(kv_lora_rank + qk_rope_head_dim) for MLA (V2 §2.1.2) and the
        indexer's key where there is one, two vectors per key-value head for GQA; layers with linear attention hold a state
        instead and count nothing."""
        if self.v4 is not None:
            return v4_counts.kv_elements_per_token(self)
        each = self.kv_lora_rank + self.qk_rope_head_dim + (0 if self.index_topk is None else self.index_head_dim)
        if self.attention == "gqa":
            each = 2 * self.num_key_value_heads * self.head_dim
        return each * sum(self.layer_type(i) != "linear_attention" for i in range(self.num_hidden_layers))

    @property
    def holds_state(self) -> bool:
        """Whether some layer keeps a running state of the whole row, which cannot be cut back or shared token by token."""
        return self.v4 is not None or (self.layer_types is not None and "linear_attention" in self.layer_types)

    @property
    def softmax_scale(self) -> float:
        """1/√(qk head dim), times m² where MLA's YaRN carries ``mscale_all_dim`` (as the V3 reference code does)."""
        scale = self.qk_head_dim**-0.5
        if self.attention == "mla" and self.rope_scaling is not None and self.rope_scaling.mscale_all_dim:
            m = yarn_mscale(self.rope_scaling.factor, self.rope_scaling.mscale_all_dim)
            scale = scale * m * m
        return scale

    # ---- counts --------------------------------------------------------------------------------------------------

    def attention_parameters(self, layer: int = 0) -> int:
        """Weights of one attention block, its norms, biases and sinks included."""
        if self.v4 is not None:
            return v4_counts.attention_parameters(self, layer)
        d, h = self.hidden_size, self.num_attention_heads
        if self.layer_type(layer) == "linear_attention":
            return 5 * d * h * self.head_dim + h * self.head_dim
        if self.attention == "gqa":
            q, kv = h * self.head_dim, self.num_key_value_heads * self.head_dim
            n = 2 * d * (q + kv) + (q + 2 * kv if self.qkv_bias else 0) + (d if self.o_bias else 0)
            return n + {None: 0, "head": 2 * self.head_dim, "full": q + kv}[self.qk_norm] + h * self.attention_sinks
        n = d * (self.kv_lora_rank + self.qk_rope_head_dim) + self.kv_lora_rank
        n += self.kv_lora_rank * h * (self.qk_nope_head_dim + self.v_head_dim) + h * self.v_head_dim * d
        if self.q_lora_rank is None:
            n += d * h * self.qk_head_dim
        else:
            n += d * self.q_lora_rank + self.q_lora_rank + self.q_lora_rank * h * self.qk_head_dim
        if self.index_topk is not None:  # queries, key, its norm, head weights
            n += (self.q_lora_rank or 0) * self.index_n_heads * self.index_head_dim
            n += d * self.index_head_dim + 2 * self.index_head_dim + d * self.index_n_heads
        if self.attention_bias:
            n += (self.kv_lora_rank + self.qk_rope_head_dim) + d + (self.q_lora_rank or 0)
        return n

    def mlp_parameters(self, width: int) -> int:
        """Weights of one SwiGLU MLP of the given width."""
        bias = 2 * width + self.hidden_size if self.mlp_bias else 0
        return 3 * self.hidden_size * width + bias

    def layer_parameters(self, layer: int) -> tuple[int, int]:
        """(total, active) weights of one decoder layer; selection biases are buffers and do not count."""
        n = self.attention_parameters(layer) + 2 * self.hidden_size
        if self.v4 is not None:
            n += v4_counts.hyper_connections(self)
        if not self.is_moe(layer):
            n += self.mlp_parameters(self.intermediate_size)
            return n, n
        expert = 3 * self.hidden_size * self.moe_intermediate_size
        if self.expert_bias:
            expert += 2 * self.moe_intermediate_size + self.hidden_size
        n += self.n_routed_experts * (self.hidden_size + self.router_bias)
        if self.shared_width:
            n += self.mlp_parameters(self.shared_width) + self.hidden_size * self.shared_expert_gate
        return n + self.n_routed_experts * expert, n + self.num_experts_per_tok * expert

    def parameters(self) -> Parameters:
        """Count parameters as the real module holds them (DeepSeek-V3: 671.026B without its MTP module)."""
        layers = [self.layer_parameters(i) for i in range(self.num_hidden_layers)]
        embedding = self.vocab_size * self.hidden_size
        head = (0 if self.tie_word_embeddings else embedding) + self.vocab_size * self.head_bias
        total = sum(t for t, _ in layers) + embedding + head + self.hidden_size
        active = sum(a for _, a in layers) + embedding + head + self.hidden_size
        per_mtp = self.layer_parameters(self.num_hidden_layers)[0] + 2 * self.hidden_size**2 + 3 * self.hidden_size
        if self.v4 is not None:
            joint = v4_counts.hyper_head(self)
            total, active, per_mtp = total + joint, active + joint, per_mtp + joint
        return Parameters(total, active, embedding, head, self.num_nextn_predict_layers * per_mtp)

    def validate(self) -> None:
        """Raise one ConfigError that lists every problem."""
        raise_all(ConfigError, problems(self), "model config")


def yarn_mscale(factor: float, mscale: float) -> float:
    """m = 0.1·mscale·ln(factor) + 1 (YaRN §3.4 as DeepSeek-V2 §3.1.4 uses it); 1 without extension."""
    return 0.1 * mscale * math.log(factor) + 1.0 if factor > 1 else 1.0
