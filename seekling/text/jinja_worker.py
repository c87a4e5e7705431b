"""The process that renders chat templates: a program of its own, started by `seekling.text.jinja`, that can do nothing else.

    python -I -S jinja_worker.py FOLDER_OF_JINJA2

One JSON request a line in, one answer a line out. A chat template is a program from a stranger's model folder. Here it runs in
Jinja's immutable sandbox, in a process without environment, which may open no file, start no process, and use only so much
memory and processor time. Nothing of seekling is imported.

**Marked requests.** The caller replaces characters of the user's text that could form a control token by private ones, one
for one, so that they can be told from the template's own in what is rendered. Templates must not notice: wherever one compares
or searches, both forms are equal. Positions are found in the ordinary form and the marked text is cut there.
"""

import contextlib
import datetime
import json
import signal
import sys
import time

sys.path.insert(0, sys.argv[1])

import jinja2
import jinja2.debug
import jinja2.ext
import jinja2.meta
import jinja2.nodes
import jinja2.sandbox
import jinja2.utils

MEMORY = 384 << 20  # bytes beyond what the process has when it starts to serve
LONGEST = 16 << 20  # characters of one string that `*` may make
BIGGEST = 10**6  # exponents and numbers that `**` may make large


class OutOfTime(BaseException):
    """No template can catch it: `except Exception` in generated code lets it through."""


class TooLong(Exception):
    """The output, or a string on the way, is longer than allowed."""


# ---- the sandbox -----------------------------------------------------------------------------------------------------


class Generation(jinja2.ext.Extension):
    """``{% generation %}…{% endgeneration %}`` marks what was generated, for training; the text is what counts here."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.Scope(body).set_lineno(line)


class Namespace(jinja2.utils.Namespace):
    """A namespace without attributes of Python's own."""

    def __setitem__(self, name, value):
        if str(name).startswith("_"):
            raise jinja2.exceptions.SecurityError(f"no attribute of a namespace may be called {name!r}")
        super().__setitem__(name, value)


class Sandbox(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """What Hugging Face's templates expect, and no more."""

    intercepted_binops = frozenset(["*", "**"])

    def __init__(self):
        self.now = datetime.datetime.now()
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])
        self.filters["tojson"] = self.tojson
        self.globals["namespace"] = Namespace
        self.globals["raise_exception"] = raise_exception
        self.globals["strftime_now"] = lambda form: self.now.strftime(form)
        for name in ("lipsum", "joiner", "cycler"):
            self.globals.pop(name, None)

    def tojson(self, value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    def call_binop(self, context, operator, left, right):
        numbers = isinstance(left, int) and isinstance(right, int)
        if operator == "*" and not numbers:
            text, count = (left, right) if isinstance(right, int) else (right, left)
            if isinstance(count, int) and hasattr(text, "__len__") and len(text) * count > LONGEST:
                raise TooLong
        if operator == "**" and (abs(left) > BIGGEST or abs(right) > 64):
            raise TooLong
        if operator == "*" and numbers and (left.bit_length() + right.bit_length()) > 4096:
            raise TooLong
        return super().call_binop(context, operator, left, right)


def raise_exception(message):
    raise jinja2.exceptions.TemplateRuntimeError("the template refuses: " + str(message))


class MarkedSandbox(Sandbox):
    """The sandbox in which marked text compares, searches, splits and strips as the ordinary text would."""

    def __init__(self):
        super().__init__()
        self.ordinary = {}  # private character → ordinary one, of the request at hand
        self.filters["trim"] = lambda text, chars=None: self.method(str(text), "strip", chars)
        self.filters["replace"] = self.replace_filter
        self.filters["_has"] = lambda container, item: self.has(container, item)
        self.filters["_same"] = lambda left, right: self.fold(left) == self.fold(right)
        for name in ("eq", "==", "equalto"):
            self.tests[name] = lambda left, right: self.fold(left) == self.fold(right)
        for name in ("ne", "!="):
            self.tests[name] = lambda left, right: self.fold(left) != self.fold(right)
        self.tests["in"] = lambda item, container: self.has(container, item)

    def _parse(self, source, name, filename):
        tree = super()._parse(source, name, filename)
        return Folding().visit(tree)

    def tojson(self, value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        text = json.dumps(value, ensure_ascii=False, indent=indent, separators=separators, sort_keys=sort_keys)
        if not ensure_ascii:
            return text
        return "".join(c if c.isascii() or ord(c) in self.ordinary else json.dumps(c)[1:-1] for c in text)

    def call(__self, __context, __obj, *args, **kwargs):
        owner = getattr(__obj, "__self__", None)
        if isinstance(owner, str) and __self.is_safe_callable(__obj) and __obj.__name__ in METHODS:
            for inner in ("_loop_vars", "_block_vars"):  # Jinja's own, for callables that want its context
                kwargs.pop(inner, None)
            return __self.method(owner, __obj.__name__, *args, **kwargs)
        return super().call(__context, __obj, *args, **kwargs)

    def fold(self, value):
        """A value with ordinary characters."""
        if isinstance(value, str):
            return str(value).translate(self.ordinary)
        if isinstance(value, (list, tuple)):
            return type(value)(self.fold(item) for item in value)
        return value

    def has(self, container, item):
        if isinstance(container, str) and isinstance(item, str):
            return self.fold(item) in self.fold(container)
        if isinstance(container, jinja2.Undefined) or not isinstance(item, str):
            return item in container
        return item in container or self.fold(item) in [self.fold(key) for key in container]

    def replace_filter(self, text, old, new, count=-1):
        return self.method(str(text), "replace", old, new, -1 if count is None else count)

    def method(self, text, name, *args, **kwargs):
        """A string method: where it cuts is found in the ordinary text, what it gives is marked text."""
        return METHODS[name](text, self.fold(text), *(self.fold(a) if name != "replace" else a for a in args), **kwargs)


class Folding(jinja2.visitor.NodeTransformer):
    """Comparisons of equality and containment become filters that fold."""

    def visit_Compare(self, node):
        self.generic_visit(node)
        if len(node.ops) != 1 or node.ops[0].op not in ("eq", "ne", "in", "notin"):
            return node
        operator, other = node.ops[0].op, node.ops[0].expr
        call: jinja2.nodes.Expr
        if operator in ("eq", "ne"):
            call = jinja2.nodes.Filter(node.expr, "_same", [other], [], None, None)
        else:
            call = jinja2.nodes.Filter(other, "_has", [node.expr], [], None, None)
        if operator in ("ne", "notin"):
            call = jinja2.nodes.Not(call)
        for made in (call, *call.find_all(jinja2.nodes.Filter)):
            made.set_lineno(node.lineno).set_environment(node.environment)
        return call


def _strip(left, right):
    def method(text, plain, chars=None):
        kept = plain.lstrip(chars) if left else plain
        start = len(plain) - len(kept)
        kept = kept.rstrip(chars) if right else kept
        return text[start : start + len(kept)]

    return method


def _split(reverse):
    def method(text, plain, sep=None, maxsplit=-1):
        parts = plain.rsplit(sep, maxsplit) if reverse else plain.split(sep, maxsplit)
        if sep is None:  # blanks are not marked: the text itself can be split
            return text.rsplit(None, maxsplit) if reverse else text.split(None, maxsplit)
        out, position = [], 0
        for part in parts:
            out.append(text[position : position + len(part)])
            position += len(part) + len(sep)
        return out

    return method


def _partition(reverse):
    def method(text, plain, sep):
        head, middle, tail = plain.rpartition(sep) if reverse else plain.partition(sep)
        return text[: len(head)], text[len(head) : len(head) + len(middle)], text[len(text) - len(tail) :]

    return method


def _replace(text, plain, old, new, count=-1):
    old = old.translate(MARKED.ordinary)
    if not old:
        return text.replace(old, new, count)
    return new.join(_split(False)(text, plain, old, count))


def _plain(name):
    return lambda text, plain, *args: getattr(plain, name)(*args)


METHODS = {
    "strip": _strip(True, True),
    "lstrip": _strip(True, False),
    "rstrip": _strip(False, True),
    "split": _split(False),
    "rsplit": _split(True),
    "partition": _partition(False),
    "rpartition": _partition(True),
    "replace": _replace,
    "removeprefix": lambda text, plain, prefix: text[len(prefix) :] if plain.startswith(prefix) else text,
    "removesuffix": lambda text, plain, end: text[: len(text) - len(end)] if end and plain.endswith(end) else text,
    **{name: _plain(name) for name in ("startswith", "endswith", "find", "rfind", "index", "rindex", "count")},
}
PLAIN, MARKED = Sandbox(), MarkedSandbox()
COMPILED: dict = {}


# ---- requests --------------------------------------------------------------------------------------------------------


def answer(request):
    """The answer to one request: the text, or the kind of what went wrong with a message."""
    try:
        if request["do"] == "variables":
            return {"variables": sorted(jinja2.meta.find_undeclared_variables(PLAIN.parse(request["template"])))}
        return {"text": render(request)}
    except OutOfTime:
        return {"error": "time", "message": ""}
    except MemoryError:
        return {"error": "memory", "message": ""}
    except TooLong:
        return {"error": "length", "message": ""}
    except RecursionError:
        return {"error": "recursion", "message": ""}
    except jinja2.exceptions.SecurityError as error:
        return {"error": "unsafe", "message": str(error)}
    except jinja2.exceptions.TemplateSyntaxError as error:
        return {"error": "syntax", "message": f"line {error.lineno}: {error.message}"}
    except Exception as error:
        return {"error": "failed", "message": f"{error}" or type(error).__name__}


def render(request):
    sandbox = MARKED if request["marked"] else PLAIN
    if sandbox is MARKED:
        sandbox.ordinary = {ord(private): plain for private, plain in request["marked"].items()}
    if request.get("now"):
        sandbox.now = datetime.datetime.fromisoformat(request["now"])
    else:
        sandbox.now = datetime.datetime.now()
    key = (request["template"], sandbox is MARKED)
    if key not in COMPILED:
        if len(COMPILED) > 16:
            COMPILED.clear()
        COMPILED[key] = sandbox.from_string(request["template"])
    parts, room = [], request["longest"]
    for part in COMPILED[key].generate(**request["context"]):
        room -= len(part)
        if room < 0:
            raise TooLong
        parts.append(part)
    return "".join(parts)


def confine():
    """Give up what a renderer does not need. Only where the system can (not on Windows)."""
    # Python loads codecs, the time zone and parts of Jinja when they are first used: that has to be now.
    warm = "{% set x = '\\n' %}{{ strftime_now('%c %Z') }}{{ [x]|tojson|trim }}{{ x.split('a') }}{{ raise_exception('') }}"
    for marked in ({}, {"\U000f0000": "a"}):
        answer({"do": "render", "template": warm, "context": {}, "marked": marked, "longest": 99})
    answer({"do": "render", "template": "{% if", "context": {}, "marked": {}, "longest": 0})
    try:
        import resource
    except ImportError:
        return None
    with contextlib.suppress(OSError, ValueError):  # no /proc: the other limits still hold
        with open("/proc/self/statm") as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    for limit in (resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE, resource.RLIMIT_CORE, resource.RLIMIT_NPROC):
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(limit, (0, 0))
    return resource


def main():
    resource = confine()
    sys.setrecursionlimit(700)

    def stop(number, frame):
        raise OutOfTime

    if resource:
        signal.signal(signal.SIGPROF, stop)
    for line in sys.stdin.buffer:
        request = json.loads(line)
        if resource:  # counted in processor time: a busy machine makes no template fail
            signal.setitimer(signal.ITIMER_PROF, request["seconds"])
            hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
            used = int(time.process_time())
            resource.setrlimit(resource.RLIMIT_CPU, (used + int(request["seconds"]) + 3, hard))
        try:
            reply = answer(request)
        except OutOfTime:
            reply = {"error": "time", "message": ""}
        finally:
            if resource:
                signal.setitimer(signal.ITIMER_PROF, 0)
        sys.stdout.buffer.write(json.dumps(reply).encode() + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
