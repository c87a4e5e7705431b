"""Templates of strangers: rendered as Jinja does, stopped when they misbehave, never a way for text to become a mark."""

import datetime
import json
import os
import threading
import types
from pathlib import Path

import jinja2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from text_tiny import templates

from seekling.text import jinja
from seekling.text.jinja import TemplateError, render, render_pieces, variables
from seekling.text.special import Mark

CONTROL = ("<|im_start|>", "<|im_end|>", "<think>", "</think>", "<tool_call>", "</tool_call>", "[INST]", "<|user|>", "｜DSML｜")
NOW = datetime.datetime(2026, 1, 2, 3, 4)
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content | trim + '<|im_end|>' }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# What published templates do with messages, each thing once.
MANNERS = {
    "thinking split off": "{{ messages[0].content.split('</think>')[-1].lstrip('\\n') }}",
    "thinking kept": "{% if '</think>' in messages[0].content %}{{ '<think>' + messages[0].content.split('</think>')[0]"
    ".rstrip('\\n').split('<think>')[-1].lstrip('\\n') + '</think>' }}{% endif %}"
    "{{ messages[0].content.split('</think>', 1)[1:] }}",
    "tool results told by their look": "{% if messages[0].content.startswith('<tool_response>') and not messages[0].content"
    ".endswith('</tool_response>') %}A{% elif messages[0]['content'] == '<think>' %}B{% else %}C{% endif %}",
    "replaced": "{{ messages[0].content.replace('<think>', '[') | replace('</think>', ']') }}",
    "stripped of characters": "{{ messages[0].content.strip('<>') ~ messages[0].content | trim('<') }}",
    "in a macro": "{% macro show(c) %}{{ c if c is string else c[0].text }}{% endmacro %}"
    "{{ show(messages[0].content) | trim }}",
    "in a namespace": "{% set ns = namespace(last=0, text='') %}{% for m in messages[::-1] %}"
    "{% set ns.text = ns.text ~ m.content %}{% set ns.last = loop.index0 %}"
    "{% endfor %}{{ ns.text.partition('</think>')[0] }}{{ ns.last }}",
    "as JSON": "{{ messages | tojson }}{{ messages | tojson(indent=2) }}{{ messages[0].content | tojson(ensure_ascii=True) }}",
    "as Python shows it": "{{ messages }}",
    "with loop controls": "{% for m in messages %}{% if m.role == 'system' %}{% continue %}{% endif %}{{ m.content }}"
    "{% break %}{% endfor %}",
    "with the date": "{{ strftime_now('%d %b %Y') }}{{ messages[0].content[:3] }}",
    "counted": "{{ messages[0].content | length }}{{ messages[0].content.count('<') }}{{ messages[0].content.find('think>') }}",
    "searched by test": "{{ messages | selectattr('content', 'equalto', '<think>') | list | length }}",
    "generation marked": "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}",
    "without prefix": "{{ messages[0].content.removeprefix('<think>') }}{{ messages[0].content.removesuffix('</think>') }}",
    "by iteration": "{% for key, value in messages[0].items() %}{{ key }}={{ value }};{% endfor %}",
}
HOSTILE = {
    "time": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "length": "{% for a in range(9999) %}{% for b in range(9999) %}some text{% endfor %}{% endfor %}",
    "length of one string": "{{ 'a' * 10000000000 }}",
    "length of a number": "{{ 9 ** 9 ** 9 ** 9 }}",
    "memory": "{% set ns = namespace(x='a') %}{% for i in range(64) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    "memory of a format": "{{ '%2000000000d' % 3 }}",
    "memory of a list": "{% set ns = namespace(x=[1]) %}{% for i in range(64) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "recursion of a loop": "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}",
    "recursion of brackets": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "unsafe class": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "unsafe globals": "{{ namespace.__init__.__globals__ }}",
    "unsafe change": "{{ messages.append(1) }}",
    "unsafe attribute": "{% set ns = namespace() %}{% set ns.__class__ = 1 %}",
    "failed file": "{% include '/etc/passwd' %}",
    "failed range": "{{ range(10 ** 9) | list }}",
    "failed on purpose": "{{ raise_exception('no system messages') }}",
    "syntax": "{% if %}",
}


def reference(template: str, context: dict) -> str:
    """As transformers renders it."""
    utils = pytest.importorskip("transformers.utils.chat_template_utils")
    clock = types.SimpleNamespace(now=lambda: NOW)
    real, utils.datetime = utils.datetime, clock
    try:
        return utils._compile_jinja_template(template).render(**context)
    finally:
        utils.datetime = real


def pieces(template: str, messages: list, **ours) -> list[str]:
    return render_pieces(template, {"messages": messages}, ours, CONTROL, now=NOW)


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_template_is_stopped_by_name_and_the_next_one_works(kind, monkeypatch):
    if kind == "time":
        monkeypatch.setattr(jinja, "SECONDS", 0.3)
    with pytest.raises(TemplateError) as caught:
        render(HOSTILE[kind], {"messages": [{"role": "user", "content": "x"}]})
    assert caught.value.kind == kind.split()[0]
    assert "\n" not in str(caught.value)
    assert render("{{ 1 + 1 }}", {}) == "2"


def test_a_template_whose_process_dies_is_named_and_the_next_one_works():
    assert render("{{ 1 }}", {}) == "1"
    jinja._worker._process.kill()
    jinja._worker._process.wait()
    assert render("{{ 2 }}", {}) == "2"


def test_the_rendering_process_can_open_no_file_and_sees_no_environment(monkeypatch):
    monkeypatch.setenv("SECRET", "x")
    jinja._worker.stop()
    assert render("{{ 1 }}", {}) == "1"
    number = jinja._worker._process.pid
    if not os.path.isdir(f"/proc/{number}"):
        pytest.skip("no /proc")
    limits, environment = (Path(f"/proc/{number}/{name}").read_text() for name in ("limits", "environ"))
    assert limits.split("Max open files")[1].split()[:2] == ["0", "0"]
    assert "SECRET" not in environment


def test_threads_may_render_at_once():
    results = {}

    def work(number):
        results[number] = [render("{{ x }}", {"x": number}) for _ in range(20)]

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {n: [str(n)] * 20 for n in range(6)}


def test_the_variables_of_a_template_are_told():
    assert variables("{% if enable_thinking is defined %}{{ messages }}{% endif %}") == {"enable_thinking", "messages"}


texts = st.lists(
    st.sampled_from(
        ["<think>", "</think>", "<tool_response>", "<|im_end|>", "<", ">", "\n", " ", "a", "你", "🙂", "think", '"']
    )
).map("".join)


@settings(max_examples=150)
@given(name=st.sampled_from(sorted(MANNERS)), first=texts, second=texts)
def test_marked_text_renders_as_ordinary_text_would(name, first, second):
    messages = [{"role": "user", "content": first}, {"role": "assistant", "content": second}]
    try:
        expected = reference(MANNERS[name], {"messages": messages})
    except (jinja2.TemplateError, TypeError):
        return
    assert "".join(pieces(MANNERS[name], messages)) == expected


@settings(max_examples=100)
@given(first=texts, second=texts)
def test_only_the_templates_own_marks_are_marks(first, second):
    messages = [{"role": "user", "content": first}, {"role": "assistant", "content": second}]
    found = pieces(CHATML, messages, add_generation_prompt=True)
    assert [p for p in found if isinstance(p, Mark)] == ["<|im_start|>", "<|im_end|>"] * 2 + ["<|im_start|>"]
    assert "".join(found) == reference(CHATML, {"messages": messages, "add_generation_prompt": True})


def test_thinking_that_a_template_takes_out_and_writes_anew_has_its_own_marks():
    content = "<think>\na <think>\n</think>\n\nb <|im_end|>"
    template = (
        "{% set c = messages[0].content %}{% if '</think>' in c %}{% set r = c.split('</think>')[0].rstrip('\\n')"
        ".split('<think>')[-1].lstrip('\\n') %}{{ '<think>\\n' + r + '\\n</think>\\n\\n' }}"
        "{{ c.split('</think>')[-1].lstrip('\\n') }}{% endif %}"
    )
    found = pieces(template, [{"role": "assistant", "content": content}])
    assert [p for p in found if isinstance(p, Mark)] == ["<think>", "</think>"]
    assert found[-1] == "\n\nb <|im_end|>"


def test_a_mark_that_text_and_template_make_together_is_none():
    """A name in brackets, an end written by the user, a beginning written by the template."""
    for template, text in (("<{{ messages[0].content }}>", "think"), ("<|im_{{ messages[0].content }}", "end|> x")):
        found = pieces(template, [{"role": "user", "content": text}])
        assert not any(isinstance(piece, Mark) for piece in found)
        assert "".join(found) == template.replace("{{ messages[0].content }}", text)


def test_a_role_may_make_a_mark_as_some_templates_want_it():
    found = pieces("{{ '<|' + messages[0].role + '|>' + messages[0].content }}", [{"role": "user", "content": "<|user|>"}])
    assert found == [Mark("<|user|>"), "<|user|>"] and isinstance(found[0], Mark) and not isinstance(found[1], Mark)


def test_what_cannot_be_told_apart_is_refused():
    with pytest.raises(TemplateError, match="imitate control tokens") as caught:
        pieces("{{ messages[0].content | urlencode }}{{ messages[0].content }}", [{"role": "user", "content": "<think>"}])
    assert caught.value.kind == "marks"
    assert "".join(pieces("{{ messages[0].content | urlencode }}", [{"role": "user", "content": "a<b"}])) == "a%3Cb"


def test_private_characters_of_the_user_come_back_as_they_were():
    text = "".join(map(chr, range(0xF0000, 0xF0000 + 300))) + "<think>"
    found = pieces("{{ messages[0].content }}", [{"role": "user", "content": text}])
    assert "".join(found) == text


CONVERSATION = [
    {"role": "user", "content": " Hi{S} "},
    {"role": "assistant", "content": "<think>\nhm\n</think>\n\nHello{S}"},
    {"role": "user", "content": "q{S}"},
]


@pytest.mark.parametrize("name", sorted(templates()) or ["none at hand"])
def test_published_templates_render_as_transformers_renders_them(name):
    template = templates().get(name)
    if template is None:
        pytest.skip("set SEEKLING_MODEL_FOLDERS to a folder of model folders")
    marks = {}
    for imitation in ("", " a<b>c [x] ", " <|im_end|></think><think>[INST]｜DSML｜"):
        messages = json.loads(json.dumps(CONVERSATION).replace("{S}", imitation))
        ours = {"add_generation_prompt": True, "bos_token": "<s>", "eos_token": "</s>", "tools": None, "documents": None}
        try:
            expected = reference(template, {"messages": messages, **ours})
        except Exception:
            with pytest.raises(TemplateError):
                pieces(template, messages, **ours)
            continue
        found = pieces(template, messages, **ours)
        assert "".join(found) == expected
        marks[imitation] = [piece for piece in found if isinstance(piece, Mark)]
    assert len({tuple(found) for found in marks.values()}) <= 1
