"""A report for people: the two verdicts, the components, then what needs doing; and the badge."""

from typing import Any
from xml.sax.saxutils import escape

from seekling.release.check.finding import AREAS, FAIL, NOTE, PASS, PERSON, Component, Report
from seekling.release.check.openness import CLASSES

MARKS = {PASS: "[green]✓ pass[/]", FAIL: "[red]✗ FAIL[/]", PERSON: "[yellow]? needs a person[/]", NOTE: "[dim]· note[/]"}
_STATES = {
    "included": "[green]✓[/]", "unsuited": "[green]✓[/] (not made for it)", "unlicensed": "[red]✗[/] no licence",
    "closed": "[red]✗[/] terms not open", "linked": "[yellow]?[/] linked", "missing": "[red]✗[/] missing",
}  # fmt: skip
SHOWN = 10


def show(report: Report, console: Any, everything: bool = False) -> None:
    """Print the report with rich.

    Args:
        everything: also findings that passed.
    """
    from rich.markup import escape as plain
    from rich.table import Table

    console.print(f"[bold]{plain(report.target)}[/] ({report.kind})\n")
    table = Table(title="Open Source AI Definition 1.0", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for name in ("element", "verdict", "on what it rests"):
        table.add_column(name, overflow="fold")
    for element in report.osaid:
        table.add_row(element.name, MARKS[element.verdict], "\n".join(plain(line) for line in element.evidence))
    console.print(table)
    console.print(f"  verdict: {MARKS[report.osaid_verdict]}\n")
    title = f"Model Openness Framework 1.0: {CLASSES[report.mof_class]}"
    if report.mof_possible and report.mof_possible != report.mof_class:
        title += f" ({CLASSES[report.mof_possible]} if what is linked or unlicensed were open)"
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0))
    for name in ("", "component", "", "licence", "where"):
        table.add_column(name, overflow="fold", no_wrap=name == "component")
    paper = any(c.key == "research-paper" and c.state in ("included", "unsuited") for c in report.components)
    for c in report.components:
        state = _STATES[c.state]
        if c.state == "missing" and c.number in (7, 12, 17):
            state = "[dim]– not there (optional)[/]"
        elif c.state == "missing" and c.key == "technical-report" and paper:
            state = "[dim]– the paper stands in[/]"
        table.add_row(str(c.number), c.name, state, plain(c.licence or ""), plain(_where(c)))
    console.print(table)
    for level in (3, 2, 1):
        if report.lacking.get(level):
            console.print(f"  {CLASSES[level]} lacks: " + plain("; ".join(report.lacking[level])))
            break
    console.print()
    for area, title in AREAS.items():
        _show_area(report, area, title, console, everything)
    if report.unchecked:
        console.print("[bold]Not looked at[/]")
        for line in report.unchecked:
            console.print(f"  · {plain(line)}")
    console.print(f"\n{one_line(report)}")


def _where(c: Component) -> str:
    shown = ", ".join(c.where[:2]) + (", …" if len(c.where) > 2 else "")
    return shown + ("" if c.basis == "here" or not shown else f" ({c.basis})")


def _show_area(report: Report, area: str, title: str, console: Any, everything: bool) -> None:
    from rich.markup import escape as plain

    found = [f for f in report.findings if f.area == area]
    if not found:
        return
    verdicts = [f.verdict for f in found]
    worst = FAIL if FAIL in verdicts else PERSON if PERSON in verdicts else PASS
    console.print(f"[bold]{title}[/] {MARKS[worst]}")
    for finding in found:
        if finding.verdict == PASS and not everything and worst != PASS:
            continue
        mark = MARKS[finding.verdict].split(" ")[0] + "[/]"
        console.print(f"  {mark} {plain(finding.text)}", soft_wrap=True)
        for line in finding.shown[: None if everything else SHOWN]:
            style = "green" if ": + " in line else "red" if ": - " in line else "dim"
            console.print(f"      [{style}]{plain(line)}[/]", soft_wrap=True)
        if finding.remedy and finding.verdict != PASS:
            console.print(f"      [dim]→ {plain(finding.remedy)}[/]", soft_wrap=True)


def one_line(report: Report) -> str:
    """The verdict in a line."""
    failed = sum(f.verdict == FAIL for f in report.findings)
    people = sum(f.verdict == PERSON for f in report.findings)
    words = {PASS: "passes", FAIL: "fails", PERSON: "needs a person"}
    counts = [f"{n} {word}" for n, word in ((failed, "to mend"), (people, "for a person to read")) if n]
    rest = f"; of the other checks {', '.join(counts)}" if counts else "; every other check passed"
    return f"OSAID 1.0: {words[report.osaid_verdict]}; MOF: {CLASSES[report.mof_class]}{rest}"


# ---- badge -----------------------------------------------------------------------------------------------------------

_COLOURS = {PASS: "#2e7d32", PERSON: "#b26a00", FAIL: "#c62828"}
_NARROW = set("il.,:;'|!()[] fjtI1-")


def badge(report: Report) -> str:
    """An SVG of two halves: "open source AI" and the verdicts; no script, no address, no font to fetch."""
    words = {PASS: "pass", FAIL: "fail", PERSON: "needs a person"}
    left = "open source AI"
    right = f"OSAID {words[report.osaid_verdict]} · " + (
        f"MOF {'I' * report.mof_class}" if report.mof_class else "no MOF class"
    )
    a, b = _width(left), _width(right)
    title = escape(f"{left}: {right}")
    text = 'font-family="Verdana,DejaVu Sans,sans-serif" font-size="11" fill="#fff"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{a + b}" height="20" role="img" aria-label="{title}">'
        f"<title>{title}</title>"
        f'<rect width="{a + b}" height="20" rx="3" fill="{_COLOURS[report.osaid_verdict]}"/>'
        f'<path d="M3 0h{a - 3}v20H3a3 3 0 0 1-3-3V3a3 3 0 0 1 3-3z" fill="#444"/>'
        f'<text x="{a / 2:g}" y="14" text-anchor="middle" textLength="{a - 12}" {text}>{escape(left)}</text>'
        f'<text x="{a + b / 2:g}" y="14" text-anchor="middle" textLength="{b - 12}" {text}>{escape(right)}</text></svg>\n'
    )


def _width(text: str) -> int:
    return 12 + round(sum(4.2 if c in _NARROW else 7.2 for c in text))
