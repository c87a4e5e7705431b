"""The run report: what it says, that it equals the log, and that no state of a run and no foreign text breaks it."""

import itertools
import json
import math
import re
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pretrain_tiny import TINY, made_text, recipe  # noqa: F401  made_text is a fixture

from seekling import cli
from seekling.errors import CheckpointError, RecipeError
from seekling.recipe import Recipe, from_args, resolve
from seekling.release import report as room
from seekling.release.escape import code, fence, inline, visible
from seekling.release.facts import gather, open_run
from seekling.release.figstyle import smooth, spread
from seekling.release.headline import ten_numbers
from seekling.release.markdown import SECTIONS, render
from seekling.release.repeat import repeat_command
from seekling.release.report import terminal_summary, write_report
from seekling.release.runlog import read_records
from seekling.train.pretrain import pretrain

STEPS, PER_STEP = 6, TINY["batch_size"] * TINY["seq_len"]
KEYS = {
    "format", "run", "training", "evaluations", "cost", "data", "configuration", "routers", "expert_load", "samples",
    "events", "stages", "problems", "repeat", "versions", "limits", "ten_numbers", "figures",
}  # fmt: skip
TEN = "parameters active tokens bits_per_byte time tokens_per_second flops utilisation kv_bytes energy".split()


def step(n, **values):
    usual = dict(
        kind="step", step=n, tokens=n * PER_STEP, loss=6.5 - n / 10, ce=5.0 - n / 10, mtp_ce=5.5 - n / 10, lr=0.001 * n,
        grad_norm=2.0 / n, maxvio=[0.5, 0.25], tokens_per_second=1000.0 + n, utilisation=0.25,
        seconds={"data": 0.25, "compute": 1.0, "optimizer": 0.5}, elapsed=2.0 * n,
    )  # fmt: skip
    return usual | values


def evaluation(n, bpb, share=0.5, **values):
    sources = {
        "ducks": dict(bpb=bpb - 0.5, accuracy=0.25, tokens=50, bytes=200, share=share),
        "geese": dict(bpb=bpb + 0.5, accuracy=0.125, tokens=30, bytes=100, share=share),
    }
    whole = dict(bpb=bpb, accuracy=0.2, tokens=80, bytes=300, share=share)
    return {"kind": "eval", "step": n, **whole, "loads": [[3, 1, 0, 4], [0] * 4], "sources": sources} | values


def sample(n, text=" swam away", prompt="The ducks"):
    return {"kind": "sample", "step": n, "samples": [{"source": "ducks", "prompt": prompt, "text": text}]}


WHOLE = [*(step(n) for n in range(1, STEPS + 1)), evaluation(3, 3.0), evaluation(STEPS, 2.0, 1.0, final=True), sample(STEPS)]
MANIFEST = {
    "train": {"documents": 10, "bytes": 1234, "tokens": 1000},
    "heldout": {"documents": 2, "bytes": 300, "tokens": 80},
    "tokenizer": {"vocab_size": 300, "about": "learned from a sample"},
    "sources": {
        "ducks": {
            "kind": "package", "where": "ducks-book", "version": "1.2", "licence": "CC0-1.0", "attribution": "A. Drake",
            "language": "en", "documents": 10, "bytes": 1234, "tokens": 1000, "share": 1.0,
            "heldout": {"documents": 2, "bytes": 300, "tokens": 80},
        }
    },
    "notes": ["no source of real text is in reach"],
}  # fmt: skip


@pytest.fixture
def run(tmp_path):
    """Make a run folder from log records, or from raw log text."""

    def make(records=WHOLE, manifest=MANIFEST, **changes):
        folder = tmp_path / "run-1"
        folder.mkdir(exist_ok=True)
        text = records if isinstance(records, str) else "".join(json.dumps(r) + "\n" for r in records)
        resolve(recipe(folder, command="seekling run --minutes 1", **changes)).save(folder / "recipe.toml")
        (folder / "log.jsonl").write_text(text, encoding="utf-8")
        if manifest is not None:
            (folder / "data_manifest.json").write_text(json.dumps(manifest))
        return folder

    return make


@pytest.fixture
def no_figures(monkeypatch):
    """For what figures have no part in: they take most of a report's time."""
    monkeypatch.setattr("seekling.release.figures.draw", lambda run, facts, folder: {})


def written(folder, **options):
    """(Markdown, JSON) of a fresh report; constants that are no JSON are refused."""

    def refuse(name):
        raise ValueError(name)

    path = write_report(folder, **options)
    return path.read_text("utf-8"), json.loads((folder / "report.json").read_text("utf-8"), parse_constant=refuse)


def ten(facts):
    return {row["key"]: row for row in facts["ten_numbers"]}


def sections(markdown):
    """The Markdown of every section by its title, fenced blocks left in."""
    parts = re.split(r"^## (.*)$", markdown, flags=re.M)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


# ---- a finished run --------------------------------------------------------------------------------------------------


def test_a_finished_run_has_every_section_and_every_figure(run):
    folder = run()
    markdown, facts = written(folder)
    assert list(sections(markdown)) == ["In ten numbers", *SECTIONS]
    links = re.findall(r"!\[[^\]]*\]\(([^)]*)\)", markdown)
    assert links and sorted(links) == sorted(facts["figures"].values())
    assert set(facts["figures"]) == {"loss", "sources", "optimisation", "speed", "balance", "experts", "time"}
    for link in links:
        assert (folder / link).read_bytes().startswith(b"\x89PNG")
    assert "incomplete" not in markdown and "unfinished" not in markdown
    assert not [p for p in folder.rglob("*") if "unfinished" in p.name]


def test_the_json_has_stable_keys_and_ten_numbers(run, no_figures):
    _, facts = written(run())
    assert set(facts) == KEYS and facts["format"] == 1
    assert [row["key"] for row in facts["ten_numbers"]] == TEN
    assert all(set(row) == {"key", "name", "value", "unit", "text"} for row in facts["ten_numbers"])


def test_numbers_are_those_of_the_log(run, no_figures):
    markdown, facts = written(run())
    numbers = ten(facts)
    assert numbers["tokens"]["value"] == STEPS * PER_STEP
    assert numbers["bits_per_byte"]["value"] == 2.0 and "2.0000 bits per byte (all held-out text)" in markdown
    assert numbers["time"]["value"] == 12.0
    assert numbers["tokens_per_second"]["value"] == 1003.5  # median of 1001 … 1006
    assert numbers["utilisation"]["value"] == 0.25
    assert "| 6 | 384 | 4.4000 | 4.9000 | 0.006 | 0.333 | 1,006 |" in markdown
    assert "| geese | 2.5000 | 12.5% | 30 | 100 B | 100.0% |" in markdown
    assert facts["training"]["clipped_share"] == pytest.approx(1 / STEPS)  # norms 2, 1, 2/3 …: one is above 1


def test_arithmetic_follows_from_the_plan(run, no_figures):
    from seekling.plan import flops_per_token
    from seekling.resolve import model_config

    folder = run()
    _, facts = written(folder)
    config = model_config(Recipe.load(folder))
    assert ten(facts)["flops"]["value"] == flops_per_token(config, TINY["seq_len"]).train * STEPS * PER_STEP
    assert ten(facts)["kv_bytes"]["value"] == 2 * config.kv_elements_per_token()
    assert ten(facts)["parameters"]["value"] == config.parameters().total


def test_phases_of_the_time_add_up_to_it(run, no_figures):
    _, facts = written(run())
    assert facts["cost"]["phases"] == {"data": 1.5, "compute": 6.0, "optimizer": 3.0, "other": 1.5}


def test_energy_and_money_state_their_assumption(run, no_figures):
    markdown, facts = written(run())
    assert "10 W (assumed: 10 W a core, 1 cores; not measured)" in sections(markdown)["Cost"]
    assert facts["cost"]["watt_hours"] == pytest.approx(10 * 12 / 3600)
    markdown, facts = written(run(), watts=90, price=3.6)
    assert "90 W (given; not measured)" in markdown and "\\$3.6 an hour" in markdown
    assert facts["cost"]["watt_hours"] == pytest.approx(0.3) and facts["cost"]["dollars"] == pytest.approx(0.012)


def test_energy_of_another_device_is_not_guessed(run, no_figures):
    markdown, facts = written(run(device="cuda"))
    assert facts["cost"]["watt_hours"] is None and facts["cost"]["dollars"] is None
    assert "not estimated: no wattage is known for this device" in markdown


def test_data_licences_attributions_and_notes_are_told(run, no_figures):
    data = sections(written(run())[0])["Data"]
    assert "| ducks | CC0-1.0 | package ducks-book 1.2 | 10 | 1.23 KB | 1,000 | 100.0% | 80 |" in data
    assert "- ducks: A. Drake" in data and "- no source of real text is in reach" in data


def test_expert_load_is_relative_and_leaves_out_routers_that_did_not_run(run, no_figures):
    _, facts = written(run())
    assert facts["expert_load"] == {"step": STEPS, "relative": {"layer 1": [1.5, 0.5, 0.0, 2.0]}}


def test_a_dense_run_has_no_expert_figures(run):
    records = [{k: v for k, v in r.items() if k not in ("maxvio", "loads")} for r in WHOLE]
    experts = dict.fromkeys(("n_routed_experts", "num_experts_per_tok"))
    markdown, facts = written(run(records, dense=True, **experts))
    assert not {"balance", "experts"} & set(facts["figures"]) and facts["expert_load"] is None
    assert "no routers" in sections(markdown)["Curves"]


def test_events_are_listed(run, no_figures):
    skipped = {"kind": "event", "step": 4, "what": "skipped step", "why": "its loss is inf", "in_a_row": 1}
    markdown, _ = written(run([*WHOLE, skipped]))
    assert "| 4 | skipped step | why its loss is inf, in_a_row 1 |" in sections(markdown)["Events"]


def test_samples_of_the_beginning_and_the_end_are_shown(run, no_figures):
    shown = sections(written(run([sample(n, f" take {n}") for n in range(1, 31)]))[0])["Samples"]
    steps = [int(n) for n in re.findall(r"After (\d+) steps", shown)]
    assert len(steps) == 5 and steps[0] == 30 and steps[-1] == 1
    assert "The ducks┃ take 30" in shown


# ---- the whole way ---------------------------------------------------------------------------------------------------


def test_a_real_run_is_reported_with_its_own_numbers(tmp_path, made_text):  # noqa: F811
    folder = pretrain(recipe(tmp_path / "real", num_nextn_predict_layers=1))
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    final = next(r for r in log if r.get("final"))
    last = [r for r in log if r["kind"] == "step"][-1]
    assert sum(final["loads"][0]) > 0 and final["loads"][-1] == [0] * 4  # MTP does not run in evaluations
    markdown, facts = written(folder)
    assert ten(facts)["bits_per_byte"]["value"] == final["bpb"] and f"{final['bpb']:.4f} bits per byte" in markdown
    assert ten(facts)["tokens"]["value"] == last["tokens"] and ten(facts)["time"]["value"] == last["elapsed"]
    assert facts["training"]["ce"] == last["ce"] and facts["run"]["finished"]
    assert facts["versions"]["trained_with"]["threads"] == 1
    assert {"loss", "sources", "experts"} <= set(facts["figures"])


def test_the_verb_writes_the_report(run, no_figures, capsys):
    folder = run()
    assert cli.main(["report", str(folder)]) == 0
    assert str(folder / "report.md") in capsys.readouterr().out and (folder / "report.md").is_file()


def test_the_verb_takes_wattage_and_price(run, no_figures, capsys):
    folder = run()
    assert cli.main(["report", str(folder), "--watts", "60", "--price", "0"]) == 0
    assert "about 0.2 Wh at 60 W (given" in capsys.readouterr().out and "\\$0 an hour" in (folder / "report.md").read_text(
        "utf-8"
    )
    assert cli.main(["report", str(folder), "--watts", "nan", "--price", "-1"]) == 2
    error = capsys.readouterr().err
    assert "--watts must be a number of at least 0" in error and "--price must be" in error


def test_the_terminal_gets_ten_lines_and_the_place_of_the_report(run):
    folder = run()
    lines = terminal_summary(folder)
    assert len(lines) == 11 and lines[-1].split() == ["report", str(folder / "report.md")]
    assert any(line.startswith("held-out text") and "2.0000 bits per byte" in line for line in lines)
    assert not (folder / "report.md").exists()


# ---- runs that are not whole -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("records", "says"),
    [
        ([], "none: no training step is in the log"),
        ([step(1)], "step 1 of 6"),
        ([step(1), step(2), sample(2)], "No evaluation was run."),
        ([step(1), step(2), evaluation(2, 3.0)], "Newest evaluation, at step 2 (there is no final one)"),
        ([evaluation(2, 3.0, 1.0, loads=[], sources={})], "No sample was drawn."),
    ],
)
def test_a_run_that_is_not_whole_says_what_it_lacks(run, records, says):
    markdown, facts = written(run(records))
    assert says in markdown and list(sections(markdown)) == ["In ten numbers", *SECTIONS]
    assert "(unfinished: step" in markdown and "The run is not finished" in markdown
    assert not facts["run"]["finished"]


def test_a_run_without_log_or_manifest_is_reported(run, no_figures):
    folder = run(manifest=None)
    (folder / "log.jsonl").unlink()
    markdown, facts = written(folder)
    assert "log.jsonl cannot be read" in markdown and "no data manifest" in markdown
    assert facts["data"] is None and facts["training"]["points"] == []


@pytest.mark.parametrize(
    "value", [math.nan, "nan", "inf", "-inf", None, "text", [], {}, True, 10**400, 1e300], ids=lambda v: str(v)[:6]
)
def test_numbers_that_are_none_neither_crash_nor_appear(run, value):
    odd = {k: value for k in ("tokens", "ce", "mtp_ce", "lr", "grad_norm", "tokens_per_second", "utilisation", "elapsed")}
    records = [
        step(1, **odd, loss=value, maxvio=[value, value], seconds={"data": value, "compute": value}),
        step(2, **odd, loss=value, maxvio=value, seconds=value),
        evaluation(2, 1.0, loads=[[value] * 4], sources={"ducks": {"bpb": value}, "x": value}) | {"bpb": value, "share": value},
        {"kind": "sample", "step": 2, "samples": value},
        {"kind": "event", "step": 2, "what": value},
    ]
    markdown, facts = written(run(records, {"sources": {"ducks": value}, "train": value, "notes": value}))
    assert ten(facts)["bits_per_byte"]["text"] == "no evaluation was run"
    assert facts["training"]["not_finite"] == 2 and "2 log lines have a loss that is not a finite number" in markdown
    assert ten(facts)["tokens"]["value"] == 2 * PER_STEP  # reckoned from the recipe where the log does not say


def test_some_values_that_are_not_finite_leave_the_rest_in_the_curves(run):
    folder = run([step(1), step(2, loss="nan", ce="nan", grad_norm="inf"), *WHOLE[2:]])
    _, facts = written(folder)
    assert facts["training"]["points"][1]["ce"] is None and facts["training"]["points"][2]["ce"] == 4.7
    assert "loss" in facts["figures"]


def test_a_damaged_line_is_named_with_its_number_before_anything_else(run, no_figures):
    lines = [json.dumps(r) for r in WHOLE]
    lines[2] = lines[2][:20] + "\udce9"
    folder = run("")
    (folder / "log.jsonl").write_bytes("\n".join(lines).encode("utf-8", "surrogateescape") + b"\n")
    markdown, facts = written(folder)
    told = "log.jsonl line 3 is damaged"
    assert told in markdown.split("## In ten numbers")[0] and any(told in line for line in facts["problems"])
    assert facts["training"]["log_lines"] == STEPS - 1


def test_a_line_cut_off_by_a_kill_is_told_from_a_damaged_one(run, no_figures):
    markdown, _ = written(run("".join(json.dumps(r) + "\n" for r in WHOLE) + '{"kind": "st'))
    assert f"log.jsonl line {len(WHOLE) + 1}, the last, is cut off" in markdown


@pytest.mark.parametrize("line", ["[1]", "7", '{"kind": "step"}', '{"kind": "step", "step": "3"}', '{"kind": 1, "step": 1}'])
def test_json_that_is_no_record_counts_as_damaged(tmp_path, line):
    (tmp_path / "log.jsonl").write_text(line + "\n" + json.dumps(step(1)) + "\n")
    records = read_records(tmp_path / "log.jsonl")
    assert len(records.steps) == 1 and "line 1 is damaged" in records.problems[0]


def test_a_damaged_manifest_is_said(run, no_figures):
    folder = run()
    (folder / "data_manifest.json").write_text("{")
    assert "data\\_manifest" not in (text := written(folder)[0]) and "data_manifest.json is damaged" in text


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
keys = st.sampled_from(
    "tokens loss ce mtp_ce lr grad_norm maxvio tokens_per_second utilisation seconds elapsed bpb accuracy share bytes sources "
    "loads final samples what why".split()
)
records_of_anything = st.lists(
    st.tuples(
        st.sampled_from(["step", "eval", "sample", "event", "other"]), st.integers(0, 9), st.dictionaries(keys, json_values)
    ),
    max_size=6,
)


@settings(max_examples=60)
@given(records_of_anything, json_values)
def test_no_log_and_no_manifest_crash_the_report(tmp_path_factory, records, manifest):
    folder = tmp_path_factory.mktemp("any")
    resolve(recipe(folder)).save(folder / "recipe.toml")
    lines = [json.dumps({**values, "kind": kind, "step": n}) for kind, n, values in records]
    (folder / "log.jsonl").write_text("\n".join(lines))
    (folder / "data_manifest.json").write_text(json.dumps(manifest))
    opened = open_run(folder)
    facts = gather(opened)
    facts["ten_numbers"], facts["figures"] = ten_numbers(opened, facts), None
    assert list(sections(render(facts))) == ["In ten numbers", *SECTIONS]
    json.dumps(facts, allow_nan=False)


# ---- folders that are no runs ----------------------------------------------------------------------------------------


def test_a_folder_that_is_no_run_is_refused_with_the_remedy(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(CheckpointError, match="give the folder that seekling run or seekling pretrain wrote"):
            write_report(path)
    Recipe.of(size="nano").save(tmp_path / "recipe.toml")
    with pytest.raises(CheckpointError, match="holds a recipe but no run"):
        write_report(tmp_path)
    (tmp_path / "recipe.toml").write_text("[run")
    with pytest.raises(RecipeError, match="not valid TOML"):
        write_report(tmp_path)
    assert not list(tmp_path.glob("report*"))


def test_without_matplotlib_the_report_says_so(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    markdown, facts = written(run())
    assert facts["figures"] is None and "pip install matplotlib" in markdown and "![" not in markdown


def test_figures_of_an_earlier_report_that_no_longer_hold_are_removed(run):
    folder = run()
    written(folder)
    assert (folder / "figures/sources.png").exists()
    run([step(1)])
    _, facts = written(folder)
    assert not (folder / "figures/sources.png").exists() and "sources" not in facts["figures"]


def test_equal_runs_give_equal_reports(run):
    folder = run()
    first = {p.name: p.read_bytes() for p in (write_report(folder), *(folder / "figures").iterdir())}
    second = {p.name: p.read_bytes() for p in (write_report(folder), *(folder / "figures").iterdir())}
    assert first == second


def test_a_report_that_fails_leaves_the_older_one(run, no_figures, monkeypatch):
    folder = run()
    before, _ = written(folder)

    def fail(facts):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(room, "render", fail)
    with pytest.raises(OSError):
        write_report(folder)
    assert (folder / "report.md").read_text("utf-8") == before


def test_importing_the_report_does_not_import_matplotlib():
    test = "import sys, seekling.release.report, seekling.release.figures; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", test], timeout=120).returncode == 0


# ---- foreign text ----------------------------------------------------------------------------------------------------


def test_samples_cannot_leave_their_block_nor_command_a_terminal(run, no_figures):
    text = "\n```\n# not a heading\n<script>alert(1)</script>\n````\n\x1b[2J\r\x07\u202e"
    markdown, facts = written(run([*WHOLE[:-1], sample(STEPS, text)]))
    block = re.search(r"^(`{3,})text\n(.*?)\n\1$", sections(markdown)["Samples"], re.S | re.M)
    assert len(block[1]) == 5 and "# not a heading\n<script>" in block[2] and "␛[2J␍␇<U+202E>" in block[2]
    assert not set(markdown) & {"\x1b", "\r", "\x07", "\u202e"}
    assert facts["samples"][0]["text"] == text  # the machine-readable report has it as it was


def test_names_and_licences_cannot_become_markup(run, no_figures):
    name = "a|b <img src=x onerror=1> `c` [x](y)\n| z *d*"
    manifest = {
        **MANIFEST,
        "sources": {name: {**MANIFEST["sources"]["ducks"], "licence": "<b>", "attribution": "# me\n\n## you"}},
    }
    markdown, _ = written(run([*WHOLE, evaluation(STEPS, 1.0, final=True, sources={name: {"bpb": 1.0}})], manifest))
    assert "<img" not in markdown and "<b>" not in markdown and "\n## you" not in markdown
    row = next(line for line in sections(markdown)["Data"].splitlines() if "onerror" in line and line.startswith("|"))
    assert len(re.findall(r"(?<!\\)\|", row)) == 9  # eight cells


def test_names_that_look_like_mathematics_or_chinese_are_drawn(run):
    sources = {name: {"bpb": 1.0 + i, "share": 1.0} for i, name in enumerate(("$\\frac$", "中文", "\x1b[1m", "x" * 200, ""))}
    _, facts = written(run([*WHOLE[:-3], evaluation(STEPS, 1.5, final=True, sources=sources)]))
    assert "sources" in facts["figures"]


@given(st.text())
def test_a_fence_is_closed_by_its_last_line_only(text):
    lines = fence(text).split("\n")
    marks = lines[-1]
    assert set(marks) == {"`"} and lines[0] == marks + "text"
    assert not any(line.strip().startswith(marks) for line in lines[1:-1])


@given(st.text())
def test_visible_text_commands_nothing(text):
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", visible(text))


@given(st.text())
def test_inline_text_is_one_line_without_markup(text):
    line = inline(text)
    assert "\n" not in line and not re.search(r"[<>]", line)
    assert not re.search(r"(?<!\\)(\\\\)*[|`*\[\]]", line)


@given(st.text(alphabet="`ab ", min_size=1))
def test_inline_code_cannot_be_left(text):
    line = code(text)
    marks = re.match("`+", line)[0]
    inner = line[len(marks) : -len(marks)]
    assert line.endswith(marks) and all(len(found) < len(marks) for found in re.findall("`+", inner))


# ---- the command that repeats it -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "asked",
    [
        dict(size="nano", steps=7),
        dict(size="micro", tokens=300_000, seed=5, optimizer="muon", document_mask=False),
        dict(size="nano", dense=True, steps=3, threads=3),
        dict(TINY),
        dict(size="nano", steps=3, model_type="deepseek_v2", data=("-odd name", "b c"), fim_rate=0.1, trackers=("wandb",)),
    ],
)
def test_the_command_repeats_the_very_recipe(asked):
    import shlex

    wanted = resolve(Recipe.of(**asked, out="first"))
    words = shlex.split(repeat_command(wanted, "again"))
    _, args = cli.parse(words[1:])
    got = resolve(from_args(args)).flat()
    assert words[:2] == ["seekling", "pretrain"]
    assert {k: v for k, v in got.items() if k != "out"} == {k: v for k, v in wanted.flat().items() if k != "out"}


def test_the_command_says_no_more_than_needed():
    words = repeat_command(resolve(Recipe.of(size="nano", steps=7, lr=0.01, out="x")), "again").split()
    assert {w for w in words if w.startswith("--")} == {"--size", "--seed", "--threads", "--steps", "--lr", "--dtype", "--out"}


def test_the_report_shows_both_commands(run, no_figures):
    repeat = sections(written(run())[0])["Repeat it"]
    assert "seekling pretrain --recipe recipe.toml --out run-1-again" in repeat
    assert "seekling pretrain --size nano" in repeat and "seekling run --minutes 1" in repeat and "Seed 0" in repeat


# ---- drawing tools ---------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(0, 100), min_size=1, max_size=12), st.floats(0.5, 8))
def test_labels_keep_their_distance_and_order(wanted, gap):
    places = spread(wanted, gap, 0.0, 100.0)
    assert min(places) >= -1e-6 and max(places) <= 100 + 1e-6
    ranked = sorted(range(len(wanted)), key=lambda i: wanted[i])
    assert all(places[b] - places[a] >= gap - 1e-6 for a, b in itertools.pairwise(ranked))


def test_smoothing_ignores_a_spike_and_keeps_gaps_that_are_wide():
    at, line = smooth([1.0] * 100 + [50.0] + [1.0] * 100)
    assert set(line) == {1.0} and len(at) == 201
    _, line = smooth([1.0] * 100 + [math.nan] * 50)
    assert math.isnan(line[-1]) and line[0] == 1.0
