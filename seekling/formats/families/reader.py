"""Reading a ``config.json``: every key is taken once by a family's reader, and what nobody took is an error that names it."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from seekling.errors import ConfigError, raise_all
from seekling.formats.families.kinds import misfits
from seekling.model.config import RopeScaling

Meaning = TypeVar("Meaning")

# Keys that do not change what the network computes.
NO_MATHS = frozenset(
    "architectures auto_map torch_dtype dtype transformers_version use_cache ep_size aux_loss_alpha seq_aux "
    "output_router_logits _name_or_path return_dict output_attentions output_hidden_states chunk_size_feed_forward "
    "id2label label2id problem_type router_aux_loss_coef keys_to_ignore_at_inference _attn_implementation router_jitter_noise "
    "attn_implementation experts_implementation unsloth_version unsloth_fixed use_return_dict is_encoder_decoder "
    "rope_parameters rope_scaling rope_theta".split()
)
FIXED: dict[str, tuple] = {
    "hidden_act": ("silu",),
    "attention_dropout": (0.0, 0, None),
    "pretraining_tp": (1, None),
    "is_encoder_decoder": (False, None),
    "add_cross_attention": (False, None),
}


class Reader:
    """Takes keys from a config, remembering problems and what was used.

    Args:
        raw: content of config.json.
        defaults: what transformers assumes for keys that the file leaves out.

    Raises:
        ConfigError: values of another kind than their keys', before anything is made of them.
    """

    def __init__(self, raw: Mapping[str, Any], defaults: Mapping[str, Any] | None = None):
        self.raw, self.defaults = dict(raw), dict(defaults or {})
        self.used: set[str] = {"model_type"}
        self.bad: list[str] = []
        raise_all(ConfigError, misfits(self.raw), "config.json")

    def take(self, key: str, default: Any = None) -> Any:
        """The value of ``key``; null and absent mean the family's default, else ``default``."""
        self.used.add(key)
        value = self.raw.get(key)
        return self.defaults.get(key, default) if value is None else value

    def need(self, key: str) -> Any:
        """A key that must be there or have a family default."""
        value = self.take(key)
        if value is None:
            self.bad.append(f"{key} is missing")
        return value

    def fixed(self, key: str, *allowed: Any) -> None:
        """A key that is supported with these values only (absent = the first)."""
        self.used.add(key)
        if key in self.raw and self.raw[key] not in allowed:
            self.bad.append(f"{key} = {self.raw[key]!r} is not supported; only {' or '.join(map(repr, allowed))}")

    def ids(self, key: str) -> Any:
        """A token id or several; null says that there is none."""
        value = self.take(key)
        if key in self.raw:
            value = self.raw[key]
        return tuple(value) if isinstance(value, list) else value

    def rope(self, partial: bool = False) -> dict[str, Any]:
        """``rope_theta``, ``rope_scaling`` and, where the family has it, ``partial_rotary_factor``, from either spelling."""
        self.used |= {"rope_parameters", "rope_scaling", "rope_theta"}
        base, share_of_all = self.take("rope_theta"), self.take("partial_rotary_factor") if partial else None
        context = self.take("original_max_position_embeddings")

        def meaning(raw: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
            bad = []
            theta, share = raw.get("rope_theta", base), raw.get("partial_rotary_factor", share_of_all)
            if share not in (None, 1, 1.0) and not partial:
                bad.append("partial_rotary_factor other than 1 is not supported for this family")
            if context is not None:
                raw = {"original_max_position_embeddings": context, **raw}
            scaling, more = read_rope_scaling(raw, self.raw.get("max_position_embeddings"))
            out: dict[str, Any] = {"rope_scaling": scaling}
            if theta is not None:
                out["rope_theta"] = float(theta)
            if partial:
                out["partial_rotary_factor"] = 1.0 if share is None else float(share)
            return out, bad + more

        out, bad = self.one_rope(meaning)
        self.bad += bad
        return out

    def one_rope(self, meaning: Callable[[Mapping[str, Any]], Meaning]) -> Meaning:
        """What ``rope_parameters`` or ``rope_scaling`` says; programs disagree about which counts, so they may not differ."""
        self.used |= {"rope_parameters", "rope_scaling"}
        parameters, scaling = self.raw.get("rope_parameters"), self.raw.get("rope_scaling")
        found = meaning(parameters or scaling or self.defaults.get("rope_parameters") or {})
        if parameters and scaling and meaning(scaling) != found:
            self.bad.append(
                f"rope_parameters {parameters!r} and rope_scaling {scaling!r} rotate differently: keep the one that is meant"
            )
        return found

    def finish(self) -> None:
        """Raise one ConfigError that lists every problem and every key that nobody took."""
        for key, allowed in FIXED.items():
            if key not in self.used:
                self.fixed(key, *allowed)
        left = [key for key in self.raw if key not in self.used and key not in NO_MATHS]
        self.bad += [f"unknown key {key!r} (it could change the mathematics; remove it if it does not)" for key in left]
        raise_all(ConfigError, self.bad, "config.json")


def read_rope_scaling(rope: Mapping[str, Any], max_positions: int | None = None) -> tuple[RopeScaling | None, list[str]]:
    """The scaling of a ``rope_parameters`` or ``rope_scaling`` object, and what is wrong with it."""
    kind = rope.get("rope_type", rope.get("type", "default"))
    ignored = {"type", "rope_type", "rope_theta", "partial_rotary_factor"}
    given = {k: v for k, v in rope.items() if k not in ignored and v is not None}
    if kind == "default":
        return None, [f"rope_scaling key {key!r} means nothing for type default" for key in sorted(given)]
    names = set(RopeScaling.__dataclass_fields__) - {"rope_type"}
    bad = [f"unknown rope_scaling key {key!r}" for key in given if key not in names]
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items() if k in names}
    context = values.get("original_max_position_embeddings")
    if "factor" not in values and kind in ("yarn", "longrope") and context and max_positions:
        values["factor"] = max_positions / context  # as transformers does
    if "factor" not in values:
        return None, [*bad, "rope_scaling has no factor"]
    return RopeScaling(rope_type=kind, **values), bad


def write_rope(config: Any) -> dict[str, Any]:
    """``rope_theta`` and ``rope_scaling`` as published checkpoints spell them."""
    out: dict[str, Any] = {"rope_theta": config.rope_theta, "rope_scaling": None}
    if config.rope_scaling is not None:
        scaling = {k: getattr(config.rope_scaling, k) for k in RopeScaling.__dataclass_fields__}
        defaults = {f.name: f.default for f in RopeScaling.__dataclass_fields__.values()}
        kept = {k: list(v) if isinstance(v, tuple) else v for k, v in scaling.items() if v is not None}
        if config.rope_scaling.rope_type != "yarn":  # only YaRN knows these
            kept = {k: v for k, v in kept.items() if v != defaults[k] or k in ("rope_type", "factor")}
        out["rope_scaling"] = {**kept, "type": kept["rope_type"]}
    return out
