"""DeepSeek-V3 as it is published, 671B parameters in 163 files, as folders of nothing but headers: sparse files, no weights."""

import json
import struct
from importlib import resources
from pathlib import Path

FP8 = {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8", "weight_block_size": [128, 128]}


def v3_config() -> dict:
    raw = json.loads(resources.files("seekling").joinpath("published", "v3.json").read_text("utf-8"))
    return {**raw, "quantization_config": FP8, "auto_map": {"AutoConfig": "configuration_deepseek.DeepseekV3Config"}}


def v3_tensors(c: dict):
    """(name, dtype, shape) in the checkpoint's order."""
    d, h = c["hidden_size"], c["num_attention_heads"]

    def linear(name, out, inp, dtype="F8_E4M3"):
        yield name + ".weight", dtype, (out, inp)
        if dtype == "F8_E4M3":
            yield name + ".weight_scale_inv", "F32", (-(-out // 128), -(-inp // 128))

    def mlp(prefix, width):
        for kind in ("gate_proj", "up_proj"):
            yield from linear(f"{prefix}.{kind}", width, d)
        yield from linear(f"{prefix}.down_proj", d, width)

    yield "model.embed_tokens.weight", "BF16", (c["vocab_size"], d)
    for i in range(c["num_hidden_layers"] + c["num_nextn_predict_layers"]):
        p = f"model.layers.{i}"
        if i >= c["num_hidden_layers"]:
            yield f"{p}.embed_tokens.weight", "BF16", (c["vocab_size"], d)
            yield f"{p}.enorm.weight", "BF16", (d,)
            yield f"{p}.hnorm.weight", "BF16", (d,)
            yield f"{p}.eh_proj.weight", "BF16", (d, 2 * d)
        yield f"{p}.input_layernorm.weight", "BF16", (d,)
        a = f"{p}.self_attn"
        yield from linear(f"{a}.q_a_proj", c["q_lora_rank"], d)
        yield f"{a}.q_a_layernorm.weight", "BF16", (c["q_lora_rank"],)
        yield from linear(f"{a}.q_b_proj", h * (c["qk_nope_head_dim"] + c["qk_rope_head_dim"]), c["q_lora_rank"])
        yield from linear(f"{a}.kv_a_proj_with_mqa", c["kv_lora_rank"] + c["qk_rope_head_dim"], d)
        yield f"{a}.kv_a_layernorm.weight", "BF16", (c["kv_lora_rank"],)
        yield from linear(f"{a}.kv_b_proj", h * (c["qk_nope_head_dim"] + c["v_head_dim"]), c["kv_lora_rank"])
        yield from linear(f"{a}.o_proj", d, h * c["v_head_dim"])
        yield f"{p}.post_attention_layernorm.weight", "BF16", (d,)
        if i < c["first_k_dense_replace"]:
            yield from mlp(f"{p}.mlp", c["intermediate_size"])
        else:
            yield f"{p}.mlp.gate.weight", "BF16", (c["n_routed_experts"], d)
            yield f"{p}.mlp.gate.e_score_correction_bias", "F32", (c["n_routed_experts"],)
            for e in range(c["n_routed_experts"]):
                yield from mlp(f"{p}.mlp.experts.{e}", c["moe_intermediate_size"])
            yield from mlp(f"{p}.mlp.shared_experts", c["moe_intermediate_size"])
        if i >= c["num_hidden_layers"]:
            yield f"{p}.shared_head.norm.weight", "BF16", (d,)
            yield f"{p}.shared_head.head.weight", "BF16", (c["vocab_size"], d)
    yield "model.norm.weight", "BF16", (d,)
    yield "lm_head.weight", "BF16", (c["vocab_size"], d)


def write_headers(folder: Path, raw: dict, tensors, shard_bytes=int(4.3e9)) -> int:
    """A folder with config, index and sparse shards; returns the bytes they claim."""
    folder.mkdir(parents=True, exist_ok=True)
    size = {"F8_E4M3": 1, "BF16": 2, "F32": 4}
    shards, held = [{}], 0
    for name, dtype, shape in tensors:
        n = size[dtype]
        for s in shape:
            n *= s
        if held + n > shard_bytes and shards[-1]:
            shards.append({})
            held = 0
        shards[-1][name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [held, held + n]}
        held += n
    weight_map, total = {}, 0
    for i, shard in enumerate(shards, 1):
        file = f"model-{i:05d}-of-{len(shards):06d}.safetensors"
        header = json.dumps(shard).encode()
        data = max(entry["data_offsets"][1] for entry in shard.values())
        with open(folder / file, "wb") as out:
            out.write(struct.pack("<Q", len(header)) + header)
            out.truncate(8 + len(header) + data)
        total += data
        weight_map.update(dict.fromkeys(shard, file))
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map})
    )
    (folder / "config.json").write_text(json.dumps(raw))
    return total
