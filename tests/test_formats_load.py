"""Reading checkpoint folders: every difference is named, nothing outside the folder is opened, no pickle is."""

import dataclasses
import json
import os

import pytest
import torch
from formats_tiny import TINY, edit, edit_config, equal, raw_file, saved, tiny

from seekling.errors import CheckpointError, ConfigError
from seekling.formats import load_model, read_config, save_model, write_config
from seekling.sizes import named_config

INDEX = "model.safetensors.index.json"


def refused(folder, *words, kind=CheckpointError):
    with pytest.raises(kind) as caught:
        load_model(folder)
    for word in words:
        assert word in str(caught.value), str(caught.value)
    return str(caught.value)


# ---- config -------------------------------------------------------------------------------------------------------------


def test_a_written_config_is_read_back_equal(tmp_path):
    config = dataclasses.replace(TINY, num_nextn_predict_layers=2, mtp_hidden_first=True, mtp_after_norm=True, eos_token_id=4)
    write_config(config, tmp_path / "new")
    assert read_config(tmp_path / "new") == config


def test_a_folder_without_config_is_refused(tmp_path):
    refused(tmp_path, "config.json")


def test_a_config_that_is_not_json_is_refused(tmp_path):
    saved(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": ')
    refused(tmp_path, "not valid JSON")


def test_a_byte_order_mark_is_no_part_of_a_config(tmp_path):
    config = saved(tmp_path) / "config.json"
    config.write_text(config.read_text("utf-8"), "utf-8-sig")
    assert read_config(tmp_path) == load_model(tmp_path).config == named_config(str(tmp_path))[1]


def test_an_unknown_field_is_refused(tmp_path):
    edit_config(saved(tmp_path), sliding_window=4)
    refused(tmp_path, "sliding_window", kind=ConfigError)


def test_quantised_weights_are_refused_by_name(tmp_path):
    edit_config(saved(tmp_path), quantization_config={"quant_method": "gptq", "bits": 4})
    refused(tmp_path, "quantization_config", "gptq", "bfloat16")


def test_weights_of_another_number_type_are_refused_by_name(tmp_path):
    edit(saved(tmp_path), lambda t: t.update({"lm_head.weight": t["lm_head.weight"].to(torch.float8_e4m3fn)}))
    refused(tmp_path, "lm_head.weight", "F8_E4M3")


# ---- differences between config and weights -----------------------------------------------------------------------------


def test_all_missing_unexpected_and_misshaped_tensors_are_in_one_error(tmp_path):
    def change(tensors):
        del tensors["model.norm.weight"], tensors["model.layers.1.mlp.experts.2.up_proj.weight"]
        tensors["model.layers.7.extra"] = torch.zeros(2)
        tensors["lm_head.weight"] = torch.zeros(12, 6)

    edit(saved(tmp_path), change)
    refused(
        tmp_path,
        "4 problems",
        "missing model.norm.weight",
        "missing model.layers.1.mlp.experts.2.up_proj.weight",
        "unexpected model.layers.7.extra",
        "lm_head.weight has shape [12, 6], config.json makes it [11, 6]",
    )


def test_a_wrong_number_of_layers_is_told_in_lines_that_can_be_read(tmp_path):
    edit_config(saved(tmp_path), num_hidden_layers=20)
    message = refused(tmp_path, "missing model.layers.19.input_layernorm.weight", "experts.*.gate_proj.weight (4 tensors")
    assert "model.layers.19.mlp.experts.2." not in message


@pytest.mark.parametrize(("key", "word"), [("num_hidden_layers", "layers"), ("n_routed_experts", "experts")])
def test_counts_that_the_weights_cannot_hold_are_refused_before_a_model_is_built(key, word, tmp_path, monkeypatch):
    edit_config(saved(tmp_path), **{key: 9000})
    monkeypatch.setattr("seekling.model.decoder.Decoder.empty", lambda *a, **k: pytest.fail("nobody waits for this"))
    refused(tmp_path, "config.json", f"announces 9000 {word}")


def test_old_rotary_tables_on_disk_are_passed_over(tmp_path):
    edit(saved(tmp_path), lambda t: t.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(1)}))
    assert equal(load_model(tmp_path), tiny())


def test_an_mtp_copy_of_the_embedding_that_differs_is_refused_by_name(tmp_path):
    saved(tmp_path, num_nextn_predict_layers=1)
    edit(tmp_path, lambda t: t["model.layers.2.embed_tokens.weight"][3].add_(1), "model-mtp.safetensors")
    refused(tmp_path, "model.layers.2.embed_tokens.weight differs from model.embed_tokens.weight")


def test_an_mtp_layer_without_copies_is_read(tmp_path):
    saved(tmp_path, num_nextn_predict_layers=1)

    def change(tensors):
        del tensors["model.layers.2.embed_tokens.weight"], tensors["model.layers.2.shared_head.head.weight"]

    edit(tmp_path, change, "model-mtp.safetensors")
    assert equal(load_model(tmp_path), tiny(num_nextn_predict_layers=1))


def test_an_incomplete_mtp_layer_is_refused(tmp_path):
    saved(tmp_path, num_nextn_predict_layers=1)
    edit(tmp_path, lambda t: t.pop("model.layers.2.eh_proj.weight"), "model-mtp.safetensors")
    refused(tmp_path, "missing model.layers.2.eh_proj.weight")


def test_an_mtp_layer_the_config_does_not_announce_is_refused(tmp_path):
    edit_config(saved(tmp_path, num_nextn_predict_layers=1), num_nextn_predict_layers=0)
    refused(tmp_path, "unexpected model.layers.2.eh_proj.weight")


def test_the_published_layout_with_the_mtp_layer_among_the_rest_is_read(tmp_path):
    saved(tmp_path, num_nextn_predict_layers=1)
    import safetensors.torch

    mtp = safetensors.torch.load_file(tmp_path / "model-mtp.safetensors")
    edit(tmp_path, lambda t: t.update(mtp))
    (tmp_path / "model-mtp.safetensors").unlink()
    assert equal(load_model(tmp_path), tiny(num_nextn_predict_layers=1))


def test_a_tied_head_on_disk_must_equal_the_embedding(tmp_path):
    saved(tmp_path, tie_word_embeddings=True)
    edit(tmp_path, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"].clone()}))
    assert equal(load_model(tmp_path), tiny(tie_word_embeddings=True))
    edit(tmp_path, lambda t: t["lm_head.weight"].neg_())
    refused(tmp_path, "lm_head.weight differs from model.embed_tokens.weight")


def test_a_tied_model_shares_one_table_after_loading(tmp_path):
    model = load_model(saved(tmp_path, tie_word_embeddings=True))
    assert model.lm_head.weight is model.model.embed_tokens.weight


# ---- files that must not be believed --------------------------------------------------------------------------------------


def test_only_pickled_weights_are_refused_with_the_way_to_convert_them(tmp_path):
    saved(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    message = refused(tmp_path, "pytorch_model.bin", "can run code", "save_pretrained")
    assert "\n" not in message


def test_no_weights_at_all_are_refused(tmp_path):
    (saved(tmp_path) / "model.safetensors").unlink()
    refused(tmp_path, "model.safetensors", "copy the checkpoint again")


def test_a_truncated_file_is_refused(tmp_path):
    file = saved(tmp_path) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-5])
    refused(tmp_path, "model.safetensors", "cut short")


def sharded(folder, **changes):
    save_model(tiny(**changes), folder, max_shard_bytes=600)
    return folder


def point(folder, tensor, file):
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"][tensor] = file
    (folder / INDEX).write_text(json.dumps(index))


@pytest.mark.parametrize(
    "name", ["../evil.safetensors", "/tmp/evil.safetensors", "a\\b.safetensors", "..", "", "sub/x.safetensors"]
)
def test_an_index_that_names_anything_but_a_plain_file_is_refused(name, tmp_path):
    home = tmp_path / "home"
    sharded(home)
    (tmp_path / "evil.safetensors").write_bytes(raw_file({}))
    point(home, "model.norm.weight", name)
    refused(home, "plain file name" if name.endswith("tensors") else "not a .safetensors")


def test_a_pickle_in_the_index_is_refused(tmp_path):
    sharded(tmp_path)
    point(tmp_path, "model.norm.weight", "pytorch_model.bin")
    refused(tmp_path, "'pytorch_model.bin' is not a .safetensors file")


def test_a_link_out_of_the_folder_is_refused(tmp_path):
    home = saved(tmp_path / "home")
    (home / "model.safetensors").rename(tmp_path / "elsewhere.safetensors")
    (home / "model.safetensors").symlink_to(tmp_path / "elsewhere.safetensors")
    refused(home, "links to", "outside the checkpoint")


def test_a_linked_config_out_of_the_folder_is_refused(tmp_path):
    home = saved(tmp_path / "home")
    (home / "config.json").rename(tmp_path / "other.json")
    (home / "config.json").symlink_to("../other.json")
    refused(home, "outside the checkpoint")


def test_links_of_the_hugging_face_cache_are_followed(tmp_path):
    snapshot, blobs = tmp_path / "snapshots" / "abc", tmp_path / "blobs"
    saved(snapshot)
    blobs.mkdir()
    for i, file in enumerate(sorted(snapshot.iterdir())):
        file.rename(blobs / str(i))
        file.symlink_to(os.path.join("..", "..", "blobs", str(i)))
    assert equal(load_model(snapshot), tiny())


def test_a_linked_folder_is_read(tmp_path):
    saved(tmp_path / "real")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert equal(load_model(tmp_path / "link"), tiny())


def test_a_missing_shard_is_named(tmp_path):
    sharded(tmp_path)
    first = sorted(tmp_path.glob("model-0*"))[0]
    first.unlink()
    refused(tmp_path, first.name, "is missing")


def test_a_tensor_the_index_places_wrongly_is_named(tmp_path):
    sharded(tmp_path)
    files = sorted(p.name for p in tmp_path.glob("model-0*"))
    point(tmp_path, "model.embed_tokens.weight", files[-1])
    refused(tmp_path, "'model.embed_tokens.weight'", files[-1])


def test_a_tensor_in_two_files_is_refused(tmp_path):
    saved(tmp_path, num_nextn_predict_layers=1)
    edit(tmp_path, lambda t: t.update({"model.norm.weight": torch.ones(6)}), "model-mtp.safetensors")
    refused(tmp_path, "'model.norm.weight' is in model.safetensors and in model-mtp.safetensors")


@pytest.mark.parametrize("content", ["[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": 1}}', "{"])
def test_an_index_of_another_shape_is_refused(content, tmp_path):
    (sharded(tmp_path) / INDEX).write_text(content)
    refused(tmp_path, INDEX)


# ---- number types -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_weights_take_the_asked_type_and_router_biases_stay_float32(dtype, tmp_path):
    model = load_model(saved(tmp_path), dtype)
    expected = tiny().to(getattr(torch, dtype))
    expected.routers()[0].e_score_correction_bias = tiny().routers()[0].e_score_correction_bias
    assert equal(model, expected)


def test_another_type_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="'int8' is not supported; use float32, bfloat16 or float64"):
        load_model(saved(tmp_path), "int8")


def test_a_loaded_model_is_in_evaluation_mode_and_can_be_trained(tmp_path):
    model = load_model(saved(tmp_path))
    assert not model.training
    assert all(p.requires_grad for p in model.parameters())
