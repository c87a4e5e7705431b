"""Evaluation of a release: scores and samples of the very weights that it holds, and the files that say so."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seekling.release import layout, scores
from seekling.release.machine_facts import this_machine
from seekling.release.stage_scores import stage_scores

if TYPE_CHECKING:
    from seekling.data.prepare import Prepared
    from seekling.lm import LM
    from seekling.release.chain import Stage
    from seekling.release.material import Release

HELLO = ("Hello! Who are you?", "What is 3 plus 4?", "Tell me a story about a dog.")
SAMPLE_SOURCES, PROMPT_TOKENS, NEW_TOKENS = 6, 12, 96


def evaluate(release: "Release", lm: "LM", first: "Stage | None", prepared: "Prepared | None") -> None:
    """Put scores and samples into the release: what the later stages are judged by, then held-out text.

    Args:
        first: the stage that trained from random weights, with the text it read.
    """
    import numpy as np

    later = tuple(s for s in release.chain.stages if s.verb != "pretrain")
    if later and lm.tokenizer is not None:
        release.scores, release.answers = stage_scores(later, lm)
    release.samples = draw_samples(lm, prepared)
    if first is None or prepared is None or lm.tokenizer is None:
        return
    if lm.tokenizer.vocab_size != prepared.tokenizer.vocab_size:
        release.notes.append("the vocabulary changed after pretraining, so held-out text was not scored again")
        return
    counts = np.bincount(np.asarray(prepared.train.tokens, np.int64), minlength=lm.config.vocab_size)
    length = min(first.value("seq_len"), lm.config.max_position_embeddings)
    found = scores.heldout_scores(lm.model, prepared.heldout, lm.tokenizer, length, counts)
    reached = (first.final or {}).get("bpb")
    if isinstance(reached, int | float):
        if later:
            found[0].chance["after pretraining"] = {"bits_per_byte": float(reached)}
        else:
            found[0].logged["bits_per_byte"] = float(reached)
    release.scores += found


def draw_samples(lm: "LM", prepared: "Prepared | None") -> list[dict[str, Any]]:
    """Fixed prompts: beginnings of held-out documents, and three questions where there is a chat template; seed 0."""
    from seekling.engine import Engine, Sampling

    prompts: list[tuple[str, str, Any]] = []
    tokenizer = lm.tokenizer
    if tokenizer is None:
        return []
    if prepared is not None:
        for name, stream in list(prepared.heldout.items())[:SAMPLE_SOURCES]:
            ids = [int(i) for i in stream.document(0)[: PROMPT_TOKENS + 1]]
            prompts.append((name, tokenizer.decode(ids), ids))
    if getattr(tokenizer, "chat_template", None) or (lm.path is not None and (lm.path / "chat_template.jinja").is_file()):
        prompts += [("chat", f"{text}\n", [{"role": "user", "content": text}]) for text in HELLO]
    if not prompts:
        return []
    room = lm.config.max_position_embeddings - PROMPT_TOKENS - 2
    settings = Sampling(max_tokens=max(1, min(NEW_TOKENS, room)), temperature=0.7, top_p=0.95, seed=0)
    answers = Engine(lm).generate([asked for _, _, asked in prompts], settings)
    return [
        {"source": name, "prompt": prompt, "text": answer.text, "temperature": 0.7, "top_p": 0.95, "seed": 0}
        for (name, prompt, _), answer in zip(prompts, answers, strict=True)
    ]


def write_evaluation(folder: Path, release: "Release") -> None:
    """evaluation/results.json and evaluation/samples.jsonl."""
    (folder / layout.RESULTS).parent.mkdir()
    facts = {
        "model": release.name,
        "date": release.released.timestamp(),
        "git_hash": release.code.get("commit"),
        "command": evaluation_command(release),
        "device": "cpu",
        "dtype": "float32",
        "machine": this_machine(),
    }
    text = json.dumps(scores.results_json(release.scores, facts), ensure_ascii=False, indent=1, allow_nan=False)
    (folder / layout.RESULTS).write_text(text + "\n", "utf-8")
    answered = [
        {"source": row["task"], "prompt": row["question"], "text": row["text"], "answer": row["answer"], "right": row["right"],
         "temperature": 0.0}
        for row in release.answers
    ]  # fmt: skip
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in (*release.samples, *answered))
    (folder / layout.SAMPLES).write_text(lines, "utf-8")


def evaluation_command(release: "Release") -> str:
    """What made the scores."""
    return f"seekling release {release.chain.last.run.name} --out {release.name}"
