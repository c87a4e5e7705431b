"""Own tasks: seeded, right by construction, judged exactly; expressions evaluated without running anything."""

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seekling.errors import RecipeError
from seekling.tasks import TASKS, get_task, reward_of
from seekling.tasks.base import Problem, untagged_answer
from seekling.tasks.expression import value_of


@pytest.mark.parametrize("name", sorted(set(TASKS) - {"code"}))  # whose answers run in the sandbox: test_tasks_user.py
@pytest.mark.parametrize("level", [1, 2, 3])
def test_the_given_answer_is_right_and_another_is_not(name, level):
    task = get_task(name)
    for index in range(40):
        problem = task.problem(5, index, level)
        assert reward_of(task, problem, f"so <answer>{problem.answer}</answer>").total == 1.0, problem
        assert reward_of(task, problem, f"<answer>{problem.answer}1</answer>").accuracy == 0.0, problem


@pytest.mark.parametrize("name", TASKS)
def test_equal_numbers_give_equal_problems_and_seeds_differ(name):
    task = get_task(name)
    assert task.problem(1, 7, 2) == task.problem(1, 7, 2)
    assert [task.problem(1, i, 2).question for i in range(20)] != [task.problem(2, i, 2).question for i in range(20)]


CASES = [("addition", r"What is (.*)\?"), ("subtraction", r"What is (.*)\?"), ("multiplication", r"What is (.*)\?"),
         ("chain_sum", r"What is (.*)\?")]  # fmt: skip


@pytest.mark.parametrize(("name", "question"), CASES)
def test_arithmetic_answers_agree_with_the_evaluator(name, question):
    import re

    for index in range(60):
        problem = get_task(name).problem(3, index, 1 + index % 3)
        found = value_of(re.match(question, problem.question)[1])
        assert found is not None and found.value == int(problem.answer)


@pytest.mark.parametrize(
    ("reply", "accuracy", "form"),
    [
        ("<answer>7</answer>", 1, 1),
        ("thinking … <answer> 7 </answer>\n", 1, 1),
        ("<answer>8</answer>", 0, 1),
        ("7", 0, 0),
        ("<answer>7</answer> or <answer>8</answer>", 0, 0),
        ("<answer>7</answer> surely", 0, 0),
        ("<answer>it may be 1 2 3 4 5 6 7</answer>", 0, 1),
    ],
)
def test_reward_needs_one_answer_at_the_end(reply, accuracy, form):
    reward = reward_of(get_task("addition"), Problem("What is 3 + 4?", "7", "addition"), reply)
    assert (reward.accuracy, reward.format) == (accuracy, form)
    assert reward.total == pytest.approx(0.9 * accuracy + 0.1 * form)


@pytest.mark.parametrize(
    ("reply", "accuracy", "form"),
    [("3 + 4 = 7. The answer is 7.", 1, 1), ("3 + 4 = 8. The answer is 8.", 0, 1), ("The answer is 7.", 0, 0), ("7", 0, 0)],
)
def test_a_form_takes_the_place_of_tags(reply, accuracy, form):
    problem = Problem("What is 3 + 4?", "7", "addition")
    reward = reward_of(get_task("addition"), problem, reply, form=r".+ The answer is (\d+)\.")
    assert (reward.accuracy, reward.format) == (accuracy, form)
    assert reward.total == pytest.approx(0.9 * accuracy + 0.1 * form)


def test_without_tags_the_last_number_counts():
    problem = Problem("What is 3 - 10?", "-7", "subtraction")
    assert untagged_answer("3 - 10 = -7.", problem) == "-7"
    assert reward_of(get_task("subtraction"), problem, "It is −7", tagged=False).total == 1.0
    assert reward_of(get_task("subtraction"), problem, "-7 and 5", tagged=False).total == 0.0


def test_countdown_takes_any_right_expression_and_no_other():
    task, problem = (
        get_task("countdown"),
        Problem("Use each of 2 3 4 once with + - * / and brackets to make 14.", "", "countdown"),
    )
    for answer, right in [("2 + 3 * 4", True), ("(3*4)+2", True), ("14", False), ("2 + 3 * 4 + 0", False), ("7 + 7", False)]:
        assert task.right(answer, problem) is right, answer


EXPRESSION = st.recursive(
    st.integers(0, 99).map(str),
    lambda inner: st.tuples(inner, st.sampled_from("+-*/"), inner).map(lambda p: f"({p[0]} {p[1]} {p[2]})"),
    max_leaves=6,
)


@given(EXPRESSION)
@settings(max_examples=150)
def test_expressions_have_the_value_that_exact_fractions_give(text):
    import re

    try:
        want = eval(re.sub(r"(\d+)", r"Fraction(\1)", text), {"Fraction": Fraction})
    except ZeroDivisionError:
        want = None
    found = value_of(text)
    assert (found.value if found else None) == want


@given(st.text(alphabet="0123456789+-*/() _.abc\n", max_size=40))
@settings(max_examples=300)
def test_any_text_is_a_value_or_none_and_never_an_error(text):
    value_of(text)


@pytest.mark.parametrize("text", ["__import__('os')", "9**9", "1 2", "", "(" * 100 + "1" + ")" * 100, "2 +", "1e9", "7" * 300])
def test_what_is_no_expression_has_no_value(text):
    assert value_of(text) is None


def test_an_unknown_task_is_answered_with_its_neighbour():
    with pytest.raises(RecipeError, match="did you mean addition"):
        get_task("adition")
