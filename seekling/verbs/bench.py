"""``seekling bench``: what a model does on this machine, as a table or one JSON object."""

import argparse
import json
import math
import statistics
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from seekling.errors import RecipeError, raise_all
from seekling.plan import size_text

BUSY = 0.15  # cores that others may use before the figures are in doubt
WIDE = 0.15  # spread of the rounds, of their median, above which a figure is in doubt
PASSAGE = "The river runs from the hills to the sea. In spring the river is high, in autumn it is low. "


def bench(args: argparse.Namespace) -> int:
    """Measure, print."""
    raise_all(RecipeError, problems(args), "bench")
    facts = measured(args, lambda line: print(line, file=sys.stderr, flush=True))
    print(json.dumps(facts) if args.json else text(facts))
    return 0


def problems(args: argparse.Namespace) -> list[str]:
    """Flags that are no use as given."""
    least = {"threads": 1, "prompt": 1, "tokens": 2, "rounds": 1, "depth": 1}
    bad = [
        f"--{name} must be at least {low}, not {getattr(args, name)}"
        for name, low in least.items()
        if getattr(args, name) is not None and getattr(args, name) < low
    ]
    bad += [f"--rows must be at least 1 each, not {rows}" for rows in args.rows if rows < 1]
    if args.price is not None and not (args.price >= 0 and math.isfinite(args.price)):
        bad.append(f"--price must be at least 0, not {args.price}")
    return bad


def fitted(args: argparse.Namespace, config: Any) -> tuple[int, int]:
    """(prompt, tokens) that fit into the model's context; those not given are made to fit.

    Raises:
        RecipeError: what was asked for is too long, or the model cannot speculate as asked.
    """
    from seekling.engine.measure import START

    context = config.max_position_embeddings
    tokens = args.tokens or max(2, min(64, context - START))
    prompt = args.prompt or max(1, min(512, context - 1))
    bad = []
    if prompt + 1 > context:
        bad.append(f"--prompt {prompt} leaves no room in a context of {context} tokens: give at most {context - 1}")
    if max(START, args.depth or 0) + tokens > context:
        where = f"--depth {args.depth} and --tokens {tokens}" if args.depth else f"--tokens {tokens} behind {START}"
        bad.append(f"{where} are more than the context of {context} tokens: give fewer")
    if args.speculate == "mtp" and not config.num_nextn_predict_layers:
        bad.append("--speculate mtp needs a model with MTP layers, this one has none: take --speculate ngram")
    if args.speculate and config.holds_state:
        bad.append("--speculate needs a cache that can go back, this model keeps a running state: leave it out")
    raise_all(RecipeError, bad, "bench")
    return prompt, tokens


def config_of(path: Path) -> Any:
    """The model's shape, without its weights."""
    if path.suffix == ".gguf":
        from seekling.formats.families import read_config
        from seekling.formats.gguf_file import open_gguf

        return read_config(open_gguf(path).raw_config)
    from seekling.engine.backend import read_adapted_config
    from seekling.formats.folder import read_config as read_folder_config
    from seekling.lm import is_adapter

    return read_adapted_config(path) if is_adapter(path) else read_folder_config(path)


def measured(args: argparse.Namespace, say: Callable[[str], None]) -> dict[str, Any]:
    """Every figure of the table. Fresh processes first, while the model's files may still be out of the file cache."""
    import torch

    from seekling.engine import measure as m
    from seekling.engine.engine import Engine
    from seekling.lm import resolve
    from seekling.machine import look
    from seekling.machine_speed import read_bandwidth
    from seekling.verbs.common import set_threads

    path = resolve(args.path)
    prompt, tokens = fitted(args, config_of(path))
    set_threads(args.threads)
    machine, threads = look(), torch.get_num_threads()
    rows = sorted(set(args.rows))
    others = m.Others()
    say("engine start and memory, in fresh processes …")
    task = (path, args.quant, args.runner, threads, max(rows), prompt)
    dropped = m.forget_files(path)
    cold, warm = m.fresh(*task), m.fresh(*task)
    load = [others.cores()]

    say("loading …")
    cache = m.tokens_needed(rows, tokens, prompt, args.depth)
    engine = Engine(
        path, args.quant, runner=args.runner, threads=threads, max_rows=max(rows), cache_tokens=cache, prefix_cache=False
    )
    m.speak(engine, [m.drawn(engine, m.START, 0)], 3)  # the first call is slower
    speeds: dict[str, list[float]] = defaultdict(list)
    bandwidth: list[float] = []
    for turn in range(1, args.rounds + 1):
        say(f"round {turn} of {args.rounds}: bandwidth, decode {', '.join(map(str, rows))}, prefill {prompt} …")
        others.cores()
        bandwidth.append(read_bandwidth(threads, 0.3, machine.memory_available))
        for count in rows:
            prompts = [m.drawn(engine, m.START, seed) for seed in range(count)]
            speeds[f"decode {count}"].append(m.speak(engine, prompts, tokens))
        speeds["first"].append(m.first_token(engine, m.drawn(engine, prompt, turn)))
        if args.depth:
            say(f"round {turn} of {args.rounds}: decode behind {args.depth} tokens …")
            speeds["depth"].append(m.speak(engine, [m.drawn(engine, args.depth, turn)], tokens))
        load.append(others.cores())

    def cell(values: list[float], count: int, position: float) -> dict[str, Any]:
        size = m.bytes_a_token(engine, count, position)
        shares = [m.bandwidth_share(size, v, b) for v, b in zip(values, bandwidth, strict=True)]
        return {**speed(values), "bytes_per_token": round(size), "bandwidth_share": statistics.median(shares)}

    def speed(values: list[float]) -> dict[str, Any]:
        out: dict[str, Any] = {"tokens_per_second": m.as_dict(m.Spread.of(values))}
        if args.price is not None:
            out["cost_per_million"] = m.cost_per_million(args.price, statistics.median(values))
        return out

    known = [x for x in load if x is not None]
    facts: dict[str, Any] = {
        "model": str(args.path),
        "path": str(path),
        "runner": engine.stats()["runner"],
        "quant": args.quant,
        "threads": threads,
        "rounds": args.rounds,
        "tokens": tokens,
        "price_per_hour": args.price,
        "machine": {
            "cpu": machine.cpu,
            "usable_cores": machine.usable_cores,
            "bandwidth_gbs": m.as_dict(m.Spread.of(bandwidth)),
            "others_cores": max(known) if known else None,
        },
        "decode": [{"rows": n, **cell(speeds[f"decode {n}"], n, m.START + tokens / 2)} for n in rows],
        "decode_at_depth": {"depth": args.depth, **cell(speeds["depth"], 1, args.depth + tokens / 2)} if args.depth else None,
        "prefill": {"prompt": prompt, **speed([prompt / seconds for seconds in speeds["first"]])},
        "first_token": {
            "cold_seconds": cold.seconds if dropped else None,
            "warm_seconds": warm.seconds,
            "running_seconds": m.as_dict(m.Spread.of(speeds["first"])),
        },
        "memory": {
            "peak_bytes": warm.peak,
            "resident_bytes": warm.resident,
            "weight_bytes": warm.weights,
            "cache_bytes": warm.cache,
            "extra_bytes": warm.extra,
        },
        "speculation": speculation(args, engine, tokens, threads, say) if args.speculate else None,
    }
    facts["warnings"] = warnings(facts)
    return facts


def speculation(args: argparse.Namespace, engine: Any, tokens: int, threads: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Greedy decode of one request behind a text that says everything twice, with drafts and, in turns, without."""
    from seekling.engine import measure as m
    from seekling.engine.engine import Engine

    say(f"speculation ({args.speculate}) …")
    room = engine.context - tokens - 1
    ids = m.drawn(engine, m.START, 0) if engine.tokenizer is None else engine.tokenizer.encode(PASSAGE * 2)
    ids = ids[: max(1, room)]
    cache = m.tokens_needed([2], tokens, len(ids) + tokens, None)
    drafting = Engine(
        args.path,
        args.quant,
        runner=args.runner,
        threads=threads,
        cache_tokens=cache,
        prefix_cache=False,
        speculate=args.speculate,
    )
    plain, drafted = [], []
    for _ in range(args.rounds):
        plain.append(m.speak(engine, [ids], tokens))
        drafted.append(m.speak(drafting, [ids], tokens))
    stats = drafting.stats()
    return {
        "kind": args.speculate,
        "runner": stats["runner"],
        "prompt_tokens": len(ids),
        "drafted": stats["drafted"],
        "accepted": stats["accepted"],
        "acceptance": stats["accepted"] / stats["drafted"] if stats["drafted"] else None,
        "tokens_per_step": stats["tokens_per_step"],
        "tokens_per_second": m.as_dict(m.Spread.of(drafted)),
        "plain_tokens_per_second": m.as_dict(m.Spread.of(plain)),
        "gain": statistics.median(drafted) / statistics.median(plain),
    }


def warnings(facts: dict[str, Any]) -> list[str]:
    """Why the figures may mean little."""
    out = []
    load, cores = facts["machine"]["others_cores"], facts["machine"]["usable_cores"]
    if load is None:
        out.append("how busy the machine is cannot be read here: make sure that nothing else runs")
    elif load > BUSY:
        out.append(
            f"other programs kept up to {load:.1f} of {cores} cores busy meanwhile: these figures mean little, "
            "end them and measure again"
        )
    every = [(f"decode {cell['rows']}", cell["tokens_per_second"]) for cell in facts["decode"]]
    every.append(("prefill", facts["prefill"]["tokens_per_second"]))
    wide = [name for name, s in every if s["high"] - s["low"] > WIDE * s["median"]]
    if wide:
        out.append(f"the rounds differ by more than {WIDE:.0%} in {', '.join(wide)}: more --rounds say more")
    return out


# ---- the table -------------------------------------------------------------------------------------------------------


def text(facts: dict[str, Any]) -> str:
    """The table for people."""
    machine, memory, first = facts["machine"], facts["memory"], facts["first_token"]
    low, high = machine["bandwidth_gbs"]["low"], machine["bandwidth_gbs"]["high"]
    top = [
        ("model", facts["path"]),
        ("runner", f"{facts['runner']}{', quant ' + facts['quant'] if facts['quant'] else ''}, {facts['threads']} threads"),
        ("machine", f"{machine['cpu']}, {machine['bandwidth_gbs']['median']:.1f} GB/s read ({low:.1f} … {high:.1f})"),
        ("rounds", f"{facts['rounds']}: median (smallest … largest)"),
    ]
    rows = [(f"decode, {n_requests(cell['rows'])}", speed_text(cell)) for cell in facts["decode"]]
    if facts["decode_at_depth"]:
        rows.append((f"decode behind {facts['decode_at_depth']['depth']} tokens", speed_text(facts["decode_at_depth"])))
    rows.append((f"prefill, {facts['prefill']['prompt']} tokens", speed_text(facts["prefill"])))
    cold = "not measurable here" if first["cold_seconds"] is None else f"{first['cold_seconds']:.2f} s"
    rows += [
        ("first token, cold start", f"{cold} from the start of the process, files not in memory"),
        ("first token, warm start", f"{first['warm_seconds']:.2f} s from the start of the process"),
        (
            "first token, running",
            f"{first['running_seconds']['median']:.3f} s behind a prompt of {facts['prefill']['prompt']} tokens",
        ),
        ("weights and cache", f"{size_text(memory['weight_bytes'])} and {size_text(memory['cache_bytes'])} in use"),
        ("memory beyond them", "not known here" if memory["extra_bytes"] is None else signed(memory["extra_bytes"])),
        ("peak memory", "not known here" if memory["peak_bytes"] is None else size_text(memory["peak_bytes"])),
    ]
    spec = facts["speculation"]
    if spec:
        share = "nothing was drafted" if spec["acceptance"] is None else f"{spec['acceptance']:.0%} of drafts accepted"
        rows.append((
            f"speculation, {spec['kind']}",
            f"{share}, {spec['tokens_per_step']:.2f} tokens a step, {spec['tokens_per_second']['median']:,.1f} tokens/s "
            f"({spec['runner']}), {spec['gain']:.2f} x plain decode, behind a text that repeats itself",
        ))  # fmt: skip
    width = max(len(name) for name, _ in top + rows)
    lines = [f"{name:<{width}}  {value}" for name, value in top] + [""] + [f"{name:<{width}}  {value}" for name, value in rows]
    return "\n".join(lines + [f"warning: {line}" for line in facts["warnings"]])


def n_requests(rows: int) -> str:
    return "1 request" if rows == 1 else f"{rows} requests"


def signed(size: int) -> str:
    return size_text(size) if size >= 0 else "-" + size_text(-size)


def speed_text(cell: dict[str, Any]) -> str:
    """Speed, spread, share of the bandwidth, cost."""
    s = cell["tokens_per_second"]
    out = f"{s['median']:,.1f} tokens/s ({s['low']:,.1f} … {s['high']:,.1f})"
    if "bandwidth_share" in cell:
        out += f", {cell['bandwidth_share']:.0%} of the bandwidth"
    if "cost_per_million" in cell:
        out += f", {cell['cost_per_million']:,.3f} EUR a million tokens"
    return out
