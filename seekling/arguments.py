"""What each verb can be told: its flags and their help. Nothing heavy is imported, so that ``--help`` answers at once."""

import argparse
import difflib
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

from seekling.errors import RecipeError
from seekling.quants import QUANTS

if TYPE_CHECKING:
    from seekling.tree import Tree


class Parser(argparse.ArgumentParser):
    """argparse that raises RecipeError and names the nearest flag instead of printing its whole usage."""

    def __init__(self, prog: str, usage: str, description: str):
        super().__init__(prog, usage, description, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        raise RecipeError(f"{message}; see {self.prog} --help")

    def parse_all(self, argv: Sequence[str]) -> argparse.Namespace:
        args, extra = self.parse_known_intermixed_args(argv)  # flags may stand between RUN and PROMPT
        if extra:
            flag = extra[0].split("=")[0]
            near = difflib.get_close_matches(flag, self._option_string_actions, n=1)
            hint = f"did you mean {near[0]}?" if near else f"see {self.prog} --help"
            raise RecipeError(f"{self.prog} does not know {extra[0]!r}; {hint}")
        return args


def _tree_arguments(parser: Parser, tree: "type[Tree]", resume: bool = True) -> None:
    """The flags of a recipe; with ``resume`` also the one that continues a run."""
    if resume:
        parser.add_argument("--resume", metavar="RUN", help="continue a run exactly where its newest checkpoint is")
    parser.add_argument("--recipe", metavar="FILE", help="start from this recipe.toml (or run folder); flags override it")
    tree.add_flags(parser)


def run(parser: Parser) -> None:
    from seekling.recipe import Recipe
    from seekling.train.story_recipe import StoryRecipe

    _tree_arguments(parser, Recipe)
    StoryRecipe.add_flags(parser)


def pretrain(parser: Parser) -> None:
    from seekling.recipe import Recipe

    _tree_arguments(parser, Recipe)


def sft(parser: Parser) -> None:
    from seekling.train.sft_recipe import SftRecipe

    shown = "print N conversations with what would be learned from, and stop"
    parser.add_argument("--show-mask", type=int, nargs="?", const=2, default=0, metavar="N", help=shown)
    _tree_arguments(parser, SftRecipe)


def grpo(parser: Parser) -> None:
    from seekling.train.grpo_recipe import GrpoRecipe

    _tree_arguments(parser, GrpoRecipe)


def dpo(parser: Parser) -> None:
    from seekling.train.dpo_recipe import DpoRecipe

    _tree_arguments(parser, DpoRecipe)


def distill(parser: Parser) -> None:
    from seekling.train.distill_recipe import DistillRecipe

    _tree_arguments(parser, DistillRecipe)


def _path_argument(parser: Parser, what: str = "run folder or checkpoint folder") -> None:
    parser.add_argument("path", metavar="RUN", help=what)


def _sampling_arguments(parser: Parser, max_tokens: int) -> None:
    parser.add_argument("--max-tokens", type=int, default=max_tokens, metavar="N", help=f"longest answer [{max_tokens}]")
    parser.add_argument("--temperature", type=float, default=0.7, metavar="X", help="0 = the likeliest token always [0.7]")
    parser.add_argument("--top-p", type=float, default=1.0, metavar="X", help="share of probability kept [1.0]")
    parser.add_argument("--top-k", type=int, default=0, metavar="N", help="likeliest tokens kept; 0 = all [0]")
    parser.add_argument("--seed", type=int, default=None, metavar="N", help="seed of the draws [a fresh one]")
    parser.add_argument("--stop", action="append", default=[], metavar="TEXT", help="end the answer before this text")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float64"), default=None, help="compute type [float32]")
    parser.add_argument("--quant", choices=QUANTS, default=None, help="quantise the weights; -64: groups of 64")
    parser.add_argument("--threads", type=int, default=None, metavar="N", help="worker threads [usable cores]")


def generate(parser: Parser) -> None:
    _path_argument(parser)
    parser.add_argument("prompt", nargs="?", default=None, metavar="PROMPT", help="text to continue; absent or -: read stdin")
    parser.add_argument("--chat", action="store_true", help="the prompt is a chat message, not text to continue")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    _sampling_arguments(parser, 200)


def chat(parser: Parser) -> None:
    parser.add_argument("path", nargs="?", default=None, metavar="MODEL", help="run, checkpoint or pulled model [newest run]")
    parser.add_argument("--system", default=None, metavar="TEXT", help="system message")
    parser.add_argument("--think", action="store_true", help="let the model reason before it answers")
    _sampling_arguments(parser, 512)


def serve(parser: Parser) -> None:
    models = "runs, checkpoints or pulled models, chosen by name [newest run]"
    parser.add_argument("paths", nargs="*", metavar="MODEL", help=models)
    parser.add_argument("--host", default="127.0.0.1", metavar="ADDR", help="address to listen on [127.0.0.1]")
    parser.add_argument("--port", type=int, default=8000, metavar="N", help="port; 0 takes a free one [8000]")
    name = "what clients call the model [its folder's name]; of several models once for each, in order"
    parser.add_argument("--name", action="append", default=[], metavar="NAME", help=name)
    alias = "a further name for the model; of several models MODEL:NAME"
    parser.add_argument("--alias", action="append", default=[], metavar="NAME", help=alias)
    adapter = "a LoRA adapter, chosen by its name as model; of several models MODEL:NAME=FOLDER"
    parser.add_argument("--adapter", action="append", default=[], metavar="NAME=FOLDER", help=adapter)
    parser.add_argument("--max-tokens", type=int, default=None, metavar="N", help="most tokens of an answer [the context]")
    parser.add_argument("--rows", type=int, default=16, metavar="N", help="most answers computed together [16]")
    parser.add_argument("--max-queue", type=int, default=256, metavar="N", help="most answers that wait; then 503 [256]")
    parser.add_argument(
        "--cache-tokens", type=int, default=None, metavar="N", help="size of each model's cache in tokens [1 GiB in all]"
    )
    parser.add_argument("--rpm", type=int, default=0, metavar="N", help="requests a minute of one key; 0 = any number [0]")
    parser.add_argument("--concurrent", type=int, default=0, metavar="N", help="requests at a time of one key; 0 = any [0]")
    parser.add_argument("--daily-tokens", type=int, default=0, metavar="N", help="tokens a day of one key; 0 = any [0]")
    parser.add_argument("--usage", default=None, metavar="FILE", help="what keys have used [usage.db beside the keys]")
    parser.add_argument("--public", action="store_true", help="may be reached by others: needs a key, checks no host name")
    parser.add_argument("--keys", default=None, metavar="FILE", help="the keys' file [~/.config/seekling/keys.json]")
    parser.add_argument("--allow-host", action="append", default=[], metavar="NAME", help="a host name to answer for")
    parser.add_argument("--allow-origin", action="append", default=[], metavar="URL", help="an origin whose pages may ask")
    policy = "policy file, default or off [off; default with --public]"
    parser.add_argument("--moderation", default=None, metavar="FILE", help=policy)
    parser.add_argument("--label", choices=("eu", "cn", "none"), default="none", help="mark answers as made by a machine")
    parser.add_argument("--label-producer", default="seekling", metavar="NAME", help="who answers for the content [seekling]")
    parser.add_argument("--watermark", default=None, metavar="FILE", help="mark drawn answers with this key [no mark]")
    log = "folder of the audit log, or off [off; ~/.local/state/seekling/audit with --public]"
    parser.add_argument("--audit", default=None, metavar="DIR", help=log)
    parser.add_argument("--audit-days", type=int, default=180, metavar="N", help="days the audit log is kept [180]")
    parser.add_argument("--audit-texts", action="store_true", help="keep answers' texts in the audit log, not only hashes")
    parser.add_argument("--drain", type=int, default=60, metavar="S", help="seconds open answers get when told to stop [60]")
    parser.add_argument("--speculate", choices=("ngram", "mtp"), default=None, help="draft tokens ahead; same answers, sooner")
    parser.add_argument("--cache-dtype", choices=("bf16", "int8"), default=None, help="int8: half the cache's memory [bf16]")
    spill = "folder for cached prompts that memory has no room for; kept over restarts [none]"
    parser.add_argument("--cache-spill", default=None, metavar="DIR", help=spill)
    parser.add_argument("--cache-spill-gb", type=float, default=4.0, metavar="X", help="most gigabytes of that folder [4]")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default=None, help="compute type [as stored]")
    parser.add_argument("--quant", choices=QUANTS, default=None, help="quantise the weights; -64: groups of 64")
    parser.add_argument("--threads", type=int, default=None, metavar="N", help="worker threads [usable cores]")


def bench(parser: Parser) -> None:
    _path_argument(parser, "run, checkpoint, .gguf file or pulled model")
    parser.add_argument("--quant", choices=QUANTS, default=None, help="quantise the weights; -64: groups of 64")
    parser.add_argument("--runner", choices=("auto", "native", "torch"), default="auto", help="what computes [auto]")
    parser.add_argument("--threads", type=int, default=None, metavar="N", help="worker threads [usable cores]")
    parser.add_argument("--prompt", type=int, default=None, metavar="N", help="tokens of the prefill [512, or the context]")
    parser.add_argument("--tokens", type=int, default=None, metavar="N", help="tokens each request writes [64]")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 16], metavar="N", help="requests together [1 8 16]")
    parser.add_argument("--depth", type=int, default=None, metavar="N", help="also decode behind so many tokens")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="repetitions; the median counts [3]")
    parser.add_argument("--speculate", choices=("ngram", "mtp"), default=None, help="also measure decode with drafts")
    parser.add_argument("--price", type=float, default=None, metavar="X", help="euros an hour of this machine [no costs shown]")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def keys(parser: Parser) -> None:
    parser.add_argument("action", choices=("add", "list", "revoke"), metavar="ACTION", help="add, list or revoke")
    parser.add_argument("name", nargs="?", default=None, metavar="NAME", help="of the key; revoke takes its id too")
    scopes = "infer, metrics or admin; may be repeated [infer]"
    parser.add_argument("--scope", action="append", default=[], metavar="WORD", help=scopes)
    parser.add_argument("--days", type=float, default=None, metavar="X", help="the key expires after so many days [never]")
    parser.add_argument("--rpm", type=int, default=None, metavar="N", help="its requests a minute [the server's]")
    parser.add_argument("--concurrent", type=int, default=None, metavar="N", help="its requests at a time [the server's]")
    parser.add_argument("--daily-tokens", type=int, default=None, metavar="N", help="its tokens a day, UTC [the server's]")
    parser.add_argument("--file", default=None, metavar="FILE", help="the keys' file [~/.config/seekling/keys.json]")
    parser.add_argument("--usage", default=None, metavar="FILE", help="what keys have used [usage.db beside the keys]")
    parser.add_argument("--json", action="store_true", help="print JSON")


def conformance(parser: Parser) -> None:
    only = "chat, tools, errors, completions, embeddings, responses, anthropic, ollama, doors; may be repeated [all]"
    _probed(parser, "any server, such as http://127.0.0.1:8000", "SURFACE", only)


def redteam(parser: Parser) -> None:
    only = "a category, such as 'auth bypass'; may be repeated [all]"
    _probed(parser, "a server of yours, such as http://127.0.0.1:8000", "CATEGORY", only)


def _probed(parser: Parser, url: str, part: str, only: str) -> None:
    """The server that is asked, and which parts of the list it is asked."""
    parser.add_argument("url", metavar="URL", help=url)
    parser.add_argument("--model", default=None, metavar="NAME", help="the model to ask [the first of /v1/models]")
    parser.add_argument("--key", default=None, metavar="KEY", help="sent as Bearer and as x-api-key")
    parser.add_argument("--only", action="append", default=[], metavar=part, help=only)
    parser.add_argument("--timeout", type=float, default=120.0, metavar="S", help="seconds one answer may take [120]")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def pull(parser: Parser) -> None:
    parser.add_argument("name", nargs="?", default=None, metavar="MODEL", help="a short name, or owner/name[@revision]")
    parser.add_argument("--from", dest="source", choices=("hf", "modelscope"), default=None, help="the model hub [hf]")
    parser.add_argument("--endpoint", default=None, metavar="URL", help="the hub's address [HF_ENDPOINT, MODELSCOPE_ENDPOINT]")
    parser.add_argument("--quant", default=None, metavar="TYPE", help="the GGUF file of this type, such as Q4_K_M")
    parser.add_argument("--file", default=None, metavar="NAME", help="this .gguf or .safetensors file")
    parser.add_argument("--out", default=None, metavar="DIR", help="pull to this folder instead of the cache")
    parser.add_argument("--anyway", action="store_true", help="also pull a model that would not load here")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def export(parser: Parser) -> None:
    parser.add_argument("path", metavar="MODEL", help="run, checkpoint folder, pulled model or .gguf file")
    parser.add_argument("--to", choices=("hf", "fp8", "gguf"), required=True, help="Hugging Face folder, FP8 blocks, GGUF file")
    parser.add_argument("--out", required=True, metavar="DIR", help="new folder (or a name ending in .gguf)")
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        default=None,
        help="of the weights [as they are; of GGUF bfloat16]",
    )
    parser.add_argument(
        "--quant", choices=("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "q4_k"), default=None, help="GGUF type [bf16]"
    )
    parser.add_argument(
        "--scales", choices=("float", "ue8m0"), default=None, help="of FP8 blocks; ue8m0 = powers of two [float]"
    )
    parser.add_argument("--shard-gb", type=float, default=None, metavar="X", help="largest file in GB [5]")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def quantize(parser: Parser) -> None:
    parser.add_argument("path", metavar="MODEL", help="run, checkpoint folder, pulled model or .gguf file")
    parser.add_argument("--to", choices=("int8", "int4"), required=True, help="bits of a weight")
    parser.add_argument("--out", required=True, metavar="DIR", help="new folder")
    calibrate = (
        "text to calibrate and measure with: a file or folder, default = the built-in corpus, none = measure only [default]"
    )
    parser.add_argument("--calibrate", default="default", metavar="DATA", help=calibrate)
    parser.add_argument(
        "--calibration-tokens", type=int, default=4096, metavar="N", help="tokens the layers are watched on [4096]"
    )
    parser.add_argument("--tokens", type=int, default=16384, metavar="N", help="held-out tokens measured on [16384]")
    parser.add_argument("--threads", type=int, default=None, metavar="N", help="worker threads [usable cores]")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def inspect(parser: Parser) -> None:
    _path_argument(parser, "model folder, run, .gguf file, adapter folder, config.json, or a pulled model's name")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def reference(parser: Parser) -> None:
    parser.add_argument("--arch", default=None, metavar="NAME", help="v2, v3, v32 or v4: the generation of the model to write")
    parser.add_argument("--out", default=None, metavar="DIR", help="write model, golden numbers and README to this folder")
    parser.add_argument("--seed", type=int, default=None, metavar="N", help="seed of the weights [0]")
    parser.add_argument("--check", default=None, metavar="DIR", help="compare this engine with a folder's golden numbers")
    parser.add_argument("--logits", default=None, metavar="FILE", help="compare another engine's tensors (safetensors) instead")
    parser.add_argument("--json", action="store_true", help="print JSON")


def merge(parser: Parser) -> None:
    parser.add_argument("path", metavar="BASE", help="run, checkpoint folder or pulled model")
    parser.add_argument("adapter", metavar="ADAPTER", help="folder with adapter_config.json and adapter_model.safetensors")
    parser.add_argument("--out", required=True, metavar="DIR", help="new folder")
    parser.add_argument("--unmerge", action="store_true", help="BASE is a merged model: take the adapter out again")
    parser.add_argument("--any-base", action="store_true", help="merge into other weights than the adapter was trained on")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default=None, help="of the weights [the base's]")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def plan(parser: Parser) -> None:
    parser.add_argument("--config", metavar="NAME", help="a size, v2-lite, v2, v3, a config.json or its folder")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--tflops", type=float, metavar="X", help="peak of one device in TFLOP/s [this machine, measured]")
    parser.add_argument("--utilisation", type=float, metavar="X", help="share of the peak that training reaches [0.25]")
    parser.add_argument("--hours-per-trillion", type=float, metavar="X", help="device-hours a trillion tokens, if known")
    parser.add_argument("--devices", type=int, default=1, metavar="N", help="devices at work [1]")
    parser.add_argument("--price", type=float, metavar="X", help="dollars a device-hour [0.05; published configs 2]")
    from seekling.recipe import Recipe

    _tree_arguments(parser, Recipe, resume=False)


def doctor(parser: Parser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="measure for less than a second")


def evaluate(parser: Parser) -> None:
    parser.add_argument("path", metavar="MODEL", help="run, checkpoint folder, .gguf file or pulled model")
    suites = "bits, pairs, arithmetic, cloze, piqa, openbookqa, commonsense_qa, boolq, mmlu [the first four]"
    parser.add_argument("--suite", nargs="+", action="extend", default=[], metavar="NAME", help=suites)
    parser.add_argument("--tasks", nargs="+", action="extend", default=[], metavar="NAME", help="tasks as in grpo: NAME@LEVEL")
    parser.add_argument("--drawn", type=int, default=0, metavar="K", help="also pass@1, maj@K, pass@K of tasks [0]")
    parser.add_argument("--limit", type=int, default=None, metavar="N", help="items of a suite, problems of a task [all; 200]")
    parser.add_argument("--text", default=None, metavar="RUN", help="bits and cloze ask this run's held-out text [its own]")
    parser.add_argument("--tokens", type=int, default=None, metavar="N", help="held-out tokens a source [all]")
    parser.add_argument("--think", action="store_true", help="tasks: let the model reason before it answers")
    parser.add_argument("--no-tagged", dest="tagged", action="store_false", help="tasks: answers stand without <answer> tags")
    parser.add_argument("--system", default=None, metavar="TEXT", help="tasks: system message")
    parser.add_argument("--max-tokens", type=int, default=64, metavar="N", help="tasks: longest answer [64]")
    parser.add_argument("--out", default=None, metavar="FILE", help="also write the results as JSON, in lm-eval's shape")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    parser.add_argument("--threads", type=int, default=None, metavar="N", help="worker threads [usable cores]")


def report(parser: Parser) -> None:
    _path_argument(parser, "run folder")
    parser.add_argument("--watts", type=float, default=None, metavar="X", help="what this machine draws [10 a core]")
    parser.add_argument("--price", type=float, default=None, metavar="X", help="dollars an hour of this machine [0.05]")


def release_check(parser: Parser) -> None:
    parser.add_argument("path", metavar="DIR", help="a model's folder, ours or any other, or owner/name of a hub repository")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--all", action="store_true", help="show also what passed, and every line")
    parser.add_argument("--badge", default=None, metavar="FILE", help="write the verdict as an SVG badge")
    parser.add_argument("--key", default=None, metavar="FILE", help="the publisher's public key (PEM), to verify the signature")
    parser.add_argument("--smoke", type=int, nargs="?", const=0, default=None, metavar="N", help="train N first steps again")
    parser.add_argument("--mof", default=None, metavar="FILE", help="a Model Openness Tool file that speaks for the folder")
    parser.add_argument("--from", dest="source", choices=("hf", "modelscope"), default=None, help="the model hub [hf]")
    parser.add_argument("--endpoint", default=None, metavar="URL", help="the hub's address [HF_ENDPOINT, MODELSCOPE_ENDPOINT]")


def reproduce(parser: Parser) -> None:
    parser.add_argument("path", metavar="DIR", help="a folder that seekling release wrote")
    parser.add_argument("--steps", type=int, default=None, metavar="N", help="only the first N steps [every stage whole]")
    parser.add_argument("--data", default=None, metavar="DIR", help="where the text files lie that are not in the release")
    parser.add_argument("--base", default=None, metavar="DIR", help="the base model it started from [as pulled]")
    parser.add_argument("--keep", default=None, metavar="DIR", help="keep the runs there [they are removed]")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def sandbox(parser: Parser) -> None:
    parser.add_argument("file", nargs="?", default=None, metavar="FILE", help="Python program; - reads it from stdin")
    parser.add_argument("--stdin", default=None, metavar="FILE", help="what the program reads [nothing]")
    parser.add_argument("--seconds", type=float, default=5.0, metavar="X", help="processor time [5]")
    parser.add_argument("--wall-seconds", type=float, default=None, metavar="X", help="time by the clock [twice that and one]")
    parser.add_argument("--memory-mb", type=int, default=512, metavar="N", help="address space [512]")
    parser.add_argument("--disk-mb", type=int, default=16, metavar="N", help="size of its working folder [16]")
    parser.add_argument("--output-kb", type=int, default=1024, metavar="N", help="what it may print [1024]")
    parser.add_argument("--check", action="store_true", help="try to break out in every way we know, and say what held")
    parser.add_argument("--unconfined", action="store_true", help="run even where nothing can confine it, with your rights")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def release(parser: Parser) -> None:
    parser.add_argument("path", metavar="RUN", help="finished run, or a folder that seekling merge wrote")
    parser.add_argument("--out", required=True, metavar="DIR", help="new folder of the release")
    parser.add_argument("--name", default=None, metavar="NAME", help="of the model [the run's folder name]")
    parser.add_argument("--release-version", default="1.0", metavar="TEXT", help="of the release [1.0]")
    parser.add_argument("--licence", default="MIT", metavar="ID", help="SPDX licence of the weights [MIT]")
    parser.add_argument("--documents", default="CC-BY-4.0", metavar="ID", help="of report, cards and results [CC-BY-4.0]")
    parser.add_argument(
        "--about", default=None, metavar="FILE", help="TOML with what no run knows: producer, licences of own data …"
    )
    parser.add_argument("--with-data", action="store_true", help="put all training text into the release")
    parser.add_argument("--no-checkpoints", action="store_true", help="list intermediate checkpoints without including them")
    parser.add_argument("--gguf", action="store_true", help="also write a GGUF file in bfloat16")
    parser.add_argument("--int8", action="store_true", help="also write a GGUF file with 8-bit weights (Q8_0)")
    parser.add_argument("--git", action="store_true", help="make the folder a Git repository with Large File Storage")
    parser.add_argument("--sign", default=None, metavar="KEY", help="sign with this private key (PEM, P-256, P-384 or P-521)")
    parser.add_argument("--offline", action="store_true", help="ask no package index for the lock file's hashes")
    parser.add_argument("--watts", type=float, default=None, metavar="X", help="what the machine draws in training [10 a core]")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def push(parser: Parser) -> None:
    parser.add_argument("path", metavar="DIR", help="folder that seekling release wrote")
    parser.add_argument("--to", required=True, metavar="OWNER/NAME", help="repository; made where it does not exist")
    parser.add_argument("--private", action="store_true", help="make it private")
    parser.add_argument("--endpoint", default=None, metavar="URL", help="the hub's address [HF_ENDPOINT]")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def watermark(parser: Parser) -> None:
    parser.add_argument("action", choices=("key", "detect"), metavar="ACTION", help="key makes one, detect looks for it")
    parser.add_argument("file", metavar="FILE", help="the key's file to make; or the text (- reads stdin)")
    parser.add_argument("--key", default=None, metavar="FILE", help="the key to look for")
    parser.add_argument("--model", default=None, metavar="MODEL", help="what wrote the text: run, folder, pulled name")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def audit(parser: Parser) -> None:
    parser.add_argument("action", choices=("verify", "find"), metavar="ACTION", help="verify the chain, or find a text in it")
    parser.add_argument("file", nargs="?", default=None, metavar="FILE", help="find: the text of an answer (- reads stdin)")
    parser.add_argument("--audit", default=None, metavar="DIR", help="folder of the log [~/.local/state/seekling/audit]")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def label(parser: Parser) -> None:
    parser.add_argument("file", metavar="FILE", help="a .md, .html, .json, .jsonl or .txt file that a model wrote")
    parser.add_argument("--label", choices=("eu", "cn"), required=True, help="which mark")
    parser.add_argument("--out", required=True, metavar="FILE", help="where the marked file goes")
    parser.add_argument("--id", default=None, metavar="ID", help="the response's id [a fresh one]")
    parser.add_argument("--producer", default="seekling", metavar="NAME", help="who answers for the content [seekling]")
    parser.add_argument("--model", default="", metavar="NAME", help="which model wrote it")
    parser.add_argument("--language", choices=("zh", "en"), default="zh", help="of the words to read [zh]")
