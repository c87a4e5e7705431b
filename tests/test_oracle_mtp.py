"""Multi-token prediction against the MTP model that ``transformers`` builds for ``generate(use_mtp=True)``."""

import dataclasses

import pytest
import torch
from oracle_models import fill, hf_load, one_thread  # noqa: F401
from transformers.cache_utils import MtpCache
from transformers.modeling_layers import MtpModel

from seekling.formats import load_model, save_model
from seekling.model.config import ModelConfig
from seekling.model.decoder import Decoder

CONFIG = ModelConfig(
    vocab_size=40, hidden_size=12, intermediate_size=20, moe_intermediate_size=7, num_hidden_layers=2, num_attention_heads=2,
    q_lora_rank=6, kv_lora_rank=5, qk_nope_head_dim=3, qk_rope_head_dim=4, v_head_dim=5, n_routed_experts=6,
    num_experts_per_tok=2, n_shared_experts=1, first_k_dense_replace=1, n_group=2, topk_group=1, routed_scaling_factor=2.5,
    num_nextn_predict_layers=2, max_position_embeddings=64,
)  # fmt: skip
IDS = torch.randint(0, 40, (2, 11), generator=torch.Generator().manual_seed(4))


def model_of(config: ModelConfig) -> Decoder:
    model = Decoder.build(config, dtype=torch.float64)
    fill(model, 12)
    return model.eval()


def theirs_of(model: Decoder, folder) -> tuple[torch.nn.Module, MtpModel]:
    """transformers' main and MTP models with our weights; the MTP one filled by hand, name by name."""
    save_model(model, folder)
    main, _ = hf_load(folder, torch.float64)
    config = model.config
    mtp = MtpModel(main, config.num_nextn_predict_layers).to(torch.float64)
    own = {n: t for n, t in mtp.state_dict().items() if n.startswith("layers.")}
    state = model.state_dict()
    with torch.no_grad():
        for name, tensor in own.items():
            _, k, rest = name.split(".", 2)
            rest = rest.removeprefix("mtp_block.").replace("post_norm.weight", "shared_head.norm.weight")
            tensor.copy_(state[f"model.layers.{config.num_hidden_layers + int(k)}.{rest}"])
    return main, mtp.eval()


def next_ids(ids: torch.Tensor, depth: int, T: int) -> torch.Tensor:
    return torch.stack([ids[:, k + 1 : k + 1 + T] for k in range(depth)], -1)


@torch.no_grad()
def their_depth(mtp: MtpModel, k: int, h, ids, post_norm: bool = True):
    """One depth in transformers at positions from 0; ``post_norm`` False leaves the shared head's norm off."""
    positions = torch.arange(ids.shape[1])[None]
    layer = mtp.layers[k]
    layer.use_post_norm = post_norm
    try:
        return mtp.forward_layer(k, h, positions, MtpCache(config=mtp.config), input_ids=ids)
    finally:
        layer.use_post_norm = True


@pytest.mark.parametrize("hidden_first", [False, True])
@pytest.mark.parametrize("after_norm", [False, True])
def test_both_depths_equal_the_transformers_mtp_layers(hidden_first, after_norm, tmp_path):
    model = model_of(dataclasses.replace(CONFIG, mtp_hidden_first=hidden_first, mtp_after_norm=after_norm))
    _, mtp = theirs_of(model, tmp_path)
    T = IDS.shape[1] - 2
    following = next_ids(IDS, 2, T)
    with torch.no_grad():
        x = model.states(IDS[:, :T])
        ours = model.mtp_states(x, following)
        h = model.model.norm(x) if after_norm else x
    for k in range(2):
        assert (their_depth(mtp, k, h, following[..., k]) - ours[k]).abs().max() < 1e-9
        h = their_depth(mtp, k, h, following[..., k], post_norm=False)  # the paper's h^k is the block's own output


def test_what_transformers_feeds_its_mtp_is_our_after_norm_state(tmp_path):
    model = model_of(dataclasses.replace(CONFIG, mtp_after_norm=True))
    main, _ = theirs_of(model, tmp_path)
    with torch.no_grad():
        theirs = main(IDS, output_hidden_states=True).hidden_states[-1]
        assert (theirs - model.hidden(IDS)).abs().max() < 1e-9


def test_the_mtp_layer_sees_the_past_only():
    model = model_of(CONFIG)
    T = IDS.shape[1] - 2
    changed = next_ids(IDS, 2, T).clone()
    changed[:, -1] = (changed[:, -1] + 1) % 40
    with torch.no_grad():
        x = model.states(IDS[:, :T])
        a, b = model.mtp_states(x, next_ids(IDS, 2, T)), model.mtp_states(x, changed)
    for k in range(2):
        assert torch.equal(a[k][:, :-1], b[k][:, :-1])
        assert not torch.allclose(a[k][:, -1], b[k][:, -1])


def test_the_published_layer_count_lets_transformers_load_our_mtp_layer_by_itself(tmp_path):
    """61 layers is what transformers' V3 class knows: then its MTP loader reads the folder we save, unhelped."""
    config = dataclasses.replace(CONFIG, num_hidden_layers=61, num_nextn_predict_layers=1, hidden_size=6, mtp_after_norm=True)
    model = model_of(config)
    save_model(model, tmp_path)
    main, info = hf_load(tmp_path, torch.float64)
    assert not any(info.values())
    mtp = MtpModel.from_pretrained(main)
    T = IDS.shape[1] - 1
    with torch.no_grad():
        x = model.states(IDS[:, :T])
        ours = model.mtp_states(x, IDS[:, 1:, None])[0]
        theirs = their_depth(mtp, 0, model.model.norm(x), IDS[:, 1:])
    assert (ours - theirs).abs().max() < 1e-9


def test_mtp_layers_survive_a_saved_folder(tmp_path):
    model = model_of(CONFIG)
    save_model(model, tmp_path)
    again = load_model(tmp_path, "float64")
    state = again.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
