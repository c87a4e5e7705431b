"""lm-eval as a real client, from an environment of its own: ``local-completions`` and ``local-chat-completions``.

``SEEKLING_LM_EVAL`` names a Python that has ``lm_eval[api]`` (0.4.13); without it these tests are skipped. The task is made
here: no data set is fetched.
"""

import json
import os
import subprocess
from pathlib import Path

import pytest
from engine_tiny import TOKENIZER, one_thread, tiny_lm  # noqa: F401
from serve_tiny import CONTEXT, serving

from seekling.engine import Engine, Sampling
from seekling.lm import LM

pytestmark = pytest.mark.slow
PYTHON = os.environ.get("SEEKLING_LM_EVAL", "")
ROWS = [{"question": f"{a} + {b} =", "answer": f" {a + b}", "wrong": f" {a + b + 1}"} for a in range(3) for b in range(4)]
TASK = """
task: sums
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: OUTPUT
doc_to_text: "{{question}}"
target_delimiter: ""
"""
CHOICES = (
    TASK
    + """
doc_to_choice: "{{[answer, wrong]}}"
doc_to_target: 0
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""
)
WRITTEN = (
    TASK
    + """
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["\\n"], max_gen_toks: 4, do_sample: false}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""
)


def evaluate(folder: Path, model: str, url: str, *more: str) -> dict:
    """What lm-eval says of the task."""
    if not PYTHON:
        pytest.skip("SEEKLING_LM_EVAL names no Python with lm_eval[api]")
    LM(tiny_lm(max_position_embeddings=CONTEXT).model.float(), TOKENIZER).save(folder / "tokenizer")
    arguments = f"base_url={url},num_concurrent=4,max_retries=1,model=tiny,tokenizer={folder / 'tokenizer'}"
    arguments += ",tokenized_requests=True,tokenizer_backend=huggingface" if model == "local-completions" else ""
    command = [PYTHON, "-m", "lm_eval", "run", "--model", model, "--model_args", arguments, "--tasks", "sums"]
    command += ["--include_path", str(folder), "--output_path", str(folder / "out"), "--log_samples", *more]
    env = os.environ | {
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(folder / "hf"),
        "OPENAI_API_KEY": "none",
        "TOKENIZERS_PARALLELISM": "false",
    }
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = next((folder / "out").rglob("results_*.json"))
    return json.loads(found.read_text())["results"]["sums"]


def samples_of(folder: Path) -> list[dict]:
    """What lm-eval has written down of every question."""
    return [json.loads(line) for line in next((folder / "out").rglob("samples_*.jsonl")).read_text().splitlines()]


def task(folder: Path, text: str, output: str) -> None:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (folder / "sums.yaml").write_text(text.replace("DATA", str(folder / "rows.jsonl")).replace("OUTPUT", output))


@pytest.fixture(scope="module")
def served():
    with serving(Engine(tiny_lm(max_position_embeddings=CONTEXT), max_rows=4, cache_tokens=4096)) as it:
        yield it


def test_log_likelihoods_are_those_of_the_engine(served, tmp_path):
    task(tmp_path, CHOICES, "multiple_choice")
    got = evaluate(tmp_path, "local-completions", f"{served.url}/v1/completions")

    def score(text: str, after: str) -> float:
        ids, front = TOKENIZER.encode(text + after), len(TOKENIZER.encode(text))
        asked = Sampling(max_tokens=1, prompt_logprobs=True)
        return sum(served.engine.generate([ids], asked)[0].prompt_logprobs[front:])

    for sample in samples_of(tmp_path):
        row = sample["doc"]
        told = [float(resp[0][0]) for resp in sample["resps"]]
        assert told == pytest.approx([score(row["question"], row["answer"]), score(row["question"], row["wrong"])], abs=1e-3)
    assert 0 <= got["acc,none"] <= 1


def test_chats_are_written_and_compared(served, tmp_path):
    task(tmp_path, WRITTEN, "generate_until")
    got = evaluate(tmp_path, "local-chat-completions", f"{served.url}/v1/chat/completions", "--apply_chat_template")
    assert got["exact_match,none"] == 0.0  # a random model knows no sums
    samples = samples_of(tmp_path)
    assert len(samples) == len(ROWS) and all(isinstance(sample["resps"][0][0], str) for sample in samples)
