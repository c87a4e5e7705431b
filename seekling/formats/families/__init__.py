"""The families of open models: how each one's ``config.json`` is read and written, and how its tensors are named on disk.

>>> config = read_config({"model_type": "llama", ...})
>>> write_config(config)["architectures"]
['LlamaForCausalLM']
"""

from typing import Any

from seekling.errors import ConfigError
from seekling.formats.families import deepseek, deepseek_v4, gqa, minimax
from seekling.model.config import ModelConfig

_MODULES = dict.fromkeys(deepseek.DEFAULTS, deepseek) | {"deepseek_v4": deepseek_v4} | dict.fromkeys(gqa.DEFAULTS, gqa)
_MODULES |= dict.fromkeys(("minimax", *minimax.PUBLISHED), minimax)
ARCHITECTURES = {
    "deepseek_v2": "DeepseekV2ForCausalLM",
    "deepseek_v3": "DeepseekV3ForCausalLM",
    "deepseek_v32": "DeepseekV32ForCausalLM",
    "deepseek_v4": "DeepseekV4ForCausalLM",
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "qwen2_moe": "Qwen2MoeForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
    "ernie4_5": "Ernie4_5ForCausalLM",
    "ernie4_5_moe": "Ernie4_5_MoeForCausalLM",
    "minimax": "MiniMaxForCausalLM",
    "minimax_m2": "MiniMaxM2ForCausalLM",
    "gpt_oss": "GptOssForCausalLM",
}


def read_config(raw: dict[str, Any]) -> ModelConfig:
    """The model that a Hugging Face ``config.json`` describes.

    Raises:
        ConfigError: an unknown family, or every unknown key, unsupported value and contradiction at once.
    """
    family = raw.get("model_type")
    if not isinstance(family, str) or family not in _MODULES:
        raise ConfigError(f"model_type {family!r} cannot be read by this version; it reads {', '.join(_MODULES)}")
    try:
        return _MODULES[family].read(raw)
    except (TypeError, ValueError, AttributeError, ArithmeticError, LookupError) as error:
        raise ConfigError(f"config.json makes no sense ({type(error).__name__}: {error}): copy it again") from None


def write_config(config: ModelConfig) -> dict[str, Any]:
    """The ``config.json`` of a model, as its family writes it and transformers reads it."""
    module = _MODULES[config.model_type]
    return {"architectures": [ARCHITECTURES[config.model_type]], "model_type": config.model_type, **module.write(config)}
