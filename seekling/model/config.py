"""What a DeepSeek-style decoder is: the fields of its Hugging Face ``config.json``, checked, and the counts that follow.

Source of the names and of the published values: DeepSeek-V2 §2, DeepSeek-V3 §2 and §4.2, and the configuration classes
``DeepseekV2Config`` and ``DeepseekV3Config`` of transformers.
A dense model is one whose ``first_k_dense_replace`` is not smaller than ``num_hidden_layers``.
"""

import dataclasses
import math
import warnings
from dataclasses import dataclass
from typing import Any

from seekling.errors import ConfigError, raise_all


@dataclass(frozen=True)
class RopeScaling:
    """Context extension of the rotary part: ``yarn`` (the only kind DeepSeek uses) or ``linear``.

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
    """The decoder's shape. Field names and meaning are those of Hugging Face's ``DeepseekV3Config``.

    ``mtp_hidden_first`` and ``mtp_after_norm`` choose what DeepSeek's sources leave open about MTP (V3 §2.2): the order in
    which ``eh_proj`` concatenates (the published weights put the embedding first) and whether the hidden state is taken after
    the final norm.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    moe_intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int
    q_lora_rank: int | None = None
    n_routed_experts: int = 0
    num_experts_per_tok: int = 0
    n_shared_experts: int = 0
    first_k_dense_replace: int = 0
    n_group: int = 1
    topk_group: int = 1
    scoring_func: str = "sigmoid"
    topk_method: str = "noaux_tc"
    norm_topk_prob: bool = True
    routed_scaling_factor: float = 1.0
    num_nextn_predict_layers: int = 0
    max_position_embeddings: int = 4096
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling | None = None
    rope_interleave: bool = True
    rms_norm_eps: float = 1e-6
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    initializer_range: float = 0.02
    bos_token_id: int | None = 0
    eos_token_id: int | None = 1
    pad_token_id: int | None = None
    mtp_hidden_first: bool = False
    mtp_after_norm: bool = False
    model_type: str = "deepseek_v3"

    def __post_init__(self) -> None:
        self.validate()

    # ---- derived -------------------------------------------------------------------------------------------------

    @property
    def qk_head_dim(self) -> int:
        return self.qk_nope_head_dim + self.qk_rope_head_dim

    def is_moe(self, layer: int) -> bool:
        """Whether layer ``layer`` routes to experts; MTP layers (index ≥ ``num_hidden_layers``) do if any layer does."""
        return self.n_routed_experts > 0 and min(layer, self.num_hidden_layers - 1) >= self.first_k_dense_replace

    @property
    def router_layers(self) -> list[int]:
        """Indices of the layers that have a router, MTP layers last."""
        return [i for i in range(self.num_hidden_layers + self.num_nextn_predict_layers) if self.is_moe(i)]

    def kv_elements_per_token(self) -> int:
        """Cached numbers per token over the main layers: L·(kv_lora_rank + qk_rope_head_dim) (V2 §2.1.2)."""
        return self.num_hidden_layers * (self.kv_lora_rank + self.qk_rope_head_dim)

    @property
    def softmax_scale(self) -> float:
        """1/√(qk head dim), times m² where YaRN carries ``mscale_all_dim`` (as the V3 reference code does)."""
        scale = self.qk_head_dim**-0.5
        if self.rope_scaling is not None and self.rope_scaling.mscale_all_dim:
            m = yarn_mscale(self.rope_scaling.factor, self.rope_scaling.mscale_all_dim)
            scale = scale * m * m
        return scale

    def attention_parameters(self) -> int:
        """Weights of one MLA block, its two latent norms and biases included."""
        d, h = self.hidden_size, self.num_attention_heads
        n = d * (self.kv_lora_rank + self.qk_rope_head_dim) + self.kv_lora_rank
        n += self.kv_lora_rank * h * (self.qk_nope_head_dim + self.v_head_dim) + h * self.v_head_dim * d
        if self.q_lora_rank is None:
            n += d * h * self.qk_head_dim
        else:
            n += d * self.q_lora_rank + self.q_lora_rank + self.q_lora_rank * h * self.qk_head_dim
        if self.attention_bias:
            n += (self.kv_lora_rank + self.qk_rope_head_dim) + d + (self.q_lora_rank or 0)
        return n

    def mlp_parameters(self, width: int) -> int:
        """Weights of one SwiGLU MLP of the given width."""
        bias = 2 * width + self.hidden_size if self.mlp_bias else 0
        return 3 * self.hidden_size * width + bias

    def layer_parameters(self, layer: int) -> tuple[int, int]:
        """(total, active) weights of one decoder layer; router biases are buffers and do not count."""
        n = self.attention_parameters() + 2 * self.hidden_size
        if not self.is_moe(layer):
            n += self.mlp_parameters(self.intermediate_size)
            return n, n
        expert = 3 * self.hidden_size * self.moe_intermediate_size
        n += self.n_routed_experts * self.hidden_size
        if self.n_shared_experts:
            n += self.mlp_parameters(self.n_shared_experts * self.moe_intermediate_size)
        return n + self.n_routed_experts * expert, n + self.num_experts_per_tok * expert

    def parameters(self) -> Parameters:
        """Count parameters as the real module holds them (DeepSeek-V3: 671.026B without its MTP module)."""
        layers = [self.layer_parameters(i) for i in range(self.num_hidden_layers)]
        embedding = self.vocab_size * self.hidden_size
        head = 0 if self.tie_word_embeddings else embedding
        total = sum(t for t, _ in layers) + embedding + head + self.hidden_size
        active = sum(a for _, a in layers) + embedding + head + self.hidden_size
        per_mtp = self.layer_parameters(self.num_hidden_layers)[0] + 2 * self.hidden_size**2 + 3 * self.hidden_size
        return Parameters(total, active, embedding, head, self.num_nextn_predict_layers * per_mtp)

    # ---- checks --------------------------------------------------------------------------------------------------

    def problems(self) -> list[str]:
        """Every contradiction between the fields, one line each; empty when the config can be built."""
        bad = []
        for name in (
            "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads kv_lora_rank qk_nope_head_dim "
            "qk_rope_head_dim v_head_dim max_position_embeddings"
        ).split():
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                bad.append(f"{name} must be a positive whole number, not {getattr(self, name)!r}")
        if self.q_lora_rank is not None and self.q_lora_rank < 1:
            bad.append(f"q_lora_rank must be positive or null, not {self.q_lora_rank!r}")
        if bad:
            return bad
        if self.qk_rope_head_dim % 2:
            bad.append(f"qk_rope_head_dim must be even (channels rotate in pairs), not {self.qk_rope_head_dim}")
        if self.num_nextn_predict_layers < 0:
            bad.append(f"num_nextn_predict_layers must be 0 or more, not {self.num_nextn_predict_layers}")
        if self.model_type not in ("deepseek_v2", "deepseek_v3"):
            bad.append(f"model_type {self.model_type!r} is not one of deepseek_v2, deepseek_v3")
        router = (self.scoring_func, self.topk_method)
        allowed = {
            "deepseek_v3": [("sigmoid", "noaux_tc")],
            "deepseek_v2": [("softmax", "greedy"), ("softmax", "group_limited_greedy")],
        }
        if router not in allowed.get(self.model_type, [router]):
            bad.append(
                f"scoring_func {router[0]!r} with topk_method {router[1]!r} does not exist in {self.model_type}; "
                f"it has {' or '.join('/'.join(r) for r in allowed[self.model_type])}"
            )
        if any(self.is_moe(i) for i in range(self.num_hidden_layers)):
            bad += self._moe_problems()
        if not 0 < self.rms_norm_eps < 1:
            bad.append(f"rms_norm_eps must lie between 0 and 1, not {self.rms_norm_eps!r}")
        if self.rope_theta <= 1:
            bad.append(f"rope_theta must be larger than 1, not {self.rope_theta!r}")
        if self.rope_scaling is not None:
            bad += self._rope_problems(self.rope_scaling)
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            ids = getattr(self, name)
            if ids is not None and not 0 <= ids < self.vocab_size:
                bad.append(f"{name} {ids} lies outside the vocabulary of {self.vocab_size}")
        return bad

    def _moe_problems(self) -> list[str]:
        bad = []
        if self.moe_intermediate_size < 1:
            bad.append(f"moe_intermediate_size must be positive, not {self.moe_intermediate_size}")
        if not 1 <= self.num_experts_per_tok <= self.n_routed_experts:
            bad.append(
                f"num_experts_per_tok {self.num_experts_per_tok} must lie in 1..n_routed_experts={self.n_routed_experts}"
            )
        if self.n_shared_experts < 0:
            bad.append(f"n_shared_experts must be 0 or more, not {self.n_shared_experts}")
        if self.n_group < 1 or self.n_routed_experts % self.n_group:
            bad.append(f"n_group {self.n_group} must divide n_routed_experts {self.n_routed_experts}")
        elif not 1 <= self.topk_group <= self.n_group:
            bad.append(f"topk_group {self.topk_group} must lie in 1..n_group={self.n_group}")
        elif self.num_experts_per_tok > self.topk_group * (self.n_routed_experts // self.n_group):
            bad.append(
                f"num_experts_per_tok {self.num_experts_per_tok} is more than the {self.topk_group} chosen groups hold "
                f"({self.topk_group * (self.n_routed_experts // self.n_group)} experts)"
            )
        return bad

    def _rope_problems(self, scaling: RopeScaling) -> list[str]:
        bad = []
        if scaling.rope_type not in ("yarn", "linear"):
            bad.append(f"rope_scaling type {scaling.rope_type!r} is not supported for this family; use yarn or linear")
        if not scaling.factor >= 1:
            bad.append(f"rope_scaling factor must be at least 1, not {scaling.factor!r}")
        if scaling.rope_type == "yarn" and not scaling.original_max_position_embeddings:
            bad.append("rope_scaling of type yarn needs original_max_position_embeddings")
        return bad

    def validate(self) -> None:
        """Raise one ConfigError that lists every problem."""
        raise_all(ConfigError, self.problems(), "model config")

    # ---- config.json ---------------------------------------------------------------------------------------------

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> "ModelConfig":
        """Read a Hugging Face ``config.json``.

        Raises:
            ConfigError: listing every unknown key, unsupported value and contradiction at once.
        """
        raw = dict(raw)
        model_type = raw.pop("model_type", None)
        if model_type not in ("deepseek_v2", "deepseek_v3"):
            raise ConfigError(
                f"model_type {model_type!r} cannot be read by this version; it reads deepseek_v2 and deepseek_v3 "
                "(V2, V2-Lite, V3, R1 and models trained by Seekling)"
            )
        bad: list[str] = []
        values: dict[str, Any] = dict(_DEFAULTS[model_type], model_type=model_type)
        rope = raw.pop("rope_parameters", None) or raw.pop("rope_scaling", None) or {}
        raw.pop("rope_scaling", None)
        theta = rope.get("rope_theta", raw.pop("rope_theta", None)) if isinstance(rope, dict) else None
        raw.pop("rope_theta", None)
        if theta is not None:
            values["rope_theta"] = float(theta)
        values["rope_scaling"], rope_bad = _read_rope_scaling(rope)
        bad += rope_bad
        names = {f.name for f in dataclasses.fields(cls)}
        for old, new in _ALIASES.items():
            if old in raw and new not in raw:
                raw[new] = raw.pop(old)
        for key, value in raw.items():
            if key in names:
                if value is None and key not in _NULLABLE:
                    continue  # null means the family's default
                values[key] = value
            elif key in _FIXED:
                if value not in _FIXED[key]:
                    bad.append(f"{key} = {value!r} is not supported; only {' or '.join(map(repr, _FIXED[key]))}")
            elif key not in _NO_MATHS and key not in _DERIVED:
                bad.append(f"unknown key {key!r} (it could change the mathematics; remove it if it does not)")
        missing = [n for n in _REQUIRED if n not in values]
        bad += [f"{name} is missing" for name in missing]
        if isinstance(values.get("eos_token_id"), list):
            values["eos_token_id"] = values["eos_token_id"][0]
        raise_all(ConfigError, bad, "config.json")
        try:
            config = cls(**values)
        except TypeError as error:
            raise ConfigError(f"config.json: {error}") from None
        raise_all(ConfigError, config._derived_problems(raw), "config.json")
        if model_type == "deepseek_v2" and config.norm_topk_prob:
            warnings.warn(
                "norm_topk_prob is true in a deepseek_v2 config: transformers ignores it there and so does Seekling, "
                "while DeepSeek's own V2 code renormalises",
                stacklevel=2,
            )
        return config

    def _derived_problems(self, raw: dict[str, Any]) -> list[str]:
        """Keys that repeat what other keys already say must say the same.

        MLA has no key-value heads; transformers writes its own default of 128 into a V3 config that never named them.
        """
        unset = {"num_key_value_heads": 128 if self.model_type == "deepseek_v3" else None}
        expected = {
            "num_key_value_heads": self.num_attention_heads,
            "qk_head_dim": self.qk_head_dim,
            "head_dim": self.qk_rope_head_dim,
        }
        return [
            f"{key} is {raw[key]} but the other fields make it {value}"
            for key, value in expected.items()
            if raw.get(key) not in (None, value, unset.get(key))
        ]

    def to_dict(self) -> dict[str, Any]:
        """The ``config.json`` of this model, as DeepSeek writes it and ``transformers`` reads it."""
        out: dict[str, Any] = {
            "architectures": ["DeepseekV2ForCausalLM" if self.model_type == "deepseek_v2" else "DeepseekV3ForCausalLM"],
            "model_type": self.model_type,
        }
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name == "rope_scaling" and value is not None:
                value = {k: v for k, v in dataclasses.asdict(value).items() if v is not None}
                value["type"] = value["rope_type"]
            out[field.name] = value
        out.pop("mtp_hidden_first")
        out["mtp_hidden_states_first"] = self.mtp_hidden_first
        out["num_key_value_heads"] = self.num_attention_heads
        out["hidden_act"] = "silu"
        out["attention_dropout"] = 0.0
        if self.model_type == "deepseek_v3":
            out.pop("mlp_bias")
        else:
            out.pop("rope_interleave")
        return out


def yarn_mscale(factor: float, mscale: float) -> float:
    """m = 0.1·mscale·ln(factor) + 1 (YaRN §3.4 as DeepSeek-V2 §3.1.4 uses it); 1 without extension."""
    return 0.1 * mscale * math.log(factor) + 1.0 if factor > 1 else 1.0


def _read_rope_scaling(rope: Any) -> tuple[RopeScaling | None, list[str]]:
    if not isinstance(rope, dict):
        return None, [f"rope_scaling must be an object, not {rope!r}"]
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        extra = set(rope) - {"rope_type", "type", "rope_theta", "partial_rotary_factor"}
        if rope.get("partial_rotary_factor", 1.0) != 1.0:
            return None, ["partial_rotary_factor other than 1 is not supported for this family"]
        return None, [f"rope_scaling key {key!r} means nothing for type default" for key in sorted(extra)]
    names = {f.name for f in dataclasses.fields(RopeScaling)}
    unknown = [k for k in rope if k not in names | {"type", "rope_theta"}]
    values = {k: v for k, v in rope.items() if k in names and v is not None}
    values["rope_type"] = kind
    if "factor" not in values:
        return None, ["rope_scaling has no factor"]
    return RopeScaling(**values), [f"unknown rope_scaling key {key!r}" for key in unknown]


_REQUIRED = (
    "vocab_size hidden_size intermediate_size moe_intermediate_size num_hidden_layers num_attention_heads kv_lora_rank "
    "qk_nope_head_dim qk_rope_head_dim v_head_dim"
).split()
_NULLABLE = ("q_lora_rank", "rope_scaling", "bos_token_id", "eos_token_id", "pad_token_id")
# What transformers assumes where a config.json leaves a key out (save_pretrained writes all that differ from nothing).
_DEFAULTS: dict[str, dict[str, Any]] = {
    "deepseek_v3": dict(
        q_lora_rank=1536, n_routed_experts=256, num_experts_per_tok=8, n_shared_experts=1, first_k_dense_replace=3, n_group=8,
        topk_group=4, routed_scaling_factor=2.5, num_nextn_predict_layers=1, moe_intermediate_size=2048,
    ),
    "deepseek_v2": dict(
        q_lora_rank=1536, n_routed_experts=64, n_shared_experts=2, moe_intermediate_size=1407, scoring_func="softmax",
        topk_method="greedy", norm_topk_prob=False, max_position_embeddings=2048, bos_token_id=1, eos_token_id=2,
    ),
}  # fmt: skip
_ALIASES = {
    "mtp_hidden_states_first": "mtp_hidden_first",
    "num_mtp_layers": "num_nextn_predict_layers",
    "num_local_experts": "n_routed_experts",
}
_FIXED: dict[str, tuple] = {
    "hidden_act": ("silu",),
    "attention_dropout": (0.0, None),
    "moe_layer_freq": (1,),
    "partial_rotary_factor": (1.0, None),
    "pretraining_tp": (1, None),
    "is_encoder_decoder": (False, None),
}
_DERIVED = ("num_key_value_heads", "qk_head_dim", "head_dim")
# Keys that do not change what the network computes.
_NO_MATHS = frozenset(
    "architectures auto_map torch_dtype dtype transformers_version use_cache ep_size aux_loss_alpha seq_aux "
    "output_router_logits _name_or_path return_dict output_attentions output_hidden_states chunk_size_feed_forward "
    "id2label label2id problem_type router_aux_loss_coef keys_to_ignore_at_inference _attn_implementation "
    "attn_implementation experts_implementation unsloth_version unsloth_fixed".split()
)
