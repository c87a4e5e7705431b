"""The outside oracle: greedy tokens equal those of transformers' DeepseekV3ForCausalLM.generate."""

import pytest
import torch
from engine_tiny import config, one_thread  # noqa: F401

from seekling import Engine, Sampling
from seekling.formats.families import write_config
from seekling.model.decoder import Decoder

transformers = pytest.importorskip("transformers")


def hf_twin(model):
    """The same weights in transformers' module."""
    cfg = {k: v for k, v in write_config(model.config).items() if k not in ("architectures", "torch_dtype", "dtype")}
    with torch.random.fork_rng():
        hf = transformers.DeepseekV3ForCausalLM(transformers.DeepseekV3Config(**cfg))
    missing, unexpected = hf.load_state_dict(model.state_dict(), strict=False)
    assert not missing and not [k for k in unexpected if f"layers.{model.config.num_hidden_layers}" not in k]
    return hf.eval()


@pytest.mark.parametrize("changes", [{}, {"q_lora_rank": None, "n_group": 2, "topk_group": 1}, {"first_k_dense_replace": 3}])
def test_greedy_tokens_equal_those_of_transformers(changes):
    model = Decoder.build(config(**changes), dtype=torch.float32, seed=11)
    hf = hf_twin(model)
    prompts = [[5, 77, 130, 8, 9], [200], [41, 42, 43]]

    class LM:
        tokenizer = None

    LM.model, LM.config = model, model.config
    ours = Engine(LM).generate(prompts, Sampling(max_tokens=32, temperature=0, ignore_eos=True))
    for prompt, mine in zip(prompts, ours, strict=True):
        ids = torch.tensor([prompt])
        theirs = hf.generate(ids, do_sample=False, max_new_tokens=32, min_new_tokens=32, eos_token_id=None, pad_token_id=2)[
            0, len(prompt) :
        ].tolist()
        with torch.no_grad():
            best = hf(torch.tensor([prompt + theirs])).logits[0, len(prompt) - 1 : -1].topk(2).values
        assert (best[:, 0] - best[:, 1]).min() > 1e-5, "a tie: take another seed"
        assert mine.token_ids == theirs
