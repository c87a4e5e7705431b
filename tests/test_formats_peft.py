"""PEFT adapters: what peft writes changes a Decoder as it changes transformers' model, and the way back."""

import json
import shutil
import subprocess
import sys

import pytest
import safetensors.torch
import torch
from formats_tiny import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PeftModel
from peft_tiny import EXPERTS, adapted, base, edit, logits, opened

from seekling.errors import CheckpointError
from seekling.formats import load_model
from seekling.formats.adapters import Adapter, LowRank, merge, model_fingerprint, targets, unmerge
from seekling.formats.peft import read_adapter
from seekling.formats.peft_write import write_adapter

pytestmark = pytest.mark.filterwarnings("ignore")  # of peft, about itself

CASES = {
    "llama, a list": ("llama", dict(target_modules=["q_proj", "v_proj"])),
    "llama, all linear": ("llama", dict(target_modules="all-linear")),
    "llama, a regular expression": ("llama", dict(target_modules=r".*\.layers\.1\.(self_attn|mlp)\.(q|down)_proj")),
    "llama, ranks and alphas of their own": (
        "llama",
        dict(target_modules=["q_proj", "k_proj"], rank_pattern={r"layers\.1\.self_attn\.q_proj": 5},
             alpha_pattern={"k_proj": 7}),
    ),
    "llama, rank-stabilised": ("llama", dict(target_modules=["o_proj", "up_proj"], use_rslora=True)),
    "llama, some layers": ("llama", dict(target_modules=["q_proj"], layers_to_transform=[1])),
    "llama, head and embedding": ("llama", dict(target_modules=["lm_head", "embed_tokens"])),
    "qwen2, all linear": ("qwen2", dict(target_modules="all-linear")),
    "deepseek, attention": (
        "deepseek_v3", dict(target_modules=["q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj"]),
    ),
    "deepseek, all linear": ("deepseek_v3", dict(target_modules="all-linear")),
    "deepseek, stacked experts": ("deepseek_v3", dict(target_modules=["o_proj"], target_parameters=EXPERTS)),
    "deepseek, one stack": ("deepseek_v3", dict(target_modules=[], target_parameters=EXPERTS[1:])),
    "deepseek, routers": ("deepseek_v3", dict(target_modules=[], target_parameters=["mlp.gate.weight"])),
    "qwen2_moe, experts and shared": (
        "qwen2_moe",
        dict(target_modules=["q_proj"], target_parameters=[*EXPERTS, "mlp.shared_expert.up_proj.weight"]),
    ),
    "gpt_oss, experts and router": (
        "gpt_oss", dict(target_modules=["v_proj"], target_parameters=[*EXPERTS, "mlp.router.weight"]),
    ),
}  # fmt: skip


@pytest.fixture(params=CASES)
def case(request, tmp_path):
    """(our base, their adapted model, the adapter's folder, the base's folder)."""
    family, settings = CASES[request.param]
    base(family, tmp_path / "base")
    theirs = adapted(opened(tmp_path / "base"), tmp_path / "lora", **settings)
    return load_model(tmp_path / "base"), theirs, tmp_path / "lora", tmp_path / "base"


def test_a_merged_model_has_the_logits_of_pefts(case):
    ours, theirs, lora, _ = case
    before = logits(ours)
    merge(ours, read_adapter(lora, ours))
    wanted = logits(theirs)
    assert (wanted - before).abs().max() > 1e-2
    assert torch.allclose(logits(ours), wanted, atol=2e-5, rtol=1e-5)
    assert torch.allclose(logits(ours), logits(theirs.merge_and_unload()), atol=2e-5, rtol=1e-5)


def test_undoing_a_merge_gives_every_bit_back(case):
    ours, _, lora, folder = case
    merged = merge(ours, read_adapter(lora, ours))
    merged.undo()
    assert all(
        torch.equal(a, b) for a, b in zip(ours.state_dict().values(), load_model(folder).state_dict().values(), strict=True)
    )


@pytest.mark.parametrize("each", [False, True], ids=["stacks", "each expert"])
def test_what_is_written_peft_opens_with_the_same_logits(case, each, tmp_path):
    ours, theirs, lora, folder = case
    adapter = read_adapter(lora, ours)
    if any(name.startswith("model.embed_tokens") for name in adapter.parts):
        pytest.skip("adapters of the embedding are read only")
    if each and ours.config.model_type == "gpt_oss":
        pytest.skip("gpt_oss has no names for single experts")
    write_adapter(adapter, tmp_path / "again", ours, each_expert=each)
    if not (each and ours.config.model_type == "qwen2_moe"):  # peft 0.21 turns pairs into stacks for other families only
        again = PeftModel.from_pretrained(opened(folder), tmp_path / "again").eval()
        assert torch.allclose(logits(again), logits(theirs), atol=2e-5, rtol=1e-5)
    back = read_adapter(tmp_path / "again", ours)
    assert back.parts.keys() == adapter.parts.keys()
    for name, part in adapter.parts.items():
        assert torch.allclose(back.parts[name].delta(), part.delta(), atol=1e-6)


# ---- adapters with one pair an expert --------------------------------------------------------------------------------


def per_expert(folder, model, ranks=(2, 2), only=None):
    """A folder as peft wrote it when experts were modules of their own; returns the changes of (expert, kind)."""
    tensors, deltas = {}, {}
    torch.manual_seed(5)
    for expert in range(4):
        for kind, rank in (("gate_proj", ranks[0]), ("up_proj", ranks[1]), ("down_proj", 2)):
            if only is not None and (expert, kind) not in only:
                continue
            inputs, outputs = (6, 16) if kind == "down_proj" else (16, 6)
            a, b = torch.randn(rank, inputs), torch.randn(outputs, rank)
            key = f"base_model.model.model.layers.1.mlp.experts.{expert}.{kind}"
            tensors[f"{key}.lora_A.weight"], tensors[f"{key}.lora_B.weight"] = a, b
            deltas[expert, kind] = b @ a * (4 / rank)
    folder.mkdir()
    safetensors.torch.save_file(tensors, folder / "adapter_model.safetensors")
    patterns = {} if ranks[0] == ranks[1] else {"up_proj": ranks[1]}
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["gate_proj", "up_proj", "down_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps({**config, "rank_pattern": patterns}))
    return deltas


@pytest.mark.parametrize("ranks", [(2, 2), (2, 3)])
@pytest.mark.parametrize("only", [None, {(1, "up_proj"), (3, "gate_proj"), (3, "down_proj")}], ids=["all", "some"])
def test_pairs_of_single_experts_become_stacks(ranks, only, tmp_path):
    base("deepseek_v3", tmp_path / "base")
    model = load_model(tmp_path / "base")
    deltas = per_expert(tmp_path / "lora", model, ranks, only)
    parts = read_adapter(tmp_path / "lora", model).parts
    home = "model.layers.1.mlp.experts"
    assert parts.keys() == {f"{home}.gate_up_proj", f"{home}.down_proj"}
    for expert in range(4):
        got = {"gate_proj": parts[f"{home}.gate_up_proj"].delta(expert, slice(0, 6)),
               "up_proj": parts[f"{home}.gate_up_proj"].delta(expert, slice(6, 12)),
               "down_proj": parts[f"{home}.down_proj"].delta(expert)}  # fmt: skip
        for kind, delta in got.items():
            wanted = deltas.get((expert, kind), torch.zeros_like(delta))
            assert torch.allclose(delta, wanted, atol=1e-6), (expert, kind)


def test_an_expert_the_model_lacks_is_named(tmp_path):
    base("deepseek_v3", tmp_path / "base")
    model = load_model(tmp_path / "base")
    per_expert(tmp_path / "lora", model)
    path = tmp_path / "lora" / "adapter_model.safetensors"
    tensors = safetensors.torch.load_file(path)
    safetensors.torch.save_file({k.replace("experts.3.", "experts.7."): v for k, v in tensors.items()}, path)
    with pytest.raises(CheckpointError, match="has 4 experts in the model, the adapter names number 7"):
        read_adapter(tmp_path / "lora", model)


# ---- refusals --------------------------------------------------------------------------------------------------------


@pytest.fixture
def lora(tmp_path):
    model = base("llama", tmp_path / "base")
    adapted(model, tmp_path / "lora", target_modules=["q_proj"])
    return tmp_path / "lora"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"peft_type": "IA3"}, "peft_type 'IA3'"), ({"use_dora": True}, "DoRA"), ({"bias": "all"}, "trained biases"),
        ({"lora_bias": True}, "lora_bias"), ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"init_lora_weights": "pissa_niter_4"}, "changes the base weights"), ({"use_qalora": True}, "use_qalora"),
        ({"layer_replication": [[0, 2]]}, "layer_replication"), ({"trainable_token_indices": [1]}, "trainable_token_indices"),
        ({"some_future_field": 3}, "some_future_field"), ({"r": 0}, "r must be a positive number"),
        ({"lora_alpha": None}, "lora_alpha must be"), ({"rank_pattern": [1]}, "rank_pattern must be an object"),
    ],
)  # fmt: skip
def test_other_kinds_of_adapter_are_refused_by_name(change, message, lora):
    edit(lora, **change)
    with pytest.raises(CheckpointError, match=message):
        read_adapter(lora)


def test_every_unsupported_field_is_listed_at_once(lora):
    edit(lora, use_dora=True, bias="all", modules_to_save=["x"])
    with pytest.raises(CheckpointError, match=r"(?s)3 problems.*DoRA.*biases.*modules_to_save"):
        read_adapter(lora)


def test_fields_of_later_versions_that_are_empty_do_no_harm(lora):
    edit(lora, some_future_field=None, another=False, third={})
    assert len(read_adapter(lora).parts) == 2


def change_file(lora, change):
    path = lora / "adapter_model.safetensors"
    tensors = safetensors.torch.load_file(path)
    change(tensors)
    safetensors.torch.save_file(tensors, path)


Q = "base_model.model.model.layers.0.self_attn.q_proj"
DAMAGE = {
    "no B": (lambda t: t.pop(f"{Q}.lora_B.weight"), "q_proj has no lora_B"),
    "a vector of DoRA": (lambda t: t.update({f"{Q}.lora_magnitude_vector": torch.ones(16)}), r"\(DoRA\) is no part"),
    "a whole module": (lambda t: t.update({"base_model.model.lm_head.weight": torch.ones(2, 2)}), "lm_head.weight is no part"),
    "another rank": (lambda t: t.update({f"{Q}.lora_A.weight": torch.ones(4, 16)}), "not of rank 3"),
    "A that is no matrix": (lambda t: t.update({f"{Q}.lora_A.weight": torch.ones(4)}), "A and B are matrices"),
    "a module the config lacks": (
        lambda t: t.update({f"{Q[:-6]}k_proj.lora_{x}.weight": torch.ones(3, 3) for x in "AB"}),
        "k_proj is in the file, but neither in target_modules",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGE)
def test_a_file_is_refused_that_has(case, lora):
    change, message = DAMAGE[case]
    change_file(lora, change)
    with pytest.raises(CheckpointError, match=message):
        read_adapter(lora)


def test_an_adapter_for_another_base_lists_every_difference(lora, tmp_path):
    base("qwen2", tmp_path / "other")
    other = load_model(tmp_path / "other")
    change_file(lora, lambda t: t.update({f"{Q}.lora_A.weight": torch.ones(3, 99)}))
    edit(lora, base_model_name_or_path="team/base")
    change_file(lora, lambda t: [t.update({k.replace("layers.1", "layers.9"): t.pop(k)}) for k in list(t) if "layers.1" in k])
    with pytest.raises(CheckpointError) as error:
        read_adapter(lora, other)
    text = str(error.value)
    assert "made for team/base" in text and "2 problems" in text
    assert "layers.0.self_attn.q_proj.weight is [16, 16] in the model, [16, 99]" in text
    assert "the model has no model.layers.9.self_attn.q_proj.weight" in text


def test_an_adapter_remembers_its_base_and_refuses_other_weights(lora, tmp_path):
    model = load_model(tmp_path / "base")
    adapter = read_adapter(lora, model)
    write_adapter(Adapter(adapter.parts, "b", model_fingerprint(model)), tmp_path / "named", model)
    merge(load_model(tmp_path / "base", "bfloat16"), read_adapter(tmp_path / "named", model))  # rounded, but the same base
    base("llama", tmp_path / "other", seed=9)
    other = load_model(tmp_path / "other")
    before = {name: weight.clone() for name, weight in other.state_dict().items()}
    with pytest.raises(CheckpointError, match="trained on other weights of the same shape"):
        merge(other, read_adapter(tmp_path / "named", other))
    assert all(torch.equal(weight, before[name]) for name, weight in other.state_dict().items())


def test_a_merged_model_is_another_base(lora, tmp_path):
    model = load_model(tmp_path / "base")
    adapter = read_adapter(lora, model)
    adapter = Adapter(adapter.parts, None, model_fingerprint(model))
    merge(model, adapter)
    with pytest.raises(CheckpointError, match="trained on other weights"):
        merge(model, adapter)


def test_an_embedding_that_came_along_must_be_the_models(tmp_path):
    adapted(base("llama", tmp_path / "base"), tmp_path / "lora", target_modules=["embed_tokens"])
    base("llama", tmp_path / "other", seed=9)
    adapter = read_adapter(tmp_path / "lora", load_model(tmp_path / "base"))
    assert list(adapter.base_copies) == ["model.embed_tokens.weight"]
    with pytest.raises(CheckpointError, match=r"model\.embed_tokens\.weight had other numbers"):
        merge(load_model(tmp_path / "other"), adapter)


def test_numbers_that_are_not_finite_are_refused(lora, tmp_path):
    change_file(lora, lambda t: t.update({f"{Q}.lora_A.weight": torch.full((3, 16), float("nan"))}))
    with pytest.raises(CheckpointError, match="infinite or NaN"):
        read_adapter(lora, load_model(tmp_path / "base"))


def test_a_pickle_is_refused_with_the_line_that_converts_it(lora):
    tensors = safetensors.torch.load_file(lora / "adapter_model.safetensors")
    torch.save(tensors, lora / "adapter_model.bin")
    wanted = read_adapter(lora)
    (lora / "adapter_model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"only the pickle adapter_model\.bin") as error:
        read_adapter(lora)
    line = str(error.value).partition("if you trust it: ")[2]
    done = subprocess.run(line.replace("python", sys.executable, 1), shell=True, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name, part in read_adapter(lora).parts.items():
        assert torch.equal(part.a, wanted.parts[name].a)


def test_a_folder_without_an_adapter_says_so(tmp_path):
    with pytest.raises(CheckpointError, match=r"holds no adapter_config\.json"):
        read_adapter(tmp_path)


# ---- merging ---------------------------------------------------------------------------------------------------------


def test_a_merge_is_rounded_once(tmp_path):
    base("llama", tmp_path / "base", dtype=torch.bfloat16)
    model = load_model(tmp_path / "base", "bfloat16")
    name = "model.layers.0.self_attn.q_proj.weight"
    old = model.state_dict()[name].clone()
    part = LowRank(torch.randn(3, 16).bfloat16(), torch.randn(16, 3).bfloat16(), 0.37)
    merge(model, Adapter({name: part}))
    exact = old.double() + 0.37 * (part.b.double() @ part.a.double())
    nearest = exact.float().bfloat16()
    assert (model.state_dict()[name] == nearest).float().mean() > 0.99  # float32 sums may differ where two are equally near
    assert ((model.state_dict()[name].double() - exact).abs() <= exact.abs() * 2**-8 + 1e-9).all()


def test_subtracting_gives_the_weights_back_up_to_one_rounding(lora, tmp_path):
    model = load_model(tmp_path / "base")
    adapter = read_adapter(lora, model)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    merge(model, adapter, keep=False)
    unmerge(model, adapter)
    for name, weight in model.state_dict().items():
        assert (
            torch.allclose(weight, before[name], atol=2e-6, rtol=0)
            if name in adapter.parts
            else torch.equal(weight, before[name])
        )


def test_a_tied_head_cannot_change_alone(tmp_path):
    model = tiny(tie_word_embeddings=True)
    with pytest.raises(CheckpointError, match="shared by embedding and head"):
        merge(model, Adapter({"lm_head.weight": LowRank(torch.ones(1, 6), torch.ones(11, 1), 1.0)}))


def test_a_failed_write_leaves_the_old_folder(lora, tmp_path, monkeypatch):
    model = load_model(tmp_path / "base")
    adapter = read_adapter(lora, model)
    shutil.copytree(lora, tmp_path / "copy")

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("seekling.formats.peft_write.write_safetensors", full)
    with pytest.raises(CheckpointError, match="disk is full"):
        write_adapter(adapter, tmp_path / "copy", model)
    assert {p.name for p in (tmp_path / "copy").iterdir()} == {p.name for p in lora.iterdir()}


# ---- any adapter -----------------------------------------------------------------------------------------------------

MODEL = tiny()
ALL_LINEAR = targets(MODEL.state_dict(), "all-linear")
TARGETS = [*ALL_LINEAR, "model.layers.1.mlp.gate.weight", "lm_head.weight"]


@st.composite
def adapters(draw):
    """An adapter of some of the tiny model's matrices, each with its own rank, scale and dtype."""
    parts = {}
    for name in draw(st.lists(st.sampled_from(TARGETS), min_size=1, max_size=8, unique=True)):
        *lead, outputs, inputs = MODEL.state_dict()[name].shape
        rank, alpha = draw(st.integers(1, 4)), draw(st.sampled_from([1, 2.5, 8, 16]))
        generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
        dtype = draw(st.sampled_from([torch.float32, torch.bfloat16]))
        a, b = (torch.randn(*lead, *shape, generator=generator).to(dtype) for shape in ((rank, inputs), (outputs, rank)))
        parts[name] = LowRank(a, b, alpha / rank)
    return Adapter(parts, "nano")


@settings(max_examples=30)
@given(adapter=adapters(), short=st.booleans(), each=st.booleans())
def test_any_adapter_is_read_as_it_was_written(adapter, short, each, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lora")
    write_adapter(adapter, folder, MODEL if short else None, each_expert=each)
    back = read_adapter(folder, MODEL)
    assert back.parts.keys() == adapter.parts.keys() and back.base_name == "nano"
    for name, part in adapter.parts.items():
        if part.a.dim() == 2 or not each:
            assert torch.equal(back.parts[name].a, part.a) and torch.equal(back.parts[name].b, part.b)
        assert torch.allclose(
            back.parts[name].delta(), part.delta(), atol=0.05 if part.a.dtype == torch.bfloat16 else 1e-5, rtol=0.02
        )


@settings(max_examples=20)
@given(first=adapters(), second=adapters())
def test_any_merges_are_undone_bit_for_bit_in_reverse(first, second):
    model = tiny(dtype=torch.bfloat16)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    one = merge(model, first)
    two = merge(model, second)
    two.undo()
    one.undo()
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


# ---- which layers a description means --------------------------------------------------------------------------------


def test_all_linear_is_every_matrix_but_tables_and_routers():
    left = {name for name, weight in MODEL.state_dict().items() if weight.dim() > 1} - set(
        targets(MODEL.state_dict(), "all-linear")
    )
    assert left == {"model.embed_tokens.weight", "lm_head.weight", "model.layers.1.mlp.gate.weight"}


def test_a_list_holds_ends_of_names_and_a_text_is_a_whole_regular_expression():
    names = MODEL.state_dict()
    layers = [0, 1]
    assert targets(names, ["o_proj"]) == [f"model.layers.{i}.self_attn.o_proj.weight" for i in layers]
    assert targets(names, r"model\.layers\.1\..*o_proj") == ["model.layers.1.self_attn.o_proj.weight"]
    assert targets(names, ["o_proj"], exclude=r".*layers\.0.*") == ["model.layers.1.self_attn.o_proj.weight"]
    assert targets(names, ["experts.down_proj"]) == ["model.layers.1.mlp.experts.down_proj"]


@pytest.mark.parametrize("wrong", [["q_prj"], "o_proj", "("])
def test_a_description_that_means_nothing_is_an_error(wrong):
    with pytest.raises(CheckpointError, match="target_modules"):
        targets(MODEL.state_dict(), wrong)
