"""Small folders modelled after the published facts of real releases: which files, which licences, which components.

Facts: the Model Openness Tool's entries (github.com/lfai/model_openness_tool, models/*.yml at 8b5d30e, May 2026) and the
makers' own cards. Weights are a few random numbers; licence texts are SPDX's, or short texts that state the clauses the real
ones are known for. Names of makers are there to say what is imitated; nothing here is theirs.
"""

import io
import json
import zipfile

import torch
from safetensors.torch import save_file

from seekling.release.licences import text_of

MINIMAX_CLAUSE = (
    "Our only modification is that, if the Software (or any derivative works thereof) is used for any of your commercial "
    'products or services, you shall prominently display "MiniMax M2.5" on the user interface of such product or service.'
)
LLAMA_LICENCE = """LLAMA 3.1 COMMUNITY LICENSE AGREEMENT
Version of a test that names the clauses of the real one.

1. License Rights and Redistribution. You are granted a non-exclusive, worldwide licence to use, reproduce, distribute, create
derivative works of and modify the Materials. You must prominently display "Built with Llama" on a related website.
Your use of the Llama Materials must adhere to the Acceptable Use Policy, which is hereby incorporated by reference.

2. Additional Commercial Terms. If the monthly active users of the products or services made available by or for Licensee is
greater than 700 million monthly active users in the preceding calendar month, you must request a license from Meta.
"""
DEEPSEEK_LICENCE = """DEEPSEEK LICENSE AGREEMENT
Version of a test that names the clauses of the real one.

5. Use-based restrictions. The restrictions set forth in Attachment A are considered Use-based restrictions. Therefore You
cannot use the Model and the Derivatives of the Model for the specified restricted uses.

Attachment A. You agree not to use the Model or Derivatives of the Model in any way that violates any applicable law; for
military use in any way; for the purpose of exploiting or harming minors.
"""
CARD = """# {name}

## Model description

A language model, pre-trained. {more}

## How to use

Load it with transformers.

## Limitations and bias

It makes mistakes and knows nothing for sure; do not use it where a mistake would do harm to somebody. It has seen text of its
time and repeats what was in there, with all its prejudices, and it has no idea of what has happened since.

## Evaluation

| benchmark | score |
|---|---|
| LAMBADA | 57.2 |
"""


def weights(folder, name="model.safetensors"):
    save_file({"w": torch.arange(6.0).reshape(2, 3)}, folder / name, metadata={"format": "pt"})


def torch_pickle(path, module="collections", name="OrderedDict"):
    """What torch.save writes, made by hand: a zip with data.pkl, here one that imports ``module.name``."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02c" + f"{module}\n{name}\n".encode() + b"q\x00)Rq\x01.")
        archive.writestr("archive/version", b"3\n")
    path.write_bytes(buffer.getvalue())


def card(folder, matter, name, more=""):
    (folder / "README.md").write_text(f"---\n{matter.strip()}\n---\n" + CARD.format(name=name, more=more))


def config(folder, model_type, **more):
    classes = {"architectures": [model_type.title().replace("_", "") + "ForCausalLM"]}
    (folder / "config.json").write_text(json.dumps({"model_type": model_type, **classes, **more}))


def mot(path, name, producer, distribution, components):
    """A file as the Model Openness Tool writes it; ``components``: name -> (licence or None, address or None)."""
    lines = ["framework:", "  name: 'Model Openness Framework'", "  version: '1.0'", "  date: '2024-12-15'", "release:"]
    lines += [f"  name: {name}", f"  producer: {producer}", "  license:", "    distribution:", f"      name: {distribution}"]
    lines += ["      path: ''", "  components:"]
    for component, (licence, address) in components.items():
        lines += [f"    - name: '{component}'"]
        lines += [f"      license: '{licence}'"] if licence else []
        lines += [f"      component_path: '{address}'"] if address else []
    path.write_text("\n".join(lines) + "\n")
    return path


def pythia(folder):
    """Pythia-1B (EleutherAI): Apache-2.0; code, data, 154 checkpoints, data order published; class I, OSAID pass.

    Its repository on the hub has model.safetensors and a pytorch_model.bin beside it, and no LICENSE file.
    """
    card(folder, "language: [en]\nlicense: apache-2.0\ndatasets: [EleutherAI/the_pile]", "Pythia-1B",
         "On the Pile. Checkpoints are branches: revision=\"step3000\". https://github.com/EleutherAI/pythia")  # fmt: skip
    config(folder, "gpt_neox")
    weights(folder)
    torch_pickle(folder / "pytorch_model.bin")
    mot(folder / "mof.yml", "Pythia-1B", "EleutherAI", "Apache-2.0", {
        "Model architecture": (None, None),
        "Data preprocessing code": ("MIT", "https://github.com/EleutherAI/the-pile"),
        "Training code": ("MIT", None), "Inference code": (None, None),
        "Evaluation code": ("MIT", "https://github.com/EleutherAI/lm-evaluation-harness"),
        "Supporting libraries and tools": (None, None), "Model parameters (Final)": (None, None),
        "Model parameters (Intermediate)": (None, None), "Datasets": (None, "https://pile.eleuther.ai/"),
        "Evaluation data": (None, None), "Model metadata": (None, None), "Model card": (None, None), "Data card": (None, None),
        "Research paper": ("CC-BY-SA-4.0", "https://arxiv.org/abs/2304.01373"), "Evaluation results": (None, None),
    })  # fmt: skip


def olmo(folder):
    """OLMo-7B-hf (Ai2): Apache-2.0; Dolma, code, checkpoints, logs published; class I, OSAID pass; safetensors only."""
    card(
        folder,
        "language: [en]\nlicense: apache-2.0\ndatasets: [allenai/dolma]",
        "OLMo-7B-hf",
        "https://github.com/allenai/OLMo",
    )
    config(folder, "olmo")
    weights(folder)
    (folder / "LICENSE").write_text(text_of("Apache-2.0"))
    names = (
        "Model architecture", "Data preprocessing code", "Training code", "Inference code", "Evaluation code",
        "Model parameters (Final)", "Model parameters (Intermediate)", "Datasets", "Evaluation data", "Model card", "Data card",
        "Evaluation results",
    )  # fmt: skip
    parts = dict.fromkeys(names, (None, None)) | {"Research paper": ("CC-BY-4.0", "https://arxiv.org/abs/2402.00838")}
    mot(folder / "mof.yml", "OLMo-7B-hf", "Allen Institute for AI", "Apache-2.0", parts)


def deepseek_v3(folder):
    """DeepSeek-V3 (December 2024): code MIT, weights under their own agreement with use limits; no data, no training code."""
    card(
        folder,
        "library_name: transformers",
        "DeepSeek-V3",
        "See arxiv.org/abs/2412.19437, https://github.com/deepseek-ai/DeepSeek-V3",
    )
    config(folder, "deepseek_v3", auto_map={"AutoModelForCausalLM": "modeling_deepseek.DeepseekV3ForCausalLM"})
    weights(folder)
    (folder / "LICENSE-CODE").write_text(text_of("MIT", holder="DeepSeek", year=2023))
    (folder / "LICENSE-MODEL").write_text(DEEPSEEK_LICENCE)
    (folder / "modeling_deepseek.py").write_text("raise SystemExit('a check must not run this')\n")
    (folder / "inference").mkdir()
    (folder / "inference" / "generate.py").write_text("raise SystemExit('a check must not run this')\n")


def deepseek_r1(folder):
    """DeepSeek-R1 (January 2025): MIT for code and weights; paper; no data information, no training code."""
    card(folder, "license: mit\nlibrary_name: transformers", "DeepSeek-R1", "See arxiv.org/abs/2501.12948")
    config(folder, "deepseek_v3", auto_map={"AutoModelForCausalLM": "modeling_deepseek.DeepseekV3ForCausalLM"})
    weights(folder)
    (folder / "LICENSE").write_text(text_of("MIT", holder="DeepSeek", year=2023))
    (folder / "modeling_deepseek.py").write_text("raise SystemExit('a check must not run this')\n")


def gpt_oss(folder):
    """gpt-oss-20b (OpenAI, August 2025): Apache-2.0 with a short usage policy; card on arXiv; no data, no training code."""
    card(folder, "license: apache-2.0\npipeline_tag: text-generation\nlibrary_name: transformers", "gpt-oss-20b",
         "See arxiv.org/abs/2508.10925, https://github.com/openai/gpt-oss")  # fmt: skip
    config(folder, "gpt_oss")
    weights(folder)
    (folder / "LICENSE").write_text(text_of("Apache-2.0"))
    (folder / "USAGE_POLICY").write_text("We ask that you comply with all applicable law.\n")


def llama(folder):
    """Llama-3.1-8B (Meta): community licence with a limit of users, an acceptable use policy and a naming duty."""
    card(
        folder,
        "license: llama3.1\nlibrary_name: transformers\npipeline_tag: text-generation",
        "Llama-3.1-8B",
        "arxiv.org/abs/2407.21783",
    )
    config(folder, "llama")
    weights(folder)
    (folder / "LICENSE").write_text(LLAMA_LICENCE)


def minimax(folder):
    """MiniMax-M2.5 (2026): a file titled MIT with one more clause; the card says other / modified-mit."""
    matter = "license: other\nlicense_name: modified-mit\nlicense_link: LICENSE\nlibrary_name: transformers"
    card(folder, matter, "MiniMax-M2.5", "https://github.com/MiniMax-AI/MiniMax-M2.5")
    config(folder, "minimax_m2")
    weights(folder)
    text = text_of("MIT", holder="MiniMax", year=2026)
    at = text.index("THE SOFTWARE IS PROVIDED")
    (folder / "LICENSE").write_text(text[:at] + MINIMAX_CLAUSE + "\n\n" + text[at:])


def minimax_mirror(folder):
    """A copy of MiniMax-M2.5 whose card was labelled apache-2.0 by mistake."""
    minimax(folder)
    card(folder, "license: apache-2.0\nlibrary_name: transformers", "MiniMax-M2.5")


# ---- what the Model Openness Tool lists of those whose folders say less --------------------------------------------------

_ARXIV = "arXiv.org perpetual non-exclusive license 1.0"


def mot_deepseek_v3(path):
    unlicensed = ("unlicensed", None)
    return mot(path, "DeepSeek-V3", "DeepSeek AI", "''", {
        "Model architecture": ("MIT", None), "Inference code": ("MIT", None), "Supporting libraries and tools": ("MIT", None),
        "Model parameters (Final)": ("DeepSeek License Agreement", None), "Evaluation data": unlicensed,
        "Model metadata": ("DeepSeek License Agreement", None), "Model card": unlicensed, "Technical report": unlicensed,
        "Research paper": (_ARXIV, None), "Evaluation results": unlicensed,
    })  # fmt: skip


def mot_deepseek_r1(path):
    names = (
        "Model architecture", "Inference code", "Supporting libraries and tools", "Model parameters (Final)", "Evaluation data",
        "Model metadata", "Model card", "Technical report", "Evaluation results",
    )  # fmt: skip
    parts = dict.fromkeys(names, (None, None)) | {"Research paper": (_ARXIV, None)}
    return mot(path, "DeepSeek-R1", "DeepSeek AI", "MIT", parts)


def mot_gpt_oss(path):
    names = ("Model architecture", "Inference code", "Model parameters (Final)", "Evaluation results")
    paper = ("CC-BY-4.0", "https://arxiv.org/abs/2508.10925")
    parts = dict.fromkeys(names, (None, None)) | {"Model card": paper, "Technical report": paper}
    return mot(path, "gpt-oss-20b", "OpenAI", "Apache-2.0", parts)


def mot_llama(path):
    names = (
        "Model architecture", "Inference code", "Supporting libraries and tools", "Model parameters (Final)", "Model card",
        "Evaluation results",
    )  # fmt: skip
    parts = dict.fromkeys(names, (None, None)) | {
        "Evaluation data": ("unlicensed", None), "Technical report": ("unlicensed", None), "Research paper": (_ARXIV, None),
    }  # fmt: skip
    return mot(path, "Llama-3.1-8B", "Meta", "Llama 3.1 Community License Agreement", parts)


FOLDERS = (pythia, olmo, deepseek_v3, deepseek_r1, gpt_oss, llama, minimax, minimax_mirror)
