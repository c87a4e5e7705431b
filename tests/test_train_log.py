"""The JSONL log: complete lines, trimming on resume, strict JSON, trackers that are absent."""

import builtins
import io
import json

import pytest
from rich.console import Console

from seekling.errors import DataError, RecipeError
from seekling.train.log import Progress, RunLog, clock, numbers, open_trackers, read_log


def filled(path, steps):
    log = RunLog(path)
    for step in steps:
        log.write("step", step, loss=1.0 / step)
    log.close()


def test_a_line_is_on_disk_as_soon_as_it_is_written(tmp_path):
    log = RunLog(tmp_path / "log.jsonl")
    log.write("step", 1, loss=0.5, maxvio=[0.1, None])
    assert read_log(tmp_path / "log.jsonl") == [{"kind": "step", "step": 1, "loss": 0.5, "maxvio": [0.1, None]}]


def test_resume_drops_later_lines_and_a_line_cut_by_a_kill(tmp_path):
    path = tmp_path / "log.jsonl"
    filled(path, [1, 2, 3, 4])
    with open(path, "a") as file:
        file.write('{"kind": "step", "st')
    log = RunLog(path, keep_to_step=2)
    assert log.seen == {("step", 1), ("step", 2)}
    log.write("step", 3, loss=9.0)
    log.close()
    assert [(r["step"], r["loss"]) for r in read_log(path)] == [(1, 1.0), (2, 0.5), (3, 9.0)]


def test_a_new_run_starts_with_an_empty_log(tmp_path):
    filled(tmp_path / "log.jsonl", [1, 2])
    RunLog(tmp_path / "log.jsonl").close()
    assert read_log(tmp_path / "log.jsonl") == []


def test_a_damaged_line_in_the_middle_is_named(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"kind": "step", "step": 1}\nrubbish\n{"kind": "step", "step": 2}\n')
    with pytest.raises(DataError, match="line 2"):
        read_log(tmp_path / "log.jsonl")


def test_numbers_that_are_not_finite_stay_strict_json(tmp_path):
    log = RunLog(tmp_path / "log.jsonl")
    log.write("event", 1, loss=float("nan"), nested={"norm": float("inf")})
    text = (tmp_path / "log.jsonl").read_text()
    strict = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert strict["loss"] == "nan" and strict["nested"]["norm"] == "inf"


def test_numbers_of_a_record_get_path_like_names():
    record = {"kind": "step", "loss": 1.5, "maxvio": [0.5, None], "seconds": {"data": 2}, "ok": True}
    assert numbers(record) == {"loss": 1.5, "maxvio/0": 0.5, "seconds/data": 2}


def test_trackers_get_every_record(tmp_path):
    class Memory:
        records, closed = [], False

        def write(self, record):
            self.records.append(record)

        def close(self):
            self.closed = True

    tracker = Memory()
    log = RunLog(tmp_path / "log.jsonl", trackers=[tracker])
    log.write("eval", 3, bpb=1.2)
    log.close()
    assert tracker.records == [{"kind": "eval", "step": 3, "bpb": 1.2}] and tracker.closed


def test_an_unknown_tracker_and_one_whose_package_is_absent_are_recipe_errors(tmp_path, monkeypatch):
    with pytest.raises(RecipeError, match=r"mlfloww.*tensorboard, wandb"):
        open_trackers(["mlfloww"], tmp_path)
    real = builtins.__import__

    def without(name, *args, **kw):
        if name.split(".")[0] == "wandb":
            raise ImportError(name)
        return real(name, *args, **kw)

    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)
    with pytest.raises(RecipeError, match="pip install wandb"):
        open_trackers(["wandb"], tmp_path)


def test_progress_without_a_terminal_prints_the_last_step_as_a_line_and_is_silent_without_a_console():
    out = io.StringIO()
    progress = Progress(Console(file=out, width=100), total=3)
    progress.open()
    progress.step(1, 2.0, 10.0)
    progress.step(3, 1.25, 1234.5)
    progress.close()
    assert "step 3/3  loss 1.2500  1,234 tokens/s" in out.getvalue()
    Progress(None, total=3).step(1, 2.0, 10.0)


def test_clock():
    assert [clock(s) for s in (5, 65, 3725)] == ["0:05", "1:05", "1:02:05"]


def test_the_bar_on_a_terminal_shows_loss_speed_and_time_left():
    out = io.StringIO()
    progress = Progress(Console(file=out, width=120, force_terminal=True), total=3)
    progress.open()
    progress.step(2, 1.5, 1000.0)
    progress.close()
    assert "2/3" in out.getvalue() and "loss 1.5000  1,000 tokens/s" in out.getvalue() and "left" in out.getvalue()
