"""LoRA over a packed base: the numbers of its dequantised weights, no whole matrix kept, every stage, exact merges."""

import dataclasses
import json
import shutil

import pytest
import torch
from oracle_models import one_thread  # noqa: F401
from teach_tiny import weights

import seekling
from seekling.errors import MachineError, RecipeError
from seekling.formats.gguf_write import write_gguf
from seekling.formats.safetensors_io import read_metadata
from seekling.kernels import infer
from seekling.kernels.packed_weight import FrozenLinear, PackedWeight, Part, dense, times, times_transposed
from seekling.lm import LM
from seekling.model import Decoder
from seekling.model.config import ModelConfig
from seekling.text.bpe import train_tokenizer
from seekling.train import distill, dpo, grpo, packed_base, sft
from seekling.train.distill_recipe import DistillRecipe
from seekling.train.dpo_recipe import DpoRecipe
from seekling.train.grpo_recipe import GrpoRecipe
from seekling.train.log import read_log
from seekling.train.lora import LoraSettings, adapter_of, add_lora, take_out
from seekling.train.packed_base import open_packed
from seekling.train.rollout import STUDENT, Roller
from seekling.train.sft_recipe import SftRecipe
from seekling.train.teaching import open_student

pytestmark = pytest.mark.skipif(not infer.available(), reason="the native kernels are not built")
IDS = torch.tensor([[5, 6, 7, 8, 9, 10]])
MLA = dict(
    vocab_size=300, hidden_size=32, intermediate_size=64, moe_intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
    kv_lora_rank=32, q_lora_rank=32, qk_nope_head_dim=16, qk_rope_head_dim=16, v_head_dim=16, n_routed_experts=4,
    num_experts_per_tok=2, n_shared_experts=1, first_k_dense_replace=1, num_nextn_predict_layers=1, max_position_embeddings=256,
    pad_token_id=2,
)  # fmt: skip
LLAMA = dict(
    model_type="llama", vocab_size=300, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=256,
)  # fmt: skip


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """An MLA model with experts and MTP, a Llama, and the Llama as a GGUF file of Q4_1 blocks."""
    from seekling.formats.families import read_config

    place = tmp_path_factory.mktemp("bases")
    tokenizer = train_tokenizer(["what colour has the lamp? the lamp is red blue green gold. 1 2 3 + = " * 30], 300)
    for name, config in (("mla", ModelConfig(**MLA)), ("llama", read_config(LLAMA))):
        LM(Decoder.build(config, seed=1), tokenizer).save(place / name)
    write_gguf(seekling.load(place / "llama"), place / "llama.gguf", "q4_1")
    return {name: place / name for name in ("mla", "llama", "llama.gguf")}


def dequantised(model):
    """A decoder over the floats that a packed one stands for."""
    out = Decoder.empty(model.config, dtype=torch.float32, device="cpu")
    state = dict(model.state_dict())
    for name, module in model.named_modules():
        if isinstance(module, packed_base.PackedExperts):
            for half in ("gate_up", "down"):
                each = [module.matrix(half, e)[0].dense() for e in range(model.config.n_routed_experts)]
                state[f"{name}.{half}_proj"] = torch.stack(each)
        elif isinstance(module, packed_base.PackedLinear | packed_base.PackedEmbedding):
            state[f"{name}.weight"] = module.weight.dense()
            if getattr(module, "bias", None) is not None:
                state[f"{name}.bias"] = module.bias
    out.load_state_dict(state)
    return out.eval()


# ---- the matrix ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["q4_1", "q4_k", "q4_64", "q8_0", "int8", "bf16"])
def test_rows_of_a_packed_matrix_are_those_of_the_whole(format):
    w = torch.randn(3, 70, 48, generator=torch.Generator().manual_seed(0))
    packed = infer.pack(w, format)
    whole = infer.dequantise(packed, index=2)
    assert torch.equal(infer.dequantise(packed, 33, 30, index=2), whole[33:63])
    chosen = torch.tensor([69, 0, 5, 5])
    assert torch.equal(infer.dequantise(packed, index=2, chosen_N=chosen), whole[chosen])
    assert torch.equal(infer.dequantise(packed, index=2, dtype=torch.bfloat16), whole.bfloat16())
    with pytest.raises(ValueError, match="rows 69 to 70"):
        infer.dequantise(packed, 69, 2)


def test_a_weight_of_parts_multiplies_like_the_matrix_it_stands_for(monkeypatch):
    from seekling.kernels import packed_weight

    g = torch.Generator().manual_seed(0)
    stack, plain = infer.pack(torch.randn(2, 32, 24, generator=g), "int8"), infer.pack(torch.randn(40, 32, generator=g), "q4_1")
    weight = PackedWeight((Part(plain), Part(stack, 1, transposed=True)), torch.float32)
    want = torch.cat([infer.dequantise(plain), infer.dequantise(stack, index=1).t()])
    x, up, bias = (torch.randn(*shape, generator=g) for shape in ((5, 32), (5, 64), (64,)))
    assert weight.shape == (64, 32) and torch.equal(dense(weight), want) and torch.equal(weight.rows(38, 45), want[38:45])
    for piece in (1 << 24, 200):  # all at once, and 6 rows at a time
        monkeypatch.setattr(packed_weight, "PIECE", piece)
        assert torch.allclose(times_transposed(x, weight, bias), x @ want.t() + bias, atol=1e-5)
        assert torch.allclose(times(up, weight), up @ want, atol=1e-5)
    own = x.clone().requires_grad_()
    FrozenLinear.apply(own, weight, bias).backward(up)
    assert torch.allclose(own.grad, up @ want, atol=1e-5)


# ---- the model -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, quant", [("mla", "int4"), ("mla", "int4-64"), ("mla", "int8"), ("llama", "int4"), ("llama.gguf", "gguf")]
)
def test_training_over_packed_weights_equals_training_over_what_they_stand_for(bases, name, quant):
    lm = open_packed(str(bases[name]), quant, torch.float32)
    oracle = dequantised(lm.model)
    settings = LoraSettings(3, 5.0, shared_a=True)
    found = {}
    for key, model in (("packed", lm.model), ("floats", oracle)):
        add_lora(model, settings, seed=1)
        with torch.no_grad():
            for part, p in model.named_parameters():
                if part.endswith("lora_B"):
                    p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(len(part))) * 0.1)
        logits = model(IDS)
        logits.square().mean().backward()
        found[key] = logits, {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
    assert torch.allclose(found["packed"][0], found["floats"][0], atol=1e-4)
    assert found["packed"][1].keys() == found["floats"][1].keys() and len(found["packed"][1]) > 10
    for part, grad in found["floats"][1].items():
        torch.testing.assert_close(found["packed"][1][part], grad, rtol=1e-3, atol=1e-6)
    assert all("lora_" in n or p.numel() <= 4 * 32 for n, p in lm.model.named_parameters())  # no matrix is held in floats
    take_out(lm.model)
    assert torch.allclose(lm.model(IDS), dequantised(lm.model)(IDS), atol=1e-4)


def test_a_gguf_files_blocks_are_kept_as_they_are(bases):
    packed, dense_lm = open_packed(str(bases["llama.gguf"]), "gguf", torch.float32), seekling.load(bases["llama.gguf"])
    assert torch.allclose(packed.model(IDS), dense_lm.model(IDS), atol=1e-4)
    layer = packed.model.model.layers[0]
    assert torch.equal(layer.self_attn.q_proj.weight.dense(), dense_lm.model.model.layers[0].self_attn.q_proj.weight)
    assert layer.mlp.up_proj.weight.parts[0].packed.format == "q4_1"


@pytest.mark.parametrize("name", ["mla", "llama"])
def test_the_fingerprint_is_that_of_the_base_in_floats(bases, name):
    from seekling.formats.adapters import model_fingerprint

    packed = open_packed(str(bases[name]), "int4", torch.bfloat16)
    assert packed.fingerprint == model_fingerprint(seekling.load(bases[name]).model)


# ---- the stages ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lines(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "data.jsonl"
    words = ["red", "blue", "green", "gold"]
    rows = [
        {"prompt": f"what colour has lamp {i}?", "completion": f"lamp {i} is {words[i % 4]}.", "chosen": f"lamp {i} is gold.",
         "rejected": f"lamp {i} is red."}
        for i in range(16)
    ]  # fmt: skip
    path.write_text("\n".join(map(json.dumps, rows)), "utf-8")
    return str(path)


def shared(base, out, **more):
    values = dict(model=str(base), out=str(out), lora=4, steps=4, save_every=2, keep=0, dtype="float32", lr=1e-2)
    return {**values, **more}


STAGES = {
    "sft": lambda base, out, lines: (sft, SftRecipe.of(**shared(base, out, data=[lines], base_quant="int4", batch_size=4))),
    "dpo": lambda base, out, lines: (dpo, DpoRecipe.of(**shared(base, out, data=[lines], base_quant="int8", batch_size=4))),
    "grpo": lambda base, out, lines: (
        grpo,
        GrpoRecipe.of(
            **shared(base, out, base_quant="int8", tasks=["letters"], problems=2, group=6, max_tokens=6, eval_problems=2),
            tagged=False, kl=0.05,
        ),
    ),
    "distill": lambda base, out, lines: (  # the teacher is the base in floats
        distill,
        DistillRecipe.of(
            **shared(base, out, base_quant="int4", teacher=str(base), method="logits", data=[lines], batch_size=4),
            eval_problems=2,
        ),
    ),
    "distill on-policy": lambda base, out, lines: (
        distill,
        DistillRecipe.of(
            **shared(base, out, base_quant="int8", teacher=str(base), method="on-policy", tasks=["letters"], problems=2),
            group=2, max_tokens=6, eval_problems=2, tagged=False,
        ),
    ),
}  # fmt: skip


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_learns_over_a_packed_base_and_resumes_bit_for_bit(bases, lines, tmp_path, stage, monkeypatch):
    from seekling.tasks.base import Reward
    from seekling.train import judging

    def pays(task, problem, reply, **_):
        return Reward(float("e" in reply), 1.0, float("e" in reply))

    monkeypatch.setattr(judging, "reward_of", pays)
    module, recipe = STAGES[stage](bases["mla"], tmp_path / "run", lines)
    run = getattr(module, stage.split()[0])(recipe)
    final = run / "checkpoints" / "step-000004"
    want = weights(final)
    assert read_metadata(final / "adapter_model.safetensors")["base_quant"] == recipe.lora.base_quant
    assert json.loads((final / "adapter_config.json").read_text())["base_model_name_or_path"] == str(bases["mla"].resolve())
    seekling.load(run)  # opens over its base in floats, whose fingerprint it carries
    shutil.rmtree(final)
    module.resume(run)
    assert weights(final) == want
    assert want != weights(run / "checkpoints" / "step-000002")


def test_an_adapter_over_a_gguf_file_merges_into_exactly_what_was_trained(bases, lines, tmp_path):
    recipe = SftRecipe.of(**shared(bases["llama.gguf"], tmp_path / "run", data=[lines], base_quant="gguf", batch_size=4))
    run = sft.sft(recipe)
    trained = open_student(recipe, seekling.train.state.Checkpoints(run / "checkpoints").load()).model
    assert torch.allclose(seekling.load(run).model(IDS), trained(IDS), atol=1e-4)
    assert (seekling.load(bases["llama.gguf"]).model(IDS) - trained(IDS)).abs().max() > 1e-3
    held = [line["ce"] for line in read_log(run / "log.jsonl") if line["kind"] == "eval"]
    assert held[-1] < held[0]


def test_roll_outs_share_the_trainers_bytes_and_follow_its_adapter(bases):
    recipe = GrpoRecipe.of(**shared(bases["llama"], "x", base_quant="int8", tasks=["letters"], max_tokens=4, group=2))
    student = open_student(recipe, None)
    roller = Roller(student.lm, recipe)
    before = roller.draw(0)
    packed = {id(w.data) for w in student.lm.runner.packed()}
    linear = student.model.model.layers[0].self_attn.q_proj
    assert id(linear.weight.parts[0].packed.data) in packed
    with torch.no_grad():
        for name, p in student.model.named_parameters():
            if name.endswith("lora_B"):
                p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(len(name))) * 0.3)
    after = roller.draw(0)
    assert [a.token_ids for a in after] != [a.token_ids for a in before]
    answer = after[0]
    ids = torch.tensor([[*answer.prompt_ids, *answer.token_ids]])
    with torch.no_grad():
        logp = torch.log_softmax(student.model.eval()(ids)[0, len(answer.prompt_ids) - 1 : -1], -1)
    own = logp.gather(1, torch.tensor(answer.token_ids)[:, None])[:, 0]
    assert (own - torch.tensor(answer.logprobs)).abs().max() < 0.1  # activations of 8 bits
    assert roller._engine._backend.runner.adapters == {STUDENT: 0}


# ---- what is refused -----------------------------------------------------------------------------------------------------


def test_what_cannot_be_is_said_before_anything_starts(bases, lines, tmp_path):
    with pytest.raises(RecipeError, match="give --lora"):
        SftRecipe.of(base_quant="int4")
    with pytest.raises(RecipeError, match="keep --truncate"):
        GrpoRecipe.of(base_quant="int4", lora=4, truncate=0.0)
    with pytest.raises(RecipeError, match="is not: give int8 or int4"):
        sft.sft(SftRecipe.of(**shared(bases["llama"], tmp_path / "run", data=[lines], base_quant="gguf")))
    for more, says in ((dict(rollout="torch"), "drop --rollout torch"), (dict(rollout_quant="int8"), "drop --rollout-quant")):
        asked = GrpoRecipe.of(**shared(bases["mla"], tmp_path / "run", base_quant="int4", tasks=["letters"]), **more)
        with pytest.raises(RecipeError, match=says):
            grpo.grpo(asked)
    assert not (tmp_path / "run" / "recipe.toml").exists()


def test_a_model_the_kernels_do_not_compute_is_refused(bases, tmp_path):
    from seekling.formats.families import read_config

    scaled = read_config(LLAMA | {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}})
    LM(Decoder.build(scaled, seed=1), seekling.load(bases["llama"]).tokenizer).save(tmp_path / "scaled")
    with pytest.raises(MachineError, match="--base-quant: the native kernels do not compute rope scaling of type dynamic"):
        open_packed(str(tmp_path / "scaled"), "int8", torch.float32)


def test_an_adapter_folder_is_merged_before_it_is_packed(bases, lines, tmp_path):
    first = sft.sft(SftRecipe.of(**shared(bases["llama"], tmp_path / "first", data=[lines], batch_size=4)))
    lm = open_packed(str(first), "int8", torch.float32)
    want = seekling.load(first).model(IDS)
    plain = open_packed(str(bases["llama"]), "int8", torch.float32).model(IDS)
    assert (lm.model(IDS) - want).abs().max() < (plain - want).abs().max() / 2


def test_adapters_keep_their_names_and_shapes_over_a_packed_base(bases):
    lm = open_packed(str(bases["mla"]), "int4", torch.float32)
    plain = seekling.load(bases["mla"])
    config = dataclasses.replace(plain.config, num_nextn_predict_layers=0)
    model = Decoder.empty(config, device="cpu")
    for one in (lm.model, model):
        add_lora(one, LoraSettings(2), seed=3)
    a, b = (adapter_of(one, dict(one.named_parameters())).parts for one in (lm.model, model))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name].a, b[name].a) and a[name].b.shape == b[name].b.shape for name in a)
