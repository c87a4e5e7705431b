"""16 requests together on the 1.5B dense shape: OpenVINO int4 and Seekling from 4-bit weights, taking turns.

    python benchmarks/openvino_together.py --ov FOLDER --python PYTHON --folder DIR

``--python`` is that of an environment with openvino; ``--ov`` what ``optimum-cli export openvino --task
text-generation-with-past --weight-format int4 --sym --group-size 128 --ratio 1.0`` wrote of that shape; ``--folder`` where
decode.py keeps its ``dense-1.5b.gguf``. Both take 16 prompts of 128 tokens, then write 48 tokens of each, greedy, on the same
threads; tokens a second of the writing count. OpenVINO's loop is numpy around its stateful model, with a hint for latency.
Last line: JSON.
"""

import argparse
import json
import statistics
import subprocess
from pathlib import Path

import torch
from decode import Ours, gguf_of

from seekling.machine_speed import read_bandwidth

PEER = """
import sys, time
import numpy as np
import openvino as ov
folder, threads, rows, prompt, count = sys.argv[1], *map(int, sys.argv[2:6])
core = ov.Core()
hints = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
model = core.compile_model(folder + "/openvino_model.xml", "CPU", hints)
request = model.create_infer_request()
names = {name for port in model.inputs for name in port.names}
random = np.random.default_rng(0)
print("ready", flush=True)
for line in sys.stdin:
    request.reset_state()
    ids, seen = random.integers(100, 20000, (rows, prompt)), 0
    for step in range(count):
        if step == 1:
            start = time.perf_counter()
        width = ids.shape[1]
        given = {"input_ids": ids, "attention_mask": np.ones((rows, seen + width), np.int64),
                 "position_ids": np.tile(np.arange(seen, seen + width), (rows, 1)), "beam_idx": np.arange(rows, dtype=np.int32)}
        request.infer({name: value for name, value in given.items() if name in names})
        seen += width
        ids = request.get_tensor("logits").data[:, -1].argmax(-1)[:, None].astype(np.int64)
    print(rows * (count - 1) / (time.perf_counter() - start), flush=True)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ov", type=Path, required=True)
    parser.add_argument("--python", required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows, prompt, count = 16, 128, 49
    command = [args.python, "-c", PEER, *map(str, (args.ov, args.threads, rows, prompt, count))]
    found: dict[str, list[float]] = {"seekling": [], "openvino": []}
    bandwidth = []
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as peer:
        assert peer.stdin is not None and peer.stdout is not None
        if peer.stdout.readline().strip() != "ready":
            raise SystemExit("OpenVINO did not start; see above")
        ours = Ours(gguf_of("dense-1.5b", args.folder), None, args.threads, 0)
        ours.speak([ours.ids(8)], 3)
        for _ in range(args.rounds):
            bandwidth.append(read_bandwidth(args.threads, 0.5, 1 << 30))
            found["seekling"].append(ours.speak([ours.ids(prompt) for _ in range(rows)], count))
            peer.stdin.write("go\n")
            peer.stdin.flush()
            found["openvino"].append(float(peer.stdout.readline()))
        peer.stdin.close()
    medians = {name: round(statistics.median(values), 1) for name, values in found.items()}
    ratio = round(medians["seekling"] / medians["openvino"], 2)
    print(f"16 requests together: Seekling {medians['seekling']}, OpenVINO {medians['openvino']} tokens/s: {ratio} times")
    out = medians | {"ratio": ratio, "rounds": found, "read_GB_s": round(statistics.median(bandwidth), 1)}
    print(json.dumps(out))


if __name__ == "__main__":
    main()
