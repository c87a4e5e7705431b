"""``seekling plan``: which plan the flags ask for, and its text or JSON."""

import argparse
import json
import shlex

from seekling.errors import RecipeError, raise_all
from seekling.machine import Machine, look
from seekling.plan import CPU_PRICE, REPORTED, UTILISATION, Plan, count, hours_text, plan_config, plan_recipe, render
from seekling.recipe import Recipe, from_args, knobs, resolve
from seekling.sizes import PUBLISHED, SIZES, named_config

CONFIG_FLAGS = ("tokens", "seq_len")


def plan(args: argparse.Namespace) -> int:
    """Print the plan of ``--config``, of a recipe, or a line for each size."""
    raise_all(RecipeError, number_problems(args), "")
    given = [name for name in vars(args) if name in knobs()]
    if args.config is not None:
        plans = [config_plan(args, given)]
    elif given or args.recipe:
        recipe = from_args(args, Recipe.load(args.recipe) if args.recipe else None)
        machine = look()
        resolved = resolve(recipe, machine)
        speed, how = speed_of(args, machine, resolved.train.dtype)
        plans = [plan_recipe(resolved, speed, CPU_PRICE if args.price is None else args.price, how)]
    else:
        plans = size_plans(args)
    if args.json:
        print(json.dumps(plans[0].to_dict() if len(plans) == 1 else [p.to_dict() for p in plans]))
    else:
        print(render(plans[0]) if len(plans) == 1 else table(plans))
    return 0


def number_problems(args: argparse.Namespace) -> list[str]:
    """Planning flags that are no use as given."""
    positive = [
        n for n in ("tflops", "utilisation", "hours_per_trillion") if getattr(args, n) is not None and not getattr(args, n) > 0
    ]
    bad = [f"--{name.replace('_', '-')} must be more than 0, not {getattr(args, name)}" for name in positive]
    if args.utilisation is not None and args.utilisation > 1:
        bad.append(f"--utilisation is a share of the peak, at most 1, not {args.utilisation}")
    if args.devices < 1:
        bad.append(f"--devices must be at least 1, not {args.devices}")
    if args.price is not None and args.price < 0:
        bad.append(f"--price must be at least 0, not {args.price}")
    if args.hours_per_trillion is not None and (args.tflops is not None or args.utilisation is not None):
        bad.append("--hours-per-trillion contradicts --tflops and --utilisation: give one or the other")
    return bad


def config_plan(args: argparse.Namespace, given: list[str]) -> Plan:
    """The plan of a bare config. Recipe flags other than the length mean nothing to it."""
    wrong = [n for n in given if n not in CONFIG_FLAGS] + (["recipe"] if args.recipe else [])
    if wrong:
        flags = shlex.join("--" + n.replace("_", "-") for n in wrong)
        raise RecipeError(f"--config takes --tokens and --seq-len only; drop {flags}, or plan a recipe with --size")
    name, config = named_config(args.config)
    values = from_args(args)
    if values.data.seq_len and values.data.seq_len > config.max_position_embeddings:
        raise RecipeError(
            f"seq_len {values.data.seq_len} is longer than the model's max_position_embeddings {config.max_position_embeddings}"
        )
    speed, how = None, ""
    if args.hours_per_trillion is None and (args.tflops is not None or args.utilisation is not None or name not in REPORTED):
        speed, how = speed_of(args, look(), "bfloat16")
    price = args.price
    if price is None and name not in PUBLISHED:
        price = CPU_PRICE
    return plan_config(
        name,
        config,
        tokens=values.train.tokens,
        seq_len=values.data.seq_len,
        hours_per_trillion=args.hours_per_trillion,
        speed=speed,
        price=price,
        devices=args.devices,
        how=how,
    )


def speed_of(args: argparse.Namespace, machine: Machine, dtype: str) -> tuple[float, str]:
    """Operations a second that training gets from one device, and the sentence that says so."""
    share = UTILISATION if args.utilisation is None else args.utilisation
    if args.tflops is not None:
        return args.tflops * 1e12 * share, f"{share:.0%} of {args.tflops:g} TFLOP/s"
    from seekling.machine_speed import gemm_gflops

    peak = gemm_gflops(dtype, machine.usable_cores, 0.3)
    return peak * 1e9 * share, f"{share:.0%} of this machine's {dtype} matrix peak of {peak:,.0f} GFLOP/s"


def size_plans(args: argparse.Namespace) -> list[Plan]:
    """Every size at its default length."""
    machine = look()
    recipes = [resolve(Recipe.of(size=name, out=name), machine) for name in SIZES]
    speed, how = speed_of(args, machine, recipes[0].train.dtype)
    return [plan_recipe(r, speed, CPU_PRICE if args.price is None else args.price, how) for r in recipes]


def table(plans: list[Plan]) -> str:
    """One line a plan."""
    head = ("size", "parameters", "active", "tokens", "FLOP", "KV B/token", "memory GB", "time", "money")
    rows = [head]
    for p in plans:
        n = p.config.parameters()
        memory = f"{p.memory.total / 1e9:.2f}" if p.memory else "-"
        time, money = (hours_text(p.cost.wall_hours), f"${p.cost.dollars:,.2f}") if p.cost else ("-", "-")
        kv = f"{p.kv_bytes_per_token():,}"
        rows.append((p.name, count(n.total), count(n.active), count(p.tokens), f"{p.flops_total:.2e}", kv, memory, time, money))
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    lines = [
        "  ".join(cell.rjust(w) if i else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    ]
    how = plans[0].cost.how if plans[0].cost else ""
    return "\n".join([*lines, f"20 tokens an active parameter; {how}"])
