"""A GGUF file's metadata and tensor names, as the families of Hugging Face know them."""

import warnings

import gguf
import numpy as np
import pytest
import torch
from gguf_tiny import RAW, model_of, write_with_library
from hypothesis import given, settings
from hypothesis import strategies as st

import seekling
from seekling.errors import CheckpointError, SeeklingError
from seekling.formats.checkpoint import model_from
from seekling.formats.families import read_config
from seekling.formats.gguf_config import MODEL_TYPES, raw_config, short
from seekling.formats.gguf_file import open_gguf
from seekling.formats.gguf_model import ModelSource
from seekling.formats.gguf_rope import _from_factors, llama3_factors
from seekling.formats.gguf_write import write_gguf
from seekling.lm import LM


@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def changed(path, out, keys=None, drop=(), tensors=None, without=()):
    """A copy of a file with other keys and tensors (float32), written by the gguf package."""
    reader = gguf.GGUFReader(path)
    arch = reader.fields["general.architecture"].contents()
    old = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    kept = {name: value for name, value in old.items() if name not in (*drop, "general.architecture")}
    held = {t.name: np.array(t.data) for t in reader.tensors if t.name not in without}
    write_with_library(out, arch, {**kept, **(keys or {})}, {**held, **(tensors or {})})
    return out


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Each family's tiny model: (model, its F32 file)."""
    folder, made = tmp_path_factory.mktemp("gguf"), {}

    def get(name):
        if name not in made:
            model = model_of(RAW[name])
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                write_gguf(LM(model), folder / f"{len(made)}.gguf", "f32")
            made[name] = (model, folder / f"{len(made)}.gguf")
        return made[name]

    return get


def same_logits(model, path):
    ids = torch.randint(96, (1, 40), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(seekling.load(path).model(ids), model(ids), rtol=1e-5, atol=1e-5)


# ---- other layouts of the same model -------------------------------------------------------------------------------------


def test_old_deepseek2_files_with_plain_heads_are_read(files, tmp_path):
    model, path = files("deepseek_v2")
    values = {
        f"blk.{i}.attn_kv_b.weight": model.state_dict()[f"model.layers.{i}.self_attn.kv_b_proj.weight"].numpy() for i in (0, 1)
    }
    old = {"deepseek2.attention.head_count_kv": 4, "deepseek2.attention.key_length": 24, "deepseek2.attention.value_length": 16}
    drop = [f"deepseek2.{key}" for key in ("attention.key_length_mla", "attention.value_length_mla", "expert_gating_func",
                                           "expert_group_count", "expert_group_used_count")]  # fmt: skip
    without = [f"blk.{i}.attn_{kind}_b.weight" for i in (0, 1) for kind in "kv"]
    same_logits(model, changed(path, tmp_path / "old.gguf", old, drop, values, without))


def test_fused_queries_keys_and_values_are_taken_apart(files, tmp_path):
    model, path = files("llama tied, llama3 rope, biases")
    held = {t.name: np.array(t.data) for t in gguf.GGUFReader(path).tensors}
    fused, without = {}, []
    for i in (0, 1):
        for end in ("weight", "bias"):
            names = [f"blk.{i}.attn_{kind}.{end}" for kind in "qkv"]
            fused[f"blk.{i}.attn_qkv.{end}"] = np.concatenate([held[name] for name in names])
            without += names
    same_logits(model, changed(path, tmp_path / "fused.gguf", tensors=fused, without=without))


def test_experts_with_gate_and_up_in_one_tensor_are_taken_apart(files, tmp_path):
    model, path = files("qwen3_moe")
    held = {t.name: np.array(t.data) for t in gguf.GGUFReader(path).tensors}
    kinds = [[f"blk.{i}.ffn_{kind}_exps.weight" for kind in ("gate", "up")] for i in (0, 1)]
    both = {f"blk.{i}.ffn_gate_up_exps.weight": np.concatenate([held[name] for name in kinds[i]], 1) for i in (0, 1)}
    same_logits(model, changed(path, tmp_path / "both.gguf", tensors=both, without=kinds[0] + kinds[1]))


def test_values_given_layer_by_layer_are_one_where_all_agree(files, tmp_path):
    model, path = files("llama")
    same_logits(model, changed(path, tmp_path / "x.gguf", {"llama.attention.head_count_kv": [2, 2]}))
    with pytest.raises(CheckpointError, match="head_count_kv differs between layers"):
        open_gguf(changed(path, tmp_path / "y.gguf", {"llama.attention.head_count_kv": [2, 4]}))


def test_mxfp4_experts_are_the_ones_transformers_unpacks(tmp_path):
    """gpt-oss as converted: blocks per expert, gate and up apart, two values a byte from opposite halves of a block."""
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    raw = dict(RAW["gpt_oss"], num_hidden_layers=1, layer_types=["sliding_attention"])
    model, generator = model_of(raw), np.random.default_rng(0)
    write_gguf(LM(model), tmp_path / "x.gguf", "f32")
    blocks = generator.integers(0, 256, (4, 64, 2, 16), dtype=np.uint8)  # (E, 2M, D/32, 16): gate and up rows in turn
    scales = generator.integers(120, 130, (4, 64, 2), dtype=np.uint8)
    wanted = convert_moe_packed_tensors(torch.from_numpy(blocks), torch.from_numpy(scales))  # (E, D, 2M)
    low, high = blocks & 15, blocks >> 4
    values = np.stack((low, high), -1).reshape(4, 64, 2, 32)  # in their order
    packed = np.concatenate((scales[..., None], values[..., :16] | values[..., 16:] << 4), -1).reshape(4, 64, 34)
    writer_tensors = {}
    for first, kind in enumerate(("gate", "up")):
        writer_tensors[f"blk.0.ffn_{kind}_exps.weight"] = np.ascontiguousarray(packed[:, first::2])
    reader = gguf.GGUFReader(tmp_path / "x.gguf")
    writer = gguf.GGUFWriter(tmp_path / "y.gguf", "gpt-oss")
    for name, field in reader.fields.items():
        if name.startswith("gpt-oss."):
            value = field.contents()
            {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}[type(value)](name, value)
    for stored in reader.tensors:
        if stored.name in writer_tensors:
            writer.add_tensor(stored.name, writer_tensors[stored.name], raw_dtype=gguf.GGMLQuantizationType.MXFP4)
        else:
            writer.add_tensor(stored.name, np.array(stored.data))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    file = open_gguf(tmp_path / "y.gguf")
    got = file.source.read("model.layers.0.mlp.experts.gate_up_proj")
    assert got.dtype == torch.bfloat16 and file.types["MXFP4"] == 2
    torch.testing.assert_close(got.float(), wanted.float(), rtol=0, atol=0)


def test_nextn_layers_have_the_names_of_mtp_layers(files, tmp_path):
    raw = dict(RAW["deepseek_v3"], num_nextn_predict_layers=1)
    model, (_, path) = model_of(raw), files("deepseek_v3")
    held = {t.name: np.array(t.data) for t in gguf.GGUFReader(path).tensors}
    extra = {name.replace("blk.1.", "blk.2."): value for name, value in held.items() if name.startswith("blk.1.")}
    source = ModelSource(model)
    for stem, disk in (
        ("eh_proj", "eh_proj"),
        ("enorm", "enorm"),
        ("hnorm", "hnorm"),
        ("shared_head_norm", "shared_head.norm"),
    ):
        extra[f"blk.2.nextn.{stem}.weight"] = source.read(f"model.layers.2.{disk}.weight").numpy()
    keys = {"deepseek2.block_count": 3, "deepseek2.nextn_predict_layers": 1}
    again = seekling.load(changed(path, tmp_path / "x.gguf", keys, tensors=extra)).model
    assert again.config.num_nextn_predict_layers == 1
    for disk in ("eh_proj", "shared_head.norm"):
        name = f"model.layers.2.{disk}.weight"
        assert torch.equal(ModelSource(again).read(name), source.read(name))


def test_v3_2_has_its_indexer_under_hugging_face_names(files, tmp_path):
    _, path = files("deepseek_v3")
    reader = gguf.GGUFReader(path)
    keys = {
        name.replace("deepseek2.", "deepseek32."): field.contents()
        for name, field in reader.fields.items() if name.startswith("deepseek2.")
    }  # fmt: skip
    keys |= {
        f"deepseek32.attention.indexer.{key}": value for key, value in (("head_count", 2), ("key_length", 16), ("top_k", 8))
    }
    tensors = {t.name: np.array(t.data) for t in reader.tensors}
    for i in (0, 1):
        tensors[f"blk.{i}.indexer.k_norm.weight"] = tensors[f"blk.{i}.indexer.k_norm.bias"] = np.ones(16, np.float32)
        tensors[f"blk.{i}.indexer.proj.weight"] = np.ones((2, 64), np.float32)
        tensors[f"blk.{i}.indexer.attn_k.weight"] = np.ones((16, 64), np.float32)
        tensors[f"blk.{i}.indexer.attn_q_b.weight"] = np.ones((32, 48), np.float32)
    write_with_library(tmp_path / "x.gguf", "deepseek32", keys, tensors)
    file = open_gguf(tmp_path / "x.gguf")
    assert file.raw_config["model_type"] == "deepseek_v32"
    assert [file.raw_config[key] for key in ("index_n_heads", "index_head_dim", "index_topk")] == [2, 16, 8]
    indexer = {name.rsplit("indexer.", 1)[1] for name in file.source.shapes if ".0.self_attn.indexer." in name}
    assert indexer == {"k_norm.weight", "k_norm.bias", "weights_proj.weight", "wk.weight", "wq_b.weight"}


def test_v3_files_from_before_expert_groups_get_the_published_ones():
    meta = {f"deepseek2.{key}": value for key, value in {
        "block_count": 61, "context_length": 4096, "embedding_length": 64, "feed_forward_length": 96,
        "attention.head_count": 4, "attention.layer_norm_rms_epsilon": 1e-6, "attention.kv_lora_rank": 32,
        "attention.key_length": 24, "attention.value_length": 16, "rope.dimension_count": 8, "expert_count": 256,
        "expert_used_count": 8, "expert_gating_func": 2, "leading_dense_block_count": 3,
    }.items()}  # fmt: skip
    tensor = gguf_tensor((512, 64))
    tensors = {"token_embd.weight": tensor, **{f"blk.{i}.attn_norm.weight": tensor for i in range(61)}}
    raw = raw_config("deepseek2", meta, tensors, lambda name: np.ones(4), "x")
    assert (raw["n_group"], raw["topk_group"], raw["model_type"]) == (8, 4, "deepseek_v3")


def gguf_tensor(shape):
    from seekling.formats.gguf_header import GGUFTensor
    from seekling.formats.gguf_types import TYPES

    return GGUFTensor("x", TYPES[0], shape, 0, 4 * int(np.prod(shape)))


# ---- RoPE ----------------------------------------------------------------------------------------------------------------

LLAMA31 = dict(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=8192)
LLAMA32 = dict(LLAMA31, factor=32.0)


@pytest.mark.parametrize(
    "scaling", [LLAMA31, LLAMA32, dict(LLAMA31, original_max_position_embeddings=4096, high_freq_factor=6.0)]
)
def test_llama3_numbers_are_found_again_from_the_factors(scaling):
    factors = llama3_factors(128, 500000.0, scaling).astype(np.float32).astype(np.float64)
    assert _from_factors(factors, 500000.0, 131072) == {"rope_type": "llama3", **scaling}


def test_llama3_factors_are_those_of_transformers():
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    config = LlamaConfig(
        hidden_size=512, num_attention_heads=4, rope_parameters=dict(rope_type="llama3", rope_theta=500000.0, **LLAMA31)
    )
    theirs, _ = ROPE_INIT_FUNCTIONS["llama3"](config, device="cpu")
    plain = 500000.0 ** -(np.arange(0, 128, 2) / 128)
    np.testing.assert_allclose(plain / llama3_factors(128, 500000.0, LLAMA31), theirs.numpy(), rtol=1e-5)


def test_other_factors_are_kept_as_they_are():
    factors = np.linspace(1, 3, 16)
    assert _from_factors(factors, 1e4, 64)["rope_type"] == "longrope"
    assert _from_factors(factors, 1e4, 64)["long_factor"] == list(factors)


@pytest.mark.parametrize("value", [1e-5, 1e-6, 9.999999747378752e-06, 500000.0, 0.1, 2.5])
def test_float32_comes_back_as_the_short_decimal(value):
    assert np.float32(short(value)) == np.float32(value) and len(repr(short(value))) <= 8


# ---- what is not understood ----------------------------------------------------------------------------------------------


def test_gpt_oss_without_scaled_positions_comes_back_without(tmp_path):
    raw = dict(RAW["gpt_oss"], rope_parameters={"rope_type": "default", "rope_theta": 10000.0})
    model = model_of(raw)
    write_gguf(LM(model, None), tmp_path / "m.gguf", "f32")
    assert model.config.rope_scaling is None and read_config(open_gguf(tmp_path / "m.gguf").raw_config).rope_scaling is None


def test_every_unknown_key_is_named(files, tmp_path):
    _, path = files("llama")
    odd = changed(path, tmp_path / "x.gguf", {"llama.logit_scale": 0.5, "llama.attention.scale": 2.0, "other.key": 1})
    with pytest.raises(CheckpointError, match=r"(?s)llama\.logit_scale is not understood.*llama\.attention\.scale"):
        open_gguf(odd)


def test_a_missing_key_is_named(files, tmp_path):
    _, path = files("llama")
    with pytest.raises(CheckpointError, match="layer_norm_rms_epsilon is missing"):
        open_gguf(changed(path, tmp_path / "x.gguf", drop=["llama.attention.layer_norm_rms_epsilon"]))


def test_an_unknown_tensor_is_reported_when_a_model_is_filled(files, tmp_path):
    _, path = files("llama")
    odd = changed(path, tmp_path / "x.gguf", tensors={"blk.0.attn_extra.weight": np.ones((2, 2), np.float32)})
    with pytest.raises(CheckpointError, match=r"unexpected blk\.0\.attn_extra\.weight"):
        seekling.load(odd)


def test_a_missing_tensor_is_reported_under_its_hugging_face_name(files, tmp_path):
    _, path = files("llama")
    with pytest.raises(CheckpointError, match=r"missing model\.layers\.1\.mlp\.up_proj\.weight"):
        seekling.load(changed(path, tmp_path / "x.gguf", without=["blk.1.ffn_up.weight"]))


def test_a_mixture_in_the_llama_architecture_is_refused(files, tmp_path):
    _, path = files("llama")
    with pytest.raises(CheckpointError, match="Mixtral"):
        open_gguf(changed(path, tmp_path / "x.gguf", {"llama.expert_count": 8, "llama.expert_used_count": 2}))


def test_every_architecture_leads_to_a_family_that_is_read():
    from seekling.formats.families import ARCHITECTURES

    assert set(MODEL_TYPES.values()) <= ARCHITECTURES.keys() | {"deepseek_v4"}


ODD = st.one_of(
    st.integers(-(2**63), 2**64 - 1), st.integers(0, 40), st.floats(), st.sampled_from([0, 1, 2**31, 2**32 - 1, True, False]),
    st.text(max_size=5), st.lists(st.integers(0, 300), max_size=4), st.lists(st.floats(), max_size=3), st.none(),
)  # fmt: skip


@settings(max_examples=80)
@given(data=st.data())
def test_any_value_of_any_key_gives_a_model_or_a_clear_error(data, files):
    """Values replaced before the config is made; whatever passes must fill a model or say what does not fit."""
    _, path = files(data.draw(st.sampled_from(list(RAW))))
    file = open_gguf(path)
    keys = sorted(key for key in file.metadata if key.startswith(file.architecture) or "token_id" in key)
    for key in data.draw(st.lists(st.sampled_from(keys), min_size=1, max_size=2)):
        file.metadata[key] = data.draw(ODD)
        if file.metadata[key] is None:
            del file.metadata[key]
    try:
        raw = raw_config(file.architecture, file.metadata, file.tensors, file._small, "x")
        model_from(read_config(raw), file.source)
    except SeeklingError as error:
        assert str(error)
