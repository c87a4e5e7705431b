"""The chat loop: over a pipe in this process, and on a real pseudo-terminal."""

import io
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import chat_driver
import pytest
from engine_tiny import END_THINK, EOS, TOKENIZER, USER, one_thread, tiny_lm  # noqa: F401

from seekling import Engine, Sampling, SeeklingError
from seekling.engine.chat import Terminal, Turn, chat_loop, printable
from seekling.engine.conversation import Conversation

HERE = Path(__file__).parent


def saying(text_or_ids, **changes):
    """A model that answers every question with this."""
    ids = TOKENIZER.encode(text_or_ids) if isinstance(text_or_ids, str) else text_or_ids
    return chat_driver.saying(ids, **changes)


def piped(lm, *lines, **kw):
    """(exit code, stdout, stderr) of a chat over a pipe."""
    out, err = io.StringIO(), io.StringIO()
    terminal = Terminal(io.StringIO("\n".join(lines) + "\n"), out, err)
    code = chat_loop(lm, Sampling(max_tokens=60, temperature=0), terminal=terminal, **kw)
    return code, out.getvalue(), err.getvalue()


# ---- over a pipe -----------------------------------------------------------------------------------------------------


def test_every_line_gets_one_answer_and_nothing_else_on_stdout():
    assert piped(saying("yes."), "first?", "", "second?") == (0, "yes.\nyes.\n", "")


def test_the_answer_is_the_engine_s_answer_to_the_messages_so_far():
    lm = tiny_lm(max_position_embeddings=400)
    s = Sampling(max_tokens=12, temperature=0, stop_token_ids=[USER, 0])
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "a"}]
    first = Engine(lm).generate([messages], s)[0].text
    messages += [{"role": "assistant", "content": first}, {"role": "user", "content": "b"}]
    second = Engine(lm).generate([messages], s)[0].text
    out = io.StringIO()
    terminal = Terminal(io.StringIO("a\nb\n"), out, io.StringIO())
    chat_loop(lm, Sampling(max_tokens=12, temperature=0), system="be brief", terminal=terminal)
    assert out.getvalue() == printable(f"{first}\n{second}\n")


def test_commands_answer_on_stderr():
    code, out, err = piped(saying("ok"), "/help", "/temp 0.5", "/temp", "/system be kind", "/system", "/system clear", "/reset")
    assert (code, out) == (0, "")
    for part in ("/save FILE", "temperature: 0.5", "system message: be kind", "system message: none", "forgotten"):
        assert part in err
    assert err.count("temperature: 0.5") == 2


def test_exit_leaves_before_the_next_line():
    assert piped(saying("ok"), "a", "/exit", "b")[1] == "ok\n"


@pytest.mark.parametrize(
    ("line", "said"), [("/nope", "/help"), ("/temp hot", "number"), ("/temp -1", "temperature"), ("/save", "file name"),
                       ("/save /nowhere/at/all.jsonl", "No such file")]
)  # fmt: skip
def test_a_wrong_command_is_an_error_and_the_chat_goes_on(line, said):
    code, out, err = piped(saying("ok"), line, "a")
    assert (code, out) == (2, "ok\n")
    assert said in err and err.startswith("error: ")


def test_two_slashes_begin_a_message_with_one(tmp_path):
    file = tmp_path / "talk.jsonl"
    piped(saying("ok"), "//etc is a folder", f"/save {file}")
    assert json.loads(file.read_text())["messages"][0] == {"role": "user", "content": "/etc is a folder"}


def test_save_appends_the_whole_conversation_as_one_line(tmp_path):
    file = tmp_path / "talk.jsonl"
    piped(saying("é水"), "a", f"/save {file}", "b", f"/save {file}", system="s")
    one, two = (json.loads(line)["messages"] for line in file.read_text(encoding="utf-8").splitlines())
    assert one == [
        {"role": "system", "content": "s"}, {"role": "user", "content": "a"}, {"role": "assistant", "content": "é水"},
    ]  # fmt: skip
    assert two[:3] == one and len(two) == 5


def test_lines_between_three_quotation_marks_are_one_message(tmp_path):
    file = tmp_path / "talk.jsonl"
    assert piped(saying("ok"), '"""one', "", "  two", 'three"""', '"""four"""', f"/save {file}")[1] == "ok\nok\n"
    asked = [m["content"] for m in json.loads(file.read_text())["messages"] if m["role"] == "user"]
    assert asked == ["one\n\n  two\nthree", "four"]


def test_a_full_context_drops_the_oldest_turns_and_says_so(tmp_path):
    file = tmp_path / "talk.jsonl"
    lm = saying("0123456789", max_position_embeddings=100)
    code, out, err = piped(lm, "a" * 20, "b" * 20, "c" * 20, "d", f"/save {file}")
    assert (code, out) == (0, "0123456789\n" * 4)
    notices = [line for line in err.splitlines() if "no longer sees" in line]
    assert notices == ["The context of 100 tokens is full: the model no longer sees the oldest 2 messages."]
    assert len(json.loads(file.read_text())["messages"]) == 8  # the record keeps what the model forgot


def test_a_message_too_long_for_the_model_is_refused_and_the_earlier_turns_stay():
    lm = saying("ok", max_position_embeddings=100)
    code, out, err = piped(lm, "a", "x" * 200, "b")
    assert (code, out) == (2, "ok\nok\n")
    assert re.search(r"error: the prompt has 20\d tokens.*holds 100", err)
    assert "no longer sees" not in err


def test_the_reasoning_is_kept_apart_from_the_answer(tmp_path):
    file = tmp_path / "talk.jsonl"
    t = TOKENIZER
    lm = saying([*t.encode("hmm"), END_THINK, *t.encode("yes")])
    out = piped(lm, "a", "b", f"/save {file}", thinking=True)[1]
    assert out == "hmm\nyes\n" * 2
    assert json.loads(file.read_text())["messages"][1] == {"role": "assistant", "content": "yes", "reasoning_content": "hmm"}


def test_reasoning_is_not_shown_to_the_model_again():
    talk = Conversation("s")
    talk.ask("a")
    talk.answer("yes", "hmm")
    assert talk.prompt() == [
        {"role": "system", "content": "s"}, {"role": "user", "content": "a"}, {"role": "assistant", "content": "yes"},
    ]  # fmt: skip


def test_a_model_that_begins_the_user_s_next_message_has_finished():
    assert piped(saying([*TOKENIZER.encode("yes"), USER, *TOKENIZER.encode("more")]), "a")[1] == "yes\n"


def test_control_characters_of_a_model_never_reach_the_terminal():
    assert printable("a\x1b[31mb\x07\x9b2Jc\td\n\x7f") == "a[31mb2Jc\td\n"
    assert "\x1b" not in piped(saying("a\x1b]0;title\x07b"), "x")[1]


def test_markup_in_an_answer_is_printed_as_it_is():
    assert piped(saying("[bold]x[/bold] :smile:"), "x")[1] == "[bold]x[/bold] :smile:\n"


def test_a_folder_without_a_tokenizer_cannot_chat():
    with pytest.raises(SeeklingError, match="no tokenizer"):
        chat_loop(tiny_lm(tokenizer=False))


def test_the_speed_counts_the_tokens_after_the_first_over_the_time_after_the_first():
    assert Turn(tokens=11, to_first=1.0, seconds=3.0).speed() == "5.0 tokens/s"
    assert Turn(tokens=1, to_first=1.0, seconds=1.0).speed() == ""


# ---- on a terminal ---------------------------------------------------------------------------------------------------


class Pty:
    """A chat process on a pseudo-terminal."""

    def __init__(self, answer):
        env = os.environ | {"TERM": "xterm", "PYTHONPATH": f"{HERE.parent}{os.pathsep}{HERE}", "COLUMNS": "100"}
        env.pop("NO_COLOR", None)
        self.master, slave = pty.openpty()
        mode = termios.tcgetattr(slave)
        mode[3] |= termios.NOFLSH  # or Ctrl-C throws away what was printed and not yet read here
        termios.tcsetattr(slave, termios.TCSANOW, mode)
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "chat_driver.py"), answer],
            stdin=slave, stdout=slave, stderr=slave, env=env, start_new_session=True,
            preexec_fn=lambda: __import__("fcntl").ioctl(0, __import__("termios").TIOCSCTTY, 0),
        )  # fmt: skip
        os.close(slave)
        self.seen = ""

    def until(self, text, seconds=120):
        """Everything printed since the last call, up to `text`."""
        end = time.monotonic() + seconds
        while text not in self.seen:
            ready = select.select([self.master], [], [], max(0, end - time.monotonic()))[0]
            data = b""
            if ready:
                try:
                    data = os.read(self.master, 4096)
                except OSError:
                    data = b""
            assert data, f"no {text!r} in {self.seen!r}"
            self.seen += data.decode(errors="replace")
        before, _, self.seen = self.seen.partition(text)
        return before + text

    def prompt(self):
        """Everything printed until it listens for a message: it asks the terminal to mark pastes then."""
        return self.until("\x1b[?2004h")

    def type(self, text):
        os.write(self.master, text.encode())

    def wait(self):
        try:
            return self.process.wait(120)
        finally:
            if self.process.poll() is None:
                self.process.kill()
            os.close(self.master)


@pytest.fixture
def chat(request):
    p = Pty(request.param)
    yield p
    if p.process.poll() is None:
        p.process.send_signal(signal.SIGKILL)
        p.process.wait()


@pytest.mark.parametrize("chat", ["a long answer that takes its time, word by word, until somebody stops it"], indirect=True)
def test_ctrl_c_stops_the_answer_and_not_the_program_and_ctrl_d_leaves(chat):
    assert "context 400 tokens" in chat.prompt()
    chat.type("tell me\r")
    chat.until("a long answer")
    chat.type("\x03\x03\x03")  # an impatient user
    stopped = chat.until("stopped")
    assert "somebody stops it" not in stopped and "tokens/s" in stopped
    chat.prompt()
    chat.type("again\r")
    assert re.search(r"somebody stops it", chat.until("context"))
    chat.prompt()
    chat.type("\x03")
    chat.until("Ctrl-D or /exit leaves")
    chat.prompt()
    chat.type("half a message")
    chat.until("half a message")
    chat.type("\x03")
    chat.until("leaves")
    chat.prompt()
    chat.type("\x04")
    assert chat.wait() == 0


@pytest.mark.parametrize("chat", ["ok"], indirect=True)
def test_a_paste_with_line_breaks_is_one_message(chat, tmp_path):
    file = tmp_path / "talk.jsonl"
    chat.prompt()
    chat.type("\x1b[200~one\ntwo\n\nthree\x1b[201~")
    chat.until("three")
    chat.type("\r")
    chat.until("first after")
    chat.prompt()
    chat.type(f"/save {file}\r")
    chat.until("appended")
    chat.prompt()
    chat.type("/exit\r")
    assert chat.wait() == 0
    assert [m["content"] for m in json.loads(file.read_text())["messages"]] == ["one\ntwo\n\nthree", "ok"]
