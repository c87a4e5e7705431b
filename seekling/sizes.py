"""The size names and what each stands for: a model shape and the training defaults that suit it.

All sizes have the shape of DeepSeek-V3: MLA with query compression, one dense layer, then one shared and several fine-grained
routed experts with sigmoid scores and a balancing bias, and one MTP layer. Published DeepSeek shapes lie beside them in
``published/`` for planning.

Three choices are not a plain shrinking of V3:

- ``routed_scaling_factor`` is √k. With weights that sum to f, k independent expert outputs add up to f/√k of one expert's
  size, so f = √k keeps the routed part as loud as the shared expert (V3 has 2.5 for k = 8).
- one expert group: the group limit exists to bound network traffic between nodes (V3 §2.1.2); here there is one node.
- the learning rate falls as 1/width, from 3e-3 at width 128.
"""

import difflib
import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seekling.errors import ConfigError, RecipeError

if TYPE_CHECKING:
    from seekling.model.config import ModelConfig


@dataclass(frozen=True)
class Size:
    """One row of the table. ``model`` has ModelConfig fields; the rest are training defaults.

    ``seq_len`` in tokens, ``max_seq_len`` the longest sequence the size is meant for, ``batch_size`` in sequences.
    """

    name: str
    about: str
    model: dict[str, Any]
    vocab_size: int
    seq_len: int
    max_seq_len: int
    batch_size: int
    lr: float


def _shape(
    layers: int,
    width: int,
    heads: int,
    latents: tuple[int, int],
    head: tuple[int, int, int],
    widths: tuple[int, int],
    experts: tuple[int, int],
) -> dict[str, Any]:
    """ModelConfig fields from the columns of the table: (q, kv) latents, (nope, rope, v), (dense, expert), (E, k)."""
    return dict(
        num_hidden_layers=layers,
        hidden_size=width,
        num_attention_heads=heads,
        q_lora_rank=latents[0],
        kv_lora_rank=latents[1],
        qk_nope_head_dim=head[0],
        qk_rope_head_dim=head[1],
        v_head_dim=head[2],
        intermediate_size=widths[0],
        moe_intermediate_size=widths[1],
        n_routed_experts=experts[0],
        num_experts_per_tok=experts[1],
        n_shared_experts=1,
        first_k_dense_replace=1,
        n_group=1,
        topk_group=1,
        routed_scaling_factor=round(experts[1] ** 0.5, 3),
        num_nextn_predict_layers=1,
    )


# fmt: off
SIZES: dict[str, Size] = {size.name: size for size in (
    Size("nano", "minutes on two cores; writes simple sentences",
         _shape(4, 128, 4, (64, 32), (16, 8, 16), (512, 64), (16, 4)), 1024, 256, 1024, 16, 3e-3),
    Size("micro", "ten minutes on two cores; short stories",
         _shape(6, 192, 6, (96, 48), (24, 8, 24), (768, 96), (16, 4)), 2048, 256, 2048, 16, 2e-3),
    Size("milli", "an hour or more on a laptop",
         _shape(6, 256, 8, (128, 64), (32, 16, 32), (1024, 128), (24, 4)), 4096, 512, 4096, 8, 1.5e-3),
    Size("centi", "a day on a workstation",
         _shape(8, 384, 8, (192, 96), (48, 24, 48), (1536, 192), (32, 4)), 8192, 1024, 8192, 16, 1e-3),
    Size("deci", "one accelerator, days",
         _shape(12, 640, 10, (320, 160), (64, 32, 64), (2560, 320), (36, 4)), 16384, 2048, 16384, 64, 6e-4),
    Size("uni", "several accelerators, days",
         _shape(16, 1024, 16, (512, 256), (64, 32, 64), (4096, 512), (36, 4)), 32768, 4096, 32768, 128, 3.75e-4),
)}
# fmt: on

PUBLISHED = ("v2-lite", "v2", "v3")


def get_size(name: str) -> Size:
    """The table's row of that name.

    Raises:
        RecipeError: no such size; the message lists the sizes and the nearest one.
    """
    if name in SIZES:
        return SIZES[name]
    near = difflib.get_close_matches(name, SIZES, n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    raise RecipeError(f"unknown size {name!r}{hint}; the sizes are {', '.join(SIZES)}")


def size_config(name: str, **changes: Any) -> "ModelConfig":
    """The ModelConfig of a size, fields replaced by ``changes``."""
    from seekling.model.config import ModelConfig

    size = get_size(name)
    fields = dict(size.model, vocab_size=size.vocab_size, max_position_embeddings=size.seq_len, pad_token_id=2)
    return ModelConfig(**{**fields, **changes})


def named_config(name: str) -> tuple[str, "ModelConfig"]:
    """A config by size name, published name (v2-lite, v2, v3) or path of a config.json or its folder.

    Returns the name it is known by and the config.

    Raises:
        ConfigError: nothing of that name, or the file is not a config Seekling can read.
    """
    from seekling.formats.families import read_config

    if name in SIZES:
        return name, size_config(name)
    if name in PUBLISHED:
        text = resources.files("seekling").joinpath("published", f"{name}.json").read_text(encoding="utf-8")
        return name, read_config(json.loads(text))
    path = Path(name)
    if path.is_dir():
        path = path / "config.json"
    if not path.is_file():
        known = (*SIZES, *PUBLISHED)
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ConfigError(f"no config {name!r}: {hint}give one of {', '.join(known)}, a config.json or its folder")
    try:
        raw = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, OSError) as error:
        raise ConfigError(f"{path} cannot be read as JSON ({error}); give a Hugging Face config.json") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{path} holds no JSON object; give a Hugging Face config.json")
    raw.pop("quantization_config", None)  # how weights are stored is no matter of the shape
    return str(path), read_config(raw)
