"""Stop-and-resume equals the uninterrupted run bit for bit: weights, optimizer, biases, log; after stops, kills and damage.

Run as a program it is the victim of the kill tests: ``python tests/test_train_resume.py FOLDER`` trains or resumes.
"""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from train_tiny import (
    TinyPretraining,
    all_tensors,
    assert_equal,
    one_thread,  # noqa: F401
    records,
    resumed_loop,
    rows_of_step,
    saving_loop,
)

from seekling.errors import CheckpointError
from seekling.train.loop import Hook
from seekling.train.state import Checkpoints
from seekling.train.stopping import Interrupted


def drawing(loop_seed=0):
    """A hook that consumes every random generator: only restored generators repeat its values."""
    return Hook("sample", 3, lambda step: {"torch": torch.rand(()).item(), "python": random.random()})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("stop", [4, 7])
def test_stop_and_resume_equals_the_uninterrupted_run(tmp_path, optimizer, dtype, stop):
    """24 rows an epoch, 4 a step: step 6 begins the second epoch, so one stop lies before its edge and one after."""
    how = dict(steps=10, optimizer=optimizer, dtype=dtype, hooks=[drawing()])
    random.seed(1), torch.manual_seed(1)
    whole = saving_loop(tmp_path / "whole", **how)
    whole.run()
    random.seed(1), torch.manual_seed(1)
    first = saving_loop(tmp_path / "cut", save_every=stop, **how)
    while first.step < stop:
        first.one_step()
        first._run_hooks()
    first.save()
    first.one_step()  # lost again: its log line must go
    random.seed(99), torch.manual_seed(99)
    second = resumed_loop(tmp_path / "cut", **how)
    assert second.step == stop
    second.run()
    assert_equal(all_tensors(second), all_tensors(whole))
    assert records(tmp_path / "cut") == records(tmp_path / "whole")
    assert (second.tokens, second.targets) == (whole.tokens, whole.targets)


def test_over_all_sessions_every_row_is_seen_once_an_epoch(tmp_path):
    seen = []

    def watched(step, batch):
        rows = rows_of_step(step, batch)
        seen.extend(tuple(r) for r in rows.tokens_BS.tolist())
        return rows

    def objective(model):
        return TinyPretraining(model, source=watched)

    saving_loop(tmp_path, steps=5, objective=objective).run()
    resumed_loop(tmp_path, steps=12, objective=objective).run()
    epochs = sorted(seen[:24]), sorted(seen[24:48])
    assert len(seen) == 48 and epochs[0] == epochs[1] and seen[:24] != seen[24:48]


def test_a_router_s_bias_survives_the_resume(tmp_path):
    first = saving_loop(tmp_path, steps=5)
    first.run()
    saved = {n: t for n, t in all_tensors(first).items() if n.endswith("correction_bias")}
    assert any(".layers.2." in n for n in saved) and all(t.any() for t in saved.values())
    assert_equal({n: t for n, t in all_tensors(resumed_loop(tmp_path, steps=9)).items() if n in saved}, saved)


def test_a_hook_the_stop_came_before_runs_after_the_resume(tmp_path):
    seen = []
    hook = Hook("eval", 2, lambda step: seen.append(step) or {"bpb": 1.0})
    first = saving_loop(tmp_path, steps=6, hooks=[hook])
    first.one_step(), first.one_step()
    first.save()
    second = resumed_loop(tmp_path, steps=6, hooks=[hook])
    second.run()
    assert seen == [2, 4]
    assert [(r["kind"], r["step"]) for r in records(tmp_path)][2:4] == [("eval", 2), ("step", 3)]


def test_generators_stay_in_step_when_a_run_is_stopped_and_killed_around_the_same_hook(tmp_path):
    """Saved before the sample of step 3, resumed, sampled, killed, resumed: the sample must be drawn again."""
    how = dict(steps=7, save_every=100, hooks=[drawing()])
    torch.manual_seed(1), random.seed(1)
    whole = saving_loop(tmp_path / "whole", **how)
    whole.run()
    torch.manual_seed(1), random.seed(1)
    first = saving_loop(tmp_path / "cut", **how)
    for _ in range(3):
        first.one_step()
    first.save()
    second = resumed_loop(tmp_path / "cut", **how)
    second._run_hooks()
    second.one_step()  # and is killed here
    third = resumed_loop(tmp_path / "cut", **how)
    third.run()
    assert records(tmp_path / "cut") == records(tmp_path / "whole")


def test_another_recipe_is_refused(tmp_path):
    saving_loop(tmp_path, steps=2).run()
    loop = saving_loop(tmp_path, steps=4, log_step=2)
    loop.pinned = {"recipe": "other", "data": "x"}
    with pytest.raises(CheckpointError, match="another data and recipe"):
        loop.restore(Checkpoints(tmp_path / "checkpoints").load())


def test_the_older_checkpoint_gives_the_same_run_when_the_newest_is_damaged(tmp_path):
    whole = saving_loop(tmp_path / "whole", steps=8)
    whole.run()
    saving_loop(tmp_path / "hurt", steps=6).run()
    (tmp_path / "hurt/checkpoints/step-000006/model.safetensors").write_bytes(b"half")
    said = []
    second = resumed_loop(tmp_path / "hurt", warn=said.append, steps=8)
    assert second.step == 4 and "step-000006" in said[0] and "step-000004" in said[0]
    second.run()
    assert_equal(all_tensors(second), all_tensors(whole))
    assert records(tmp_path / "hurt") == records(tmp_path / "whole")


def test_a_finished_run_has_nothing_left_to_do(tmp_path):
    first = saving_loop(tmp_path, steps=4)
    first.run()
    second = resumed_loop(tmp_path, steps=4)
    second.run()
    assert_equal(all_tensors(second), all_tensors(first))


# ---- signals and kills -------------------------------------------------------------------------------------------------


STEPS, HELD = 24, 7


class Slow(TinyPretraining):
    """Steps slow enough to be hit by a signal; at step ``HELD`` it says so and waits for a line."""

    def load(self, step):
        time.sleep(0.01)
        if step == HELD and sys.argv[2:] == ["held"]:
            print("held", flush=True)
            sys.stdin.readline()
        return super().load(step)


def victim(folder: Path) -> None:
    torch.set_num_threads(1)
    how = dict(steps=STEPS, save_every=1, keep=2, objective=Slow)
    if Checkpoints(folder / "checkpoints").found():
        loop = resumed_loop(folder, **how)
    else:
        Checkpoints(folder / "checkpoints").clean()
        loop = saving_loop(folder, **how)
    print("ready", flush=True)
    try:
        loop.run()
    except Interrupted as stop:
        print(stop, flush=True)
        raise


def start(folder: Path, *how: str) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, __file__, str(folder), *how],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Tensors and log of the run that nobody stopped (one thread, as in the subprocess)."""
    folder = tmp_path_factory.mktemp("undisturbed")
    torch.set_num_threads(1)
    loop = saving_loop(folder, steps=STEPS, save_every=1, objective=TinyPretraining)
    loop.run()
    return all_tensors(loop), records(folder)


def check_equal_in_the_end(folder, undisturbed):
    tensors, log = undisturbed
    done = resumed_loop(folder, steps=STEPS)
    assert done.step == STEPS
    assert_equal(all_tensors(done), tensors)
    assert records(folder) == log


def test_killed_at_random_moments_the_run_still_ends_the_same(tmp_path, undisturbed):
    luck = random.Random(4)
    for _ in range(4):
        process = start(tmp_path)
        time.sleep(luck.uniform(0.02, 0.35))
        process.kill()
        process.wait()
        if Checkpoints(tmp_path / "checkpoints").found():
            Checkpoints(tmp_path / "checkpoints").load()  # loadable as it lies there
    last = start(tmp_path)
    assert last.wait(timeout=300) == 0, last.stderr.read()
    assert not list((tmp_path / "checkpoints").glob(".unfinished-*"))
    check_equal_in_the_end(tmp_path, undisturbed)


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_says_how_to_go_on_and_exits(tmp_path, undisturbed, number, code):
    process = start(tmp_path, "held")
    assert process.stdout.readline() == "held\n"
    process.send_signal(number)
    out, err = process.communicate("\n", timeout=300)
    assert process.returncode == code, err
    assert f"--resume {tmp_path}" in out
    saved = Checkpoints(tmp_path / "checkpoints").load()
    assert saved.step == HELD + 1 and f"step {saved.step} of" in out
    last = start(tmp_path)
    assert last.wait(timeout=300) == 0, last.stderr.read()
    check_equal_in_the_end(tmp_path, undisturbed)


def test_a_second_ctrl_c_stops_at_once_and_an_older_checkpoint_stays(tmp_path):
    loop = saving_loop(tmp_path, steps=10)

    class Twice(TinyPretraining):
        def load(self, step):
            if step == 5:
                signal.raise_signal(signal.SIGINT)
                signal.raise_signal(signal.SIGINT)
            return super().load(step)

    loop.objective, before = Twice(loop.model), signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        loop.run()
    assert Checkpoints(tmp_path / "checkpoints").load().step == 4
    assert signal.getsignal(signal.SIGINT) is before


def stopped_while_loading_step_3(loop, sign):
    """Run until the signal, which comes inside the fourth step, has ended it."""

    class Once(TinyPretraining):
        def load(self, step):
            if step == 3:
                signal.raise_signal(sign)
            return super().load(step)

    loop.objective = Once(loop.model)
    with pytest.raises(Interrupted) as stop:
        loop.run()
    return stop.value


def test_ctrl_c_in_process_raises_after_the_step_is_done(tmp_path):
    loop = saving_loop(tmp_path, steps=10)
    assert stopped_while_loading_step_3(loop, signal.SIGINT).code == 130 and loop.step == 4
    assert Checkpoints(tmp_path / "checkpoints").load().step == 4


def test_steps_that_belong_together_are_done_before_a_run_stops(tmp_path):
    loop = saving_loop(tmp_path, steps=10, stop_every=3, save_every=0)
    stopped_while_loading_step_3(loop, signal.SIGTERM)
    assert loop.step == Checkpoints(tmp_path / "checkpoints").load().step == 6


if __name__ == "__main__":
    victim(Path(sys.argv[1]))
