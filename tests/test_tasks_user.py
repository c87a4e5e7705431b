"""Tasks from elsewhere: users' files with reward files and tests, reasoning-gym behind a strict judge, code in the sandbox;
reward parts for language and length."""

import importlib.util
import json
import random

import pytest

from seekling.errors import RecipeError
from seekling.sandbox import confinement
from seekling.tasks import get_task, reward_of, task_at
from seekling.tasks.base import Problem, Reward, Task, is_unseen
from seekling.tasks.code import CODE, code_of, passes
from seekling.tasks.lessons import lesson
from seekling.tasks.named import with_paths
from seekling.tasks.shaping import language_share, overlong_penalty, shaped
from seekling.tasks.stories import word_problem
from seekling.tasks.user import RewardFile, user_task

needs_sandbox = pytest.mark.skipif(confinement()[0] == "none", reason="nothing here can confine a program")
needs_gym = pytest.mark.skipif(importlib.util.find_spec("reasoning_gym") is None, reason="reasoning-gym is not installed")


# ---- the split ---------------------------------------------------------------------------------------------------------------


def test_practice_and_evaluation_share_no_question_whatever_the_seeds():
    task = get_task("comparison")
    practised = {task.problem(seed, i, 2, unseen=False).question for seed in (0, 1) for i in range(300)}
    asked = {p.question for p in task.problems(7, 200, 2, unseen=True)}
    assert len(asked) == 200 and not practised & asked


def test_a_task_of_few_questions_gives_each_once():
    few = get_task("addition").problems(0, 500, 1, unseen=True)
    assert len(few) == len({p.question for p in few}) < 100


def test_a_level_may_stand_behind_the_name():
    assert task_at("sorting@2", 1)[1] == 2 and task_at("sorting", 3)[1] == 3
    with pytest.raises(RecipeError, match="levels 1 to 6"):
        task_at("sorting@7", 1)


@pytest.mark.parametrize("name", ["addition@2", "chain_sum@3", "comparison@2", "multiplication@2", "legs@2", "equation@1"])
def test_worked_steps_are_true(name):
    task, level = task_at(name, 1)
    for index in range(30):
        for step in task.problem(2, index, level).steps.split(", "):
            left, sign, right = step.partition(next(s for s in "=<>" if s in step))
            left, right = eval(left.replace("/", "//")), int(right)
            assert {"=": left == right, "<": left < right, ">": left > right}[sign], step


@pytest.mark.parametrize("level", [1, 2, 3])
def test_word_problems_end_in_the_result_of_their_last_step(level):
    for seed in range(60):
        question, answer, steps = word_problem(random.Random(seed), level)
        assert steps.rsplit("= ", 1)[1] == answer and question.endswith("?") and int(answer) >= 0


def test_a_lesson_is_the_question_as_it_is_asked_with_steps_and_answer():
    task, level = task_at("sorting@1", 1)
    problem = task.problem(0, 0, level)
    asked, reply = lesson(task, problem)
    assert asked["content"] == f"{problem.question}\n{task.hint}"
    assert (reply["reasoning_content"], reply["content"]) == (problem.steps, problem.answer)


# ---- users' files ------------------------------------------------------------------------------------------------------------


def problems(tmp_path, rows=None, name="p.jsonl"):
    path = tmp_path / name
    rows = rows if rows is not None else [{"question": f"Say {i}.", "answer": str(i)} for i in range(30)]
    path.write_text("".join(json.dumps(row) + "\n" if isinstance(row, dict) else row + "\n" for row in rows))
    return path


def test_the_same_problems_are_drawn_wherever_their_file_lies(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    here, there = (user_task(str(problems(tmp_path / folder))) for folder in "ab")
    assert [here.problem(0, i).question for i in range(40)] == [there.problem(0, i).question for i in range(40)]


def test_a_file_of_questions_is_a_task_with_a_part_kept_for_evaluation(tmp_path):
    task = get_task(str(problems(tmp_path)))
    seen = {task.problem(0, i, unseen=False).question for i in range(800)}
    kept = {p.question for p in task.problems(0, 30, unseen=True)}
    assert len(seen) + len(kept) == 30 and not seen & kept
    assert task.right(" 3. ", Problem("Say 3.", "3", task.name)) and not task.right("4", Problem("Say 3.", "3", task.name))


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("{not json", "not valid JSON"),
        ('{"question": "a"}', "needs answer as text"),
        ('{"question": "a", "answer": "b", "points": 3}', "unknown keys .points."),
        ('{"question": "a", "function": "f"}', "function and tests together"),
        ('{"question": "a", "function": "f", "tests": [[1, 2]]}', "tests as a list"),
        ('{"question": "a", "function": "f(x)", "tests": [[[1], 2]]}', "name of a Python function"),
    ],
)
def test_a_broken_line_is_named(tmp_path, row, says):
    with pytest.raises(RecipeError, match=rf"p\.jsonl:2 .*{says}"):
        user_task(str(problems(tmp_path, ['{"question": "q", "answer": "a"}', row])))


def reward(tmp_path, text):
    path = tmp_path / "reward.py"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("name", "there"),
    [
        ("p.jsonl", "/x/p.jsonl"),
        ("p.jsonl@2", "/x/p.jsonl@2"),
        ("p.jsonl:r.py", "/x/p.jsonl:/x/r.py"),
        ("p.jsonl:r@2.py@3", "/x/p.jsonl:/x/r@2.py@3"),
        ("addition@2", "addition@2"),
        ("rg:chain_sum", "rg:chain_sum"),
    ],
)
def test_the_files_in_a_task_s_name_can_be_named_from_elsewhere(name, there):
    assert with_paths(name, lambda path: f"/x/{path}") == there
    assert with_paths(there, lambda path: path.removeprefix("/x/")) == name


def test_json_that_is_nested_without_end_is_named(tmp_path):
    (tmp_path / "p.jsonl").write_text("[" * 100_000)
    with pytest.raises(RecipeError, match=r"p\.jsonl:1 is not valid JSON"):
        user_task(str(tmp_path / "p.jsonl"))


def test_a_reward_file_judges_in_a_process_of_its_own(tmp_path):
    import os

    path = reward(tmp_path, "import os\nprint('noise')\ndef reward(answer, problem):\n    return int(answer) / 100\n")
    task = get_task(f"{problems(tmp_path)}:{path}")
    assert reward_of(task, Problem("Say 3.", "3", task.name), "25", tagged=False).total == 0.25
    other = RewardFile(
        reward(tmp_path, f"import os\ndef reward(a, p):\n    return os.getpid() != {os.getpid()}\n"), task.failures
    )
    assert other("x", Problem("", "", "")) == 1.0


def test_a_reward_that_raises_hangs_or_is_no_share_is_worth_nothing_and_counted(tmp_path):
    path = reward(
        tmp_path,
        "import os, time\n"
        "def reward(answer, problem):\n"
        "    return {'good': lambda: 1, 'raise': lambda: 1 / 0, 'nan': lambda: float('nan'), 'two': lambda: 2,\n"
        "            'text': lambda: 'much', 'hang': lambda: time.sleep(60), 'exit': lambda: os._exit(3)}[answer]()\n",
    )
    task = Task("t", lambda r, level: ("q", "a"))
    judge = RewardFile(path, task.failures, seconds=30)
    problem = Problem("q", "good", "t")
    for answer in ("raise", "nan", "two", "text", "hang", "exit"):
        judge.seconds = 0.5 if answer == "hang" else 30
        assert judge(answer, problem) == 0.0
    assert judge("good", problem) == 1.0  # a new process has taken over
    assert task.failures == {"raised": 1, "nan": 1, "out of range": 1, "other": 1, "hung": 1, "died": 1}
    judge.close()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("def reward(a, p) return 1", "SyntaxError"),
        ("def score(a, p): return 1", "defines no function reward"),
        ("import nothing_of_that_name", "ModuleNotFoundError"),
        ("def reward(a, p): raise KeyError('x')", "raises .KeyError"),
        ("def reward(a, p): return float('nan')", "gives"),
        ("def reward(a, p): return 7", "gives"),
    ],
)
def test_a_reward_file_that_cannot_work_is_refused_before_the_run(tmp_path, text, says):
    with pytest.raises(RecipeError, match=says):
        user_task(f"{problems(tmp_path)}:{reward(tmp_path, text)}")


def test_too_few_questions_to_keep_some_are_refused(tmp_path):
    with pytest.raises(RecipeError, match="too few"):
        user_task(str(problems(tmp_path, [{"question": "only one", "answer": "1"}])))


# ---- code --------------------------------------------------------------------------------------------------------------------


@needs_sandbox
@pytest.mark.parametrize("level", [1, 2, 3])
def test_the_known_solution_passes_and_another_function_does_not(level):
    for index in range(2):
        problem = CODE.problem(0, index, level)
        assert CODE.right(f"Sure:\n```python\n{problem.answer}\n```", problem), problem
        assert not CODE.right("def f(x):\n    return None", problem)


@needs_sandbox
@pytest.mark.parametrize(
    "code",
    [
        "def f(n): return n +",
        "import sys\nsys.exit(0)",
        "print([4, 6])",
        "def f(n):\n    while True: pass",
        "def f(n): return True",
        "import os\ndef f(n): return open('/etc/hostname').read()",
    ],
)
def test_programs_that_do_not_give_the_results_fail(code):
    from seekling.sandbox import Limits

    assert not passes(code, "f", [([1], 2), ([2], 4)], Limits(seconds=0.5))


def test_the_program_is_what_the_last_fence_holds():
    assert code_of("a\n```python\nx\n```\nb\n```\ny\n```") == "y\n" and code_of("z") == "z"


@needs_sandbox
def test_a_users_problem_with_tests_is_judged_by_its_results(tmp_path):
    rows = [{"question": f"f(n) = n + {i}", "function": "f", "tests": [[[1], 1 + i], [[5], 5 + i]]} for i in range(1, 13)]
    task = user_task(str(problems(tmp_path, rows)))
    problem = task.problem(0, 0)
    i = problem.question.rsplit(" ", 1)[1]
    assert task.right(f"def f(n): return n + {i}", problem) and not task.right("def f(n): return n", problem)


# ---- reasoning-gym -----------------------------------------------------------------------------------------------------------


@needs_gym
def test_gym_tasks_are_judged_strictly():
    task, level = task_at("rg:spell_backward@2", 1)
    problem = task.problem(0, 3, level)
    assert task.right(problem.answer, problem) and problem == task.problem(0, 3, level)
    for junk in (
        "",
        problem.answer[:-1],
        problem.answer + "x",
        f"I think the answer is {problem.answer} ok",
        "\x00",
        "0" * 500,
    ):
        assert not task.right(junk, problem), junk


@needs_gym
def test_gym_tasks_whose_scorers_pay_for_wrong_answers_are_not_offered():
    with pytest.raises(RecipeError, match="can be judged exactly"):
        get_task("rg:coin_flip")
    with pytest.raises(RecipeError, match="did you mean rg:chain_sum"):
        get_task("rg:chain_sums")


@needs_gym
@pytest.mark.slow
def test_every_gym_task_offered_takes_its_own_answer_and_no_junk():
    from seekling.tasks.gym import ALLOWED, gym_task

    for name in ALLOWED:
        task = gym_task(name)
        for index in range(3):
            problem = task.problem(11, index)
            assert task.right(problem.answer, problem), (name, problem)
            for junk in ("0", "yes", "", "[]", "x"):
                assert not task.right(junk, problem) or junk == problem.answer, (name, junk, problem.answer)


# ---- language and length -----------------------------------------------------------------------------------------------------


def test_the_share_of_a_language_counts_words_and_characters():
    assert language_share("We add 3 and 4", "en") == 1.0 and language_share("12 + 3 = 15", "zh") == 1.0
    assert language_share("so 我们 add", "en") == 0.5 and language_share("so 我们 add", "zh") == 0.5


def test_length_costs_nothing_up_to_the_margin_and_one_at_the_limit():
    assert [overlong_penalty(n, 100, 20) for n in (10, 80, 90, 100, 120)] == [0.0, 0.0, -0.5, -1.0, -1.0]
    assert overlong_penalty(100, 100, 0) == 0.0


def test_shaped_rewards_keep_their_parts():
    found = shaped(Reward(1.0, 1.0, 1.0), "ja 好", 95, language="en", weight=0.2, limit=100, margin=10)
    assert (found.language, found.overlong) == (0.5, -0.5) and found.total == pytest.approx(0.6)


def test_the_split_is_a_third():
    assert 0.3 < sum(is_unseen(f"question {i}") for i in range(3000)) / 3000 < 0.37


# ---- examples ----------------------------------------------------------------------------------------------------------------


def test_the_examples_are_recipes_and_conversations_that_are_accepted(tmp_path):
    import subprocess
    import sys
    from pathlib import Path

    from seekling.data.conversations import read_conversations
    from seekling.train.distill_recipe import DistillRecipe
    from seekling.train.grpo_recipe import GrpoRecipe

    folder = Path(__file__).parents[1] / "examples"
    for path in sorted(folder.glob("*.toml")):
        kind = DistillRecipe if "[teach]" in path.read_text("utf-8") else GrpoRecipe
        recipe = kind.load(path)
        assert all(task_at(name, recipe.practice.level) for name in recipe.practice.tasks), path
    made = subprocess.run([sys.executable, folder / "shop_talks.py"], capture_output=True, text=True, check=True).stdout
    (tmp_path / "talks.jsonl").write_text(made)
    assert len(read_conversations([tmp_path / "talks.jsonl"])) == 300
