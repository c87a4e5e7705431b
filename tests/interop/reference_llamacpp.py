"""Does llama.cpp compute a reference model's golden logits?

    seekling reference --arch v3 --out tiny-v3
    python tests/interop/reference_llamacpp.py tiny-v3

Needs llama-cpp-python, or a llama.cpp built elsewhere: LLAMA_CPP_LIB_PATH names the folder with its libllama, PYTHONPATH the
unpacked source distribution of llama-cpp-python. One JSON line a prompt; exit code 1 where a logit is further off than the
folder allows for float32.
"""

import json
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

F32 = 0  # ggml's number of the type, for the cache
CONTROL = 19  # ids below are control tokens


def main(folder: Path) -> int:
    import llama_cpp

    facts = json.loads((folder / "golden.json").read_text("utf-8"))
    golden = load_file(folder / "golden.safetensors")
    longest = max(len(prompt["ids"]) for prompt in facts["prompts"].values())
    options = dict(n_ctx=longest + 1, n_batch=longest + 1, n_threads=1, logits_all=True, flash_attn=False, verbose=False)
    model = llama_cpp.Llama(str(folder / "model.gguf"), type_k=F32, type_v=F32, **options)
    good = True
    for name, prompt in facts["prompts"].items():
        model.reset()
        model.eval(prompt["ids"])
        off = np.abs(np.array(model.scores[: len(prompt["ids"])]) - golden[f"{name}.logits"])
        text = "".join(piece["text"] for piece in prompt["pieces"] if not piece["control"])
        ids = model.tokenize(text.encode(), add_bos=False, special=False)
        told = {"arch": facts["arch"], "prompt": name, "largest": float(off.max()), "median": float(np.median(off))}
        print(json.dumps({**told, "same_ids": ids == [i for i in prompt["ids"] if i >= CONTROL]}))
        good &= float(off.max()) <= facts["tolerance"]["float32"]
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
