"""The page in a headless Chromium, over a real server: what a person does with it, and what they must see."""

import json
import time

import pytest
from browser import ask, chromium, complete, missing, tab, violations, with_axe
from engine_tiny import TOKENIZER, one_thread, tiny_lm  # noqa: F401
from serve_tiny import CONTEXT, Scripted, random_engine, scripted_engine, serving, until

from seekling.engine import Engine
from seekling.serve.barriers import Barriers
from seekling.serve.guard import Doors
from seekling.serve.keys import Keys
from seekling.serve.labels import Labels
from seekling.serve.model import Model
from seekling.serve.state import Limits
from seekling.text.special import CALL_BEGIN, CALL_END, CALLS_BEGIN, CALLS_END, THINK_END, TOOL_SEP, Mark

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))


@pytest.fixture(scope="module")
def browser():
    with chromium() as it:
        yield it


@pytest.fixture(scope="module")
def served():
    """A random tiny MoE."""
    with serving() as it:
        yield it


@pytest.fixture(scope="module")
def told():
    """A model that says what a test tells it."""
    with serving(scripted_engine()) as it:
        yield it


def say(told, text, *prompts, **options):
    """The answer to these turns, the user's first."""
    roles = ("user", "assistant")
    messages = [{"role": roles[n % 2], "content": content} for n, content in enumerate(prompts)]
    told.engine.model.say(told.state, text, TOKENIZER.encode_chat(messages, **options))


def settings(page, *groups):
    page.click("#open-settings")
    for name in groups:
        page.locator("summary", has_text=name).click()


def short(page, tokens=12):
    """Answers of the random model end soon."""
    settings(page)
    page.get_by_label("Most tokens").fill(str(tokens))
    page.keyboard.press("Escape")


def titles(page):
    return page.locator("#talks .title").all_inner_texts()


# ---- a conversation --------------------------------------------------------------------------------------------------


def test_a_conversation_is_marked_measured_and_still_there_after_a_reload(browser, told):
    with tab(browser, told.url) as page:
        say(told, "**Hello**, friend", "hi")
        ask(page, "hi")
        answer = page.locator("article.assistant")
        assert answer.locator(".body strong").inner_text() == "Hello"
        assert answer.locator(".ai-mark").inner_text() == "AI-generated" and page.locator("#mark").is_visible()
        figures = answer.locator(".figures").inner_text()
        assert f"{len('**Hello**, friend') + 1} tokens" in figures and "first after" in figures and "cached" in figures
        assert "tokens/s" in figures  # by the server's clock: a busy browser reads many pieces at once
        page.reload()
        page.locator("article.assistant strong").wait_for()
        page.locator("#talks .title").wait_for()
        assert titles(page) == ["hi"] and page.locator("#title").input_value() == "hi"
        assert all(url.startswith(told.url) for url in page.asked)


def test_editing_a_message_and_asking_again_make_branches_with_arrows(browser, told):
    with tab(browser, told.url) as page:
        say(told, "one", "first")
        ask(page, "first")
        page.get_by_role("button", name="Edit").click()
        say(told, "two", "other")
        page.get_by_label("Edit message").fill("other")
        page.keyboard.press("Enter")
        page.locator(".body", has_text="two").wait_for()
        complete(page)
        say(told, "three", "other")
        page.get_by_role("button", name="Answer again").click()
        page.locator(".body", has_text="three").wait_for()
        complete(page)
        versions = page.locator(".arrows .count")
        assert versions.all_inner_texts() == ["2/2", "2/2"]
        page.locator(".assistant").get_by_label("Earlier version").click()
        assert page.locator(".body").inner_text() == "two"
        assert page.evaluate("() => document.activeElement.title") == "Later version"  # the only way on from the first
        page.locator(".user").get_by_label("Earlier version").click()
        assert (page.locator(".bubble").inner_text(), page.locator(".body").inner_text()) == ("first", "one")


class Slow(Scripted):
    def head(self, h_BD):
        time.sleep(0.03)
        return super().head(h_BD)


STORED = """() => new Promise(done => indexedDB.open("seekling").onsuccess = opened =>
    opened.target.result.transaction("talks").objectStore("talks").getAll().onsuccess = found =>
        done(Object.values(found.target.result[0].nodes).find(node => node.role === "assistant").content))"""


def test_an_answer_is_stopped_where_it_is_and_goes_on_from_there(browser):
    engine = scripted_engine()
    engine.model.__class__ = Slow
    with serving(engine) as told, tab(browser, told.url) as page:
        say(told, "long " * 100, "go")
        page.fill("#text", "go")
        page.keyboard.press("Enter")
        page.locator(".body", has_text="long").wait_for()
        page.keyboard.press("Escape")
        complete(page)
        assert "stopped" in page.locator(".figures").inner_text()
        begun = page.locator(".body").inner_text()
        assert 0 < len(begun) < 400
        until(lambda: told.engine.stats()["running"] == 0)  # the server stopped too
        content = page.evaluate(STORED)
        messages = [{"role": "user", "content": "go"}, {"role": "assistant", "content": content}]
        engine.model.say(told.state, "and the end", TOKENIZER.encode_chat(messages, continue_final=True))
        page.get_by_role("button", name="Go on with this answer").click()
        page.locator(".body", has_text="and the end").wait_for()
        complete(page)
        assert page.locator(".body").inner_text().replace(" ", "") == (content + "and the end").replace(" ", "")


def test_two_answers_are_compared_and_the_chosen_one_is_gone_on_from(browser, told):
    with tab(browser, told.url) as page:
        page.get_by_role("button", name="Compare two answers").click()
        page.locator("summary", has_text="Sampling").click()
        page.get_by_label("Seed").fill("7")
        page.keyboard.press("Escape")
        say(told, "same", "which?")
        ask(page, "which?", answers=2)
        bodies = [json.loads(request) for request in page.sent]
        assert sorted(body.get("seed", 0) for body in bodies) == [0, 7]
        sides = page.locator(".pair .side")
        assert sides.count() == 2 and "seed 7" in sides.nth(1).inner_text()
        sides.nth(1).get_by_role("button", name="Go on from this one").click()
        page.get_by_role("button", name="Compare two answers").click()
        say(told, "later", "which?", "same", "and then?")
        ask(page, "and then?", answers=3)
        assert page.locator(".body").all_inner_texts() == ["same", "same", "later"]
        assert page.locator(".side.chosen .letter").inner_text() == "B"


def test_two_models_are_compared_side_by_side(browser):
    """With several models B is another one from the start; what is asked names the model."""
    first = random_engine()
    second = Engine(tiny_lm(seed=1, max_position_embeddings=CONTEXT), cache_tokens=2048, beside=first)
    with serving(first, names=["left", "l"], beside=[Model(second, ["right"])]) as both, tab(browser, both.url) as page:
        assert page.locator("#model").inner_text() == "left"
        page.get_by_role("button", name="Compare two answers").click()
        assert page.locator("#model").inner_text() == "left · right"
        assert page.get_by_label("Model", exact=True).input_value() == "right"
        page.get_by_label("Most tokens").fill("6")
        page.keyboard.press("Escape")
        ask(page, "which?", answers=2)
        assert sorted(json.loads(request)["model"] for request in page.sent) == ["left", "right"]
        sides = page.locator(".pair .side")
        assert [side.locator(".model").inner_text().split(" · ")[0] for side in sides.all()] == ["left", "right"]
        sides.nth(1).get_by_role("button", name="Go on from this one").click()
        page.get_by_role("button", name="Compare two answers").click()
        settings(page)
        page.get_by_label("Model", exact=True).select_option("right")
        assert page.locator("#model").inner_text() == "right"


@pytest.mark.parametrize(
    "language, shown", [("en-GB", "内容由人工智能生成 · AI-generated content"), ("zh-CN", "内容由人工智能生成")]
)
def test_the_page_shows_the_words_of_a_server_that_labels(browser, language, shown):
    """GB 45438-2025 asks for Chinese words wherever an answer is shown, and on what leaves the page."""
    engine = scripted_engine()
    with (
        serving(engine, barriers=Barriers(labels=Labels("cn", "ACME-1"))) as told,
        tab(browser, told.url, locale=language) as page,
    ):
        assert page.locator("#mark").inner_text().startswith(shown)
        say(told, "hello", "hi")
        ask(page, "hi")
        assert page.locator("article.assistant .ai-mark").inner_text() == shown and page.locator(".ai-mark").is_visible()
        home = page.locator("script[type=module]").get_attribute("src").removesuffix("app.js")
        copied = page.evaluate("async home => (await import(new URL(home + 'about.js', location))).labelled('hello')", home)
        assert copied == f"hello\n\n（{shown}）"


@pytest.mark.slow
def test_history_is_searched_deleted_brought_back_exported_and_imported(browser, told, tmp_path):
    with tab(browser, told.url) as page:
        for question in ("about whales", "about trees"):
            say(told, f"so much {question}", question)
            ask(page, question)
            page.get_by_role("button", name="New conversation").first.click()
            page.locator("#talks .title", has_text=question).wait_for()
        page.fill("#search", "WHALES much")
        assert titles(page) == ["about whales"]
        page.get_by_role("button", name="Delete “about whales”").click()
        page.locator("#talks .none").wait_for()
        page.get_by_role("button", name="Undo").click()
        page.locator("#talks .title").wait_for()
        page.fill("#search", "")
        settings(page, "Conversations")
        with page.expect_download() as download:
            page.get_by_role("button", name="All as JSON").click()
        file = json.loads(download.value.path().read_text("utf-8"))
        assert file["label"]["generated"] is True and file["label"]["models"] == ["tiny"]
        answers = [n for t in file["talks"] for n in t["nodes"].values() if n["role"] == "assistant"]
        assert len(answers) == 2 and all(n["ai_generated"] for n in answers)
        with page.expect_download() as download:
            page.get_by_role("button", name="This one as Markdown").click()
        text = download.value.path().read_text("utf-8")
        assert "generated_by: AI" in text and "> **AI-generated**" in text and "so much about whales" in text
        page.get_by_role("button", name="Delete all").click()
        page.locator("#talks .none").wait_for()
        (tmp_path / "all.json").write_text(json.dumps(file), "utf-8")
        page.set_input_files("input[type=file]", tmp_path / "all.json")
        page.locator(".body", has_text="so much about").wait_for()
        page.locator("#talks .title >> nth=1").wait_for()
        assert sorted(titles(page)) == ["about trees", "about whales"]
        (tmp_path / "bad.json").write_text('{"format": "other"}', "utf-8")
        page.set_input_files("input[type=file]", tmp_path / "bad.json")
        page.locator(".toast", has_text="not exported from this page").wait_for()


MARKED = """async home => {
    const { asJson, asMarkdown } = await import(new URL(home + "export.js", location));
    const fixed = { Label: "1", ContentProducer: "it's me", ReservedCode1: "hash", ReservedCode2: "" };
    const mark = id => ({ AIGC: { ...fixed, ProduceID: id } });
    const root = { id: "root", parent: null, children: ["a"], pick: 0, role: "root" };
    const shared = { pick: 0, at: 1, role: "assistant", content: "x", label: mark("one") };
    const answer = { id: "a", parent: "root", children: ["b"], ...shared };
    const nodes = { root, a: answer, b: { ...answer, id: "b", parent: "a", children: [], at: 2, label: mark("two") } };
    const talk = { id: "t", title: "T", created: 1, changed: 2, settings: { system: "" }, nodes };
    return [await asJson([talk]), asMarkdown(talk)];
}"""


def test_an_export_bears_the_mark_of_a_server_that_labels(browser, told):
    with tab(browser, told.url) as page:
        file, text = page.evaluate(MARKED, page.locator("script[type=module]").get_attribute("src").removesuffix("app.js"))
    mark = {"Label": "1", "ContentProducer": "it's me", "ProduceID": "two", "ReservedCode1": "", "ReservedCode2": ""}
    assert json.loads(file)["AIGC"] == mark
    assert json.loads(file)["talks"][0]["nodes"]["a"]["label"]["AIGC"]["ReservedCode1"] == "hash"
    (line,) = [line for line in text.splitlines() if line.startswith("AIGC: ")]
    assert json.loads(line.removeprefix("AIGC: '").removesuffix("'").replace("''", "'")) == mark


# ---- what a model writes ---------------------------------------------------------------------------------------------


def test_thinking_is_folded_with_its_time(browser, told):
    with tab(browser, told.url) as page:
        settings(page)
        page.get_by_label("Thinking").select_option("enabled")
        page.keyboard.press("Escape")
        say(told, ["so it is 4", Mark(THINK_END), "It is 4."], "2+2?", thinking=True)
        ask(page, "2+2?")
        fold = page.locator("details.thinking")
        assert fold.locator("summary").inner_text().startswith("Thought for") and not fold.locator(".markdown").is_visible()
        fold.locator("summary").click()
        assert fold.locator(".markdown").inner_text() == "so it is 4"
        assert page.locator(".body").inner_text() == "It is 4."


def test_a_tool_call_is_shown_and_answered_by_the_user(browser, told):
    tool = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
    call = [Mark(CALLS_BEGIN), Mark(CALL_BEGIN), "weather", Mark(TOOL_SEP), "{}", Mark(CALL_END), Mark(CALLS_END)]
    with tab(browser, told.url) as page:
        settings(page, "Tools and form")
        tools = page.get_by_label("Tools", exact=True)
        tools.fill("[{")
        assert "JSON" in page.locator(".wrong .hint").inner_text()
        tools.fill(json.dumps([tool]))
        page.keyboard.press("Escape")
        say(told, call, "rain?", tools=[tool])
        ask(page, "rain?")
        assert page.locator(".call strong").inner_text() == "weather"
        page.get_by_label("Result of weather").fill("dry")
        page.get_by_role("button", name="Send results").click()
        page.locator(".result pre", has_text="dry").wait_for()
        complete(page)
        assistant, result = json.loads(page.sent[-1])["messages"][-2:]
        assert result == {"role": "tool", "tool_call_id": assistant["tool_calls"][0]["id"], "content": "dry"}


def test_markup_in_an_answer_stays_text_and_asks_nobody(browser, told):
    text = "<img src=//evil.test/x onerror=alert(1)> ![p](http://evil.test/y.png) [x](javascript:alert(2)) <b>bold</b>"
    with tab(browser, told.url) as page:
        page.on("dialog", lambda dialog: pytest.fail("a script ran"))
        say(told, text, "bad")
        ask(page, "bad")
        body = page.locator(".body")
        assert "<img src=//evil.test/x onerror=alert(1)>" in body.inner_text() and "<b>bold</b>" in body.inner_text()
        assert body.locator("img, b, script").count() == 0
        assert [a.get_attribute("href") for a in body.locator("a").all()] == ["http://evil.test/y.png"]
        assert not any("evil.test" in url for url in page.asked)


MARKDOWN = [
    ("a **b *c* d** e", "<p>a <strong>b <em>c</em> d</strong> e</p>"),
    ("snake_case_name and 2*3*4", "<p>snake_case_name and 2<em>3</em>4</p>"),
    ("`a*b*` \\*no\\*", "<p><code>a*b*</code> *no*</p>"),
    ("~~old~~ one\ntwo", "<p><del>old</del> one<br>two</p>"),
    ("- a\n  - b\n- c", "<ul><li>a<ul><li>b</li></ul></li><li>c</li></ul>"),
    ("3. a\n4. b\n\ntext", '<ol start="3"><li>a</li><li>b</li></ol><p>text</p>'),
    ("# H #\n***\n> q\nlazy", "<h3>H</h3><hr><blockquote><p>q<br>lazy</p></blockquote>"),
    ("it costs $5 and $6", "<p>it costs $5 and $6</p>"),
    ("a &amp; b &lt;", "<p>a &amp; b &lt;</p>"),
    ("**注意**：好", "<p><strong>注意</strong>：好</p>"),
    ("1. x\n\n   y\n2. z", "<ol><li><p>x</p><p>y</p></li><li>z</li></ol>"),
    ("`open and **open", "<p>`open and **open</p>"),
]
FORMULAS = {
    r"x_1^2": "<msubsup><mi>x</mi><mn>1</mn><mn>2</mn></msubsup>",
    r"\frac{a}{b}": "<mfrac><mi>a</mi><mi>b</mi></mfrac>",
    r"\sqrt[3]{x}": "<mroot><mi>x</mi><mn>3</mn></mroot>",
    r"\mathbb{R}": '<mi mathvariant="normal">ℝ</mi>',
    r"\text{if } n": "<mrow><mtext>if&nbsp;</mtext><mi>n</mi></mrow>",
    r"f'+1": "<mrow><msup><mi>f</mi><mrow><mo>′</mo></mrow></msup><mo>+</mo><mn>1</mn></mrow>",
}
BROKEN = [r"\nonsense{x}", r"\frac{a", r"{", r"\left( x", r"a^", r"\begin{cases} x", r"\end{x}", "{" * 200]


def test_markdown_and_formulas_become_the_elements_meant(browser, told):
    with tab(browser, told.url) as page:
        home = page.locator("script[type=module]").get_attribute("src").removesuffix("app.js")
        draw = """async ([home, text]) => {
            const { render } = await import(new URL(home + "markdown.js", location)), box = document.createElement("div");
            for (let end = 1; end <= text.length; end++) render(box, text.slice(0, end));
            return box.innerHTML;
        }"""
        for text, want in MARKDOWN:
            assert page.evaluate(draw, [home, text]) == want, text
        formula = """async ([home, text]) => {
            const { formula } = await import(new URL(home + "formulas.js", location));
            return formula(text, false).outerHTML;
        }"""
        for text, want in FORMULAS.items():
            assert f"<semantics>{want}<annotation" in page.evaluate(formula, [home, text]), text
        for text in BROKEN:  # the source stays
            assert page.evaluate(formula, [home, text]).startswith('<code class="tex"'), text


# ---- for model builders ----------------------------------------------------------------------------------------------


def test_tokens_show_their_alternatives_and_the_experts_that_computed_them(browser, served):
    with tab(browser, served.url) as page:
        settings(page, "For model builders", "Server")
        page.get_by_label("Record experts").check()
        page.get_by_label("Most tokens").fill("9")
        assert "Cache a token" in page.locator(".facts").inner_text()
        page.keyboard.press("Escape")
        ask(page, "hi")
        page.get_by_role("button", name="Tokens and probabilities").click()
        page.locator(".token-line").wait_for()
        tokens = page.locator(".token-line .token")
        assert 1 <= tokens.count() <= 9
        tokens.last.click()
        assert page.locator(".alternatives li").count() in (5, 6)
        rows = page.locator(".experts tbody tr")
        assert [row.locator("th").inner_text() for row in rows.all()] == [str(layer) for layer in served.model.moe_layers]
        for row in rows.all():
            chosen = [int(b.inner_text()) for b in row.locator("b").all()]
            assert len(set(chosen)) == 2 and all(0 <= expert < 4 for expert in chosen)
        assert page.locator(".expert-map canvas").get_attribute("aria-label").count("layer") == len(served.model.moe_layers) + 1
        if tokens.count() > 1:
            page.keyboard.press("ArrowLeft")
            assert tokens.nth(tokens.count() - 2).get_attribute("aria-pressed") == "true"


@pytest.mark.slow
def test_what_an_answer_cost_by_ones_own_prices(browser, told):
    with tab(browser, told.url) as page:
        settings(page, "Cost")
        page.get_by_label("Reckoned by").select_option("price")
        page.get_by_label("Answer, a million").fill("1000000")
        page.keyboard.press("Escape")
        say(told, "abcd", "hi")
        ask(page, "hi")
        assert "$5.00" in page.locator(".figures").inner_text()  # four letters and the end, a dollar each


# ---- what goes wrong -------------------------------------------------------------------------------------------------


def test_a_refusal_comes_in_the_servers_words(browser, served):
    with tab(browser, served.url) as page:
        ask(page, "x " * 800)
        assert "shorten the prompt" in page.locator(".problem").inner_text() and not page.locator(".ai-mark").is_visible()
        assert page.get_by_role("button", name="Try again").is_enabled()


@pytest.mark.slow
def test_a_429_counts_down_to_a_retry(browser):
    with serving(limits=Limits(rpm=40)) as limited, tab(browser, limited.url) as page:
        short(page)
        page.evaluate("() => Promise.all(Array.from({length: 45}, () => fetch('/tokenize', {method: 'POST', body: '{}'})))")
        ask(page, "hi")
        problem = page.locator(".problem")
        assert "Too many requests" in problem.inner_text() and "requests a minute" in problem.inner_text()
        again = problem.get_by_role("button", name="Try again")
        assert again.is_disabled() and " s" in again.inner_text()
        page.locator(".problem button:not(:disabled)").click()
        page.locator(".figures").wait_for()


def test_a_server_that_is_away_is_told_and_asked_again(browser, told):
    with tab(browser, told.url) as page:
        page.context.set_offline(True)
        ask(page, "anybody?")
        page.locator("#banner", has_text="cannot be reached").wait_for()
        page.context.set_offline(False)
        say(told, "here", "anybody?")
        page.locator(".problem").get_by_role("button", name="Try again").click()
        page.locator(".body", has_text="here").wait_for()
        page.locator("#banner").wait_for(state="hidden")


@pytest.mark.slow
def test_a_key_is_asked_for_and_kept_in_this_tab_only(browser, tmp_path):
    keys = Keys(tmp_path / "keys.json")
    secret = keys.add("anna")[1]
    with serving(doors=Doors(keys)) as guarded:
        context = browser.new_context(locale="en-GB")
        page = context.new_page()
        page.goto(guarded.url)
        page.locator("#banner", has_text="a key is needed").get_by_role("button", name="Enter a key").click()
        page.get_by_label("API key").fill(secret)
        page.keyboard.press("Tab")
        page.locator("#model:not(:empty)").wait_for()
        assert secret not in json.dumps(page.evaluate("() => ({...localStorage})"))
        context.close()


FOCUSED = "() => document.activeElement.id || document.activeElement.className"

# ---- looks and hands -------------------------------------------------------------------------------------------------


def test_a_phone_in_chinese(browser, served):
    with tab(browser, served.url, viewport={"width": 360, "height": 640}, locale="zh-CN", has_touch=True) as page:
        assert page.locator("html").get_attribute("lang") == "zh-CN" and "想聊点什么" in page.inner_text("main")
        assert not page.locator("#side").is_visible()
        page.get_by_label("设置").first.click()
        page.get_by_label("最多词元").fill("8")
        page.get_by_role("button", name="关闭").click()
        ask(page, "你好 " * 20)
        assert page.locator(".ai-mark").inner_text() == "AI 生成"
        assert page.evaluate("() => document.scrollingElement.scrollWidth <= innerWidth")
        page.get_by_role("button", name="对话").first.click()
        page.locator("#talks .title").click()
        page.locator("#side").wait_for(state="hidden")


def test_the_keyboard_alone_is_enough(browser, told):
    with tab(browser, told.url) as page:
        assert page.evaluate("() => document.activeElement.id") == "text"
        say(told, "yes", "keys?")
        page.keyboard.type("keys?")
        page.keyboard.press("Enter")
        page.locator(".figures").wait_for()
        page.keyboard.press("Control+k")
        assert page.evaluate("() => document.activeElement.id") == "search"
        page.keyboard.press("Control+Shift+O")
        page.locator("#welcome").wait_for()
        page.keyboard.press("Control+.")
        page.locator("#panel").wait_for()
        page.keyboard.press("Escape")
        page.locator("#panel").wait_for(state="hidden")
        page.evaluate("() => document.activeElement.blur()")
        page.keyboard.press("?")
        assert page.get_by_role("dialog").is_visible()
        page.keyboard.press("Escape")
        page.evaluate("() => document.body.focus()")
        page.keyboard.press("/")
        assert page.evaluate("() => document.activeElement.id") == "text"
        page.locator(".skip").focus()
        order = [page.evaluate(FOCUSED)]
        for _ in range(12):
            page.keyboard.press("Tab")
            order.append(page.evaluate(FOCUSED))
        assert order[0] == "skip" and order.index("fresh") < order.index("search") < order.index("menu")
        page.locator("#menu").focus()  # after a key: focus is to be seen
        assert page.evaluate("() => getComputedStyle(document.activeElement).outlineStyle") == "solid"


def accessible(page, what):
    """axe finds nothing in what is shown, by day and by night."""
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        assert violations(page) == "[]", (what, scheme)


@with_axe
@pytest.mark.parametrize("width", [1200, 360])
def test_axe_finds_nothing(browser, served, width):
    with tab(browser, served.url, viewport={"width": width, "height": 800}) as page:
        accessible(page, "empty")
        settings(page, "Sampling", "Tools and form", "For model builders", "Cost", "This page", "Server")
        page.get_by_label("Record experts").check()
        page.get_by_label("Most tokens").fill("8")
        accessible(page, "settings")
        page.keyboard.press("Escape")
        ask(page, "hi")
        accessible(page, "a conversation")
        page.get_by_role("button", name="Tokens and probabilities").click()
        page.locator(".token-line").wait_for()
        accessible(page, "tokens")
        page.get_by_role("button", name="Compare two answers").click()
        page.keyboard.press("Escape")
        ask(page, "and?", answers=3)
        accessible(page, "two answers")
        page.evaluate("() => document.getElementById('title').removeAttribute('aria-label')")
        assert "label" in violations(page)  # it does look
