"""Sets a Markdown report as a PDF: fpdf2 draws, markdown-it reads, matplotlib brings the fonts and the formulas.

A character that no font here has becomes □. Formulas stand in paragraphs of ``$$…$$``.
"""

import datetime
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from seekling.release.pdf_page import (
    ACCENT,
    BODY,
    CODE,
    INK,
    LINE,
    MARGIN,
    MONO,
    PAPER,
    QUIET,
    RULE,
    SMALL,
    TEXT,
    open_document,
)

if TYPE_CHECKING:
    from fpdf import FPDF
    from markdown_it.tree import SyntaxTreeNode

NUMBERS = "The model in ten numbers"
UNNUMBERED = ("Abstract", NUMBERS, "References")
_UNIT = r"bits per byte|tokens/s|FLOP|Wh|bytes|tokens|seconds?|minutes?|min|hours?|h|s|days?"
_HEAD = re.compile(rf"^((?:about )?[\d.,]+(?:e[+-]?\d+)?(?:[KMBT]\b)?%?(?: (?:{_UNIT})\b)?)(.*)$", re.S)


def write_pdf(
    markdown: str,
    path: Path,
    figures: Path,
    numbers: Sequence[tuple[str, str]],
    *,
    title: str,
    author: str,
    date: datetime.datetime,
) -> None:
    """Set the report.

    Args:
        figures: folder that the pictures' paths are relative to.
        numbers: name and text of the ten numbers, which the first page shows instead of their table.
    """
    from markdown_it import MarkdownIt
    from markdown_it.tree import SyntaxTreeNode

    tree = SyntaxTreeNode(MarkdownIt("commonmark").enable("table").parse(markdown))
    page = open_document(title, author, date)
    Setter(page, figures, numbers, title).document(tree)
    page.output(str(path))


class Setter:
    """Draws one block after the other, from top to bottom."""

    def __init__(self, page: "FPDF", figures: Path, numbers: Sequence[tuple[str, str]], title: str) -> None:
        self.page, self.figures, self.numbers, self.title = page, figures, numbers, title
        self.section, self.heading = 0, ""
        self.glyphs = set().union(*(font.cmap for font in page.fonts.values() if hasattr(font, "cmap")))

    # ---- blocks --------------------------------------------------------------------------------------------------

    def document(self, tree: "SyntaxTreeNode") -> None:
        blocks = list(tree.children)
        for i, node in enumerate(blocks):
            after = blocks[i + 1] if i + 1 < len(blocks) else None
            self.block(node, after)

    def block(self, node: "SyntaxTreeNode", after: "SyntaxTreeNode | None" = None) -> None:
        kind = node.type
        if kind == "heading":
            self.head(int(node.tag[1]), plain(node), after)
        elif kind == "paragraph":
            self.paragraph(node)
        elif kind in ("bullet_list", "ordered_list"):
            self.listing(node, kind == "ordered_list")
        elif kind in ("fence", "code_block"):
            self.code(node.content.rstrip("\n"))
        elif kind == "table":
            if self.heading == NUMBERS:
                self.ten()
            else:
                self.table(node)
        elif kind == "blockquote":
            for child in node.children:
                self.block(child)
        elif kind == "hr":
            self.rule()

    def head(self, level: int, text: str, after: "SyntaxTreeNode | None") -> None:
        page = self.page
        self.heading = text
        if level == 1:
            page.set_font(TEXT, "B", 22)
            page.set_text_color(*INK)
            page.multi_cell(0, 9.5, self.clean(text), align="L", new_x="LMARGIN", new_y="NEXT")
            page.ln(1)
            return
        if level == 2 and text not in UNNUMBERED:
            self.section += 1
            text = f"{self.section}  {text}"
        need = 26.0 if after is None or after.type != "table" else 40.0
        drawn = pictures(after) if after is not None and after.type == "paragraph" else []
        if drawn:  # a heading stays with the picture it is of
            need = max(need, 18 + self.tall(drawn[0]) + 12)
        if page.will_page_break(need):
            page.add_page()
        page.ln(5 if level == 2 else 2.5)
        page.set_font(TEXT, "B", 14.5 if level == 2 else 11.5)
        page.set_text_color(*ACCENT)
        page.start_section(self.clean(text), level=level - 2)
        page.multi_cell(0, 6.5, self.clean(text), align="L", new_x="LMARGIN", new_y="NEXT")
        page.ln(1.2)

    def paragraph(self, node: "SyntaxTreeNode") -> None:
        inline = node.children[0]
        text = plain(node).strip()
        if text.startswith("$$") and text.endswith("$$"):
            self.formula(inline.content.strip().strip("$"))
            return
        if drawn := pictures(node):
            for source in drawn:
                self.picture(source)
            return
        parts = list(runs(inline))
        caption = all(style == "I" for _, style, _ in parts)
        byline = self.page.page_no() == 1 and self.section == 0 and self.heading == self.title
        size, color = (9.2, QUIET) if caption or byline else (BODY, INK)
        self.flow([(t, "" if byline else s, u) for t, s, u in parts], size, color, "L" if caption or byline else "J")
        self.page.ln(2.6 if caption else 1.6)

    def flow(
        self, parts: list[tuple[str, str, str]], size: float, color: tuple[int, int, int], align: str, indent: float = 0.0
    ) -> None:
        """Runs of text of several styles as one paragraph."""
        page = self.page
        page.set_text_color(*color)
        with (
            page.text_columns(text_align=align, l_margin=MARGIN + indent, line_height=1.22) as column,
            column.paragraph() as one,
        ):
            for text, style, url in parts:
                if style == "C":
                    page.set_font(MONO, "", size * 0.82)
                else:
                    page.set_font(TEXT, style, size)
                page.set_text_color(*(ACCENT if url else color))
                one.write(self.clean(text), link=url or None)

    def listing(self, node: "SyntaxTreeNode", ordered: bool) -> None:
        page = self.page
        for number, item in enumerate(node.children, 1):
            if page.will_page_break(2 * LINE):
                page.add_page()
            top, before = page.get_y(), page.page_no()
            page.set_font(TEXT, "", BODY)
            page.set_text_color(*QUIET)
            page.set_xy(MARGIN, top)
            page.cell(6, LINE, f"{number}." if ordered else "•")
            assert page.page_no() == before
            page.set_xy(MARGIN + 6, top)
            for child in item.children:
                if child.type == "paragraph":
                    self.flow(list(runs(child.children[0])), BODY, INK, "L", indent=6)
                else:
                    self.block(child)
            page.ln(0.9)
        page.ln(1.4)

    def code(self, text: str) -> None:
        from fpdf.util import Padding

        page = self.page
        page.set_font(MONO, "", CODE)
        page.set_text_color(*INK)
        page.set_fill_color(*PAPER)
        page.set_draw_color(*PAPER)
        lines = self.clean(text).replace("\t", "    ")
        if page.will_page_break(min(12, 3.7 * (lines.count("\n") + 1)) + 2):
            page.add_page()
        page.ln(0.6)
        page.c_margin, kept = 2.2, page.c_margin
        page.multi_cell(0, 3.75, lines, align="L", fill=True, new_x="LMARGIN", new_y="NEXT", padding=Padding(1.4, 0, 1.4, 0))
        page.c_margin = kept
        page.ln(2.4)

    def picture(self, source: str) -> None:
        page, path = self.page, self.figures / source
        if not path.is_file():
            return
        if page.will_page_break(self.tall(source) + 12):
            page.add_page()
        page.image(str(path), w=page.epw, alt_text=source)
        page.ln(1.6)

    def tall(self, source: str) -> float:
        """Height of a picture across the page, in mm; 0 where it is missing."""
        from PIL import Image

        if not (self.figures / source).is_file():
            return 0.0
        with Image.open(self.figures / source) as image:
            width, height = image.size
        return float(self.page.epw * height / width)

    def formula(self, text: str) -> None:
        """A line of mathematics as a picture of its glyphs, 600 to the inch."""
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        with matplotlib.rc_context({"mathtext.fontset": "stix", "text.parse_math": True}):
            figure = Figure(figsize=(0.1, 0.1))
            FigureCanvasAgg(figure)
            figure.text(0, 0, f"${text}$", fontsize=11)
            held = io.BytesIO()
            figure.savefig(held, dpi=600, format="png", bbox_inches="tight", pad_inches=0.02, metadata={"Software": None})
        from PIL import Image

        with Image.open(held) as image:
            wide = min(self.page.epw, image.width / 600 * 25.4)
            tall = wide * image.height / image.width
        if self.page.will_page_break(tall + 3):
            self.page.add_page()
        self.page.ln(0.8)
        self.page.image(held, x=MARGIN + (self.page.epw - wide) / 2, w=wide, alt_text=text)
        self.page.ln(3)

    def rule(self) -> None:
        y = self.page.get_y() + 1
        self.page.set_draw_color(*RULE)
        self.page.line(MARGIN, y, MARGIN + self.page.epw, y)
        self.page.ln(3)

    # ---- tables --------------------------------------------------------------------------------------------------

    def ten(self) -> None:
        """The numbers as five rows of two, each with its name, the number itself, and what stands behind it."""
        page = self.page
        across, gap = page.epw, 5.0
        wide = (across - gap) / 2
        tall, top = 15.6, page.get_y() + 0.5
        for i, (name, text) in enumerate(self.numbers[:10]):
            x, y = MARGIN + (i % 2) * (wide + gap), top + (i // 2) * tall
            found = _HEAD.match(text)
            big, rest = (found[1], found[2]) if found else (text, "")
            page.set_draw_color(*RULE)
            page.line(x, y, x + wide, y)
            page.set_xy(x, y + 0.9)
            page.set_font(TEXT, "", 8.4)
            page.set_text_color(*QUIET)
            page.cell(wide, 3.6, self.clean(name.upper()))
            page.set_xy(x, y + 4.2)
            page.set_font(TEXT, "B", 14 if len(big) < 30 else 9.5)
            page.set_text_color(*ACCENT)
            page.cell(page.get_string_width(self.clean(big)) + 2.5, 6, self.clean(big))
            page.set_xy(x, y + 10)
            page.set_text_color(*INK)
            rest = rest.strip(" ,;")
            self.shrunk(rest[1:-1] if rest.startswith("(") and rest.endswith(")") and rest.count("(") == 1 else rest, wide)
        page.set_y(top + 5 * tall + 1)

    def shrunk(self, text: str, wide: float) -> None:
        """A line in at most two rows of small type."""
        page = self.page
        size, x, lines = 8.4, page.get_x(), [""] * 3
        while size > 6.6 and len(lines) > 2:
            size -= 0.2
            page.set_font(TEXT, "", size)
            lines = list(page.multi_cell(wide, 2.9, self.clean(text), align="L", dry_run=True, output="LINES"))  # type: ignore[arg-type]
        page.set_x(x)
        page.multi_cell(wide, 2.9, "\n".join(lines[:2]) + ("…" if len(lines) > 2 else ""), align="L")

    def table(self, node: "SyntaxTreeNode") -> None:
        from fpdf.enums import TableBordersLayout, TableCellFillMode
        from fpdf.fonts import FontFace

        page = self.page
        rows = [[plain(cell) for cell in row.children] for part in node.children for row in part.children]
        aligns = [
            "RIGHT" if "right" in str(c.attrs.get("style", "")) else "LEFT" for c in node.children[0].children[0].children
        ]
        headless = not any(cell.strip() for cell in rows[0])
        rows = rows[1:] if headless else rows
        if not rows:
            return
        widths = self.widths(rows)
        page.set_font(TEXT, "", SMALL)
        page.set_text_color(*INK)
        page.set_draw_color(*RULE)
        page.set_fill_color(255, 255, 255)
        page.set_line_width(0.2)
        layout = TableBordersLayout.HORIZONTAL_LINES
        with page.table(
            col_widths=widths,
            width=min(sum(widths), page.epw),
            align="LEFT",
            text_align=tuple(aligns),
            line_height=3.75,
            padding=(0.75, 1.1),
            borders_layout=layout,
            first_row_as_headings=not headless,
            cell_fill_mode=TableCellFillMode.NONE,
            v_align="TOP",
            headings_style=FontFace(emphasis="BOLD", color=QUIET, fill_color=(255, 255, 255), size_pt=SMALL),
        ) as table:
            for number, row in enumerate(rows):
                cells = table.row()
                for column, cell in enumerate(row):
                    first = FontFace(emphasis="BOLD") if headless and column == 0 and number >= 0 else None
                    cells.cell(self.clean(cell), style=first)
        page.ln(3)

    def widths(self, rows: list[list[str]]) -> list[float]:
        """Columns as wide as their text asks, the long ones sharing what is left; never narrower than their longest word."""
        page, columns = self.page, max(len(row) for row in rows)
        page.set_font(TEXT, "B", SMALL)
        measure = page.get_string_width

        def of(column: int, longest_word: bool) -> float:
            texts = [self.clean(row[column]) for row in rows if column < len(row)]
            pieces = [w for t in texts for w in re.split(r"[\s]+", t)] if longest_word else texts
            return max((measure(p) for p in pieces), default=0.0) + 3.2

        least = [min(of(i, True), page.epw / 3) for i in range(columns)]
        natural = [of(i, False) for i in range(columns)]
        left = page.epw - sum(least)
        if left <= 0:
            return least
        wish = [max(0.0, n - m) for n, m in zip(natural, least, strict=True)]
        share = min(1.0, left / max(1e-9, sum(wish)))
        return [m + w * share for m, w in zip(least, wish, strict=True)]

    # ---- text ----------------------------------------------------------------------------------------------------

    def clean(self, text: str) -> str:
        """Characters that no font here has become □."""
        return "".join(c if ord(c) in self.glyphs or c in "\n\t" else "□" for c in text)


def runs(inline: "SyntaxTreeNode", style: str = "", url: str = "") -> Iterator[tuple[str, str, str]]:
    """Text, style (B, I, both, or C for code) and link of every piece of a paragraph."""
    for child in inline.children:
        kind = child.type
        if kind == "text":
            yield child.content, style, url
        elif kind in ("softbreak", "hardbreak"):
            yield " ", style, url
        elif kind == "code_inline":
            yield child.content, "C", url
        elif kind == "strong":
            yield from runs(child, "".join(sorted({*style, "B"})), url)
        elif kind == "em":
            yield from runs(child, "".join(sorted({*style, "I"})), url)
        elif kind == "link":
            where = str(child.attrs.get("href", ""))
            yield from runs(child, style, where if "://" in where else "")
        elif kind != "image":
            yield child.content, style, url


def pictures(paragraph: "SyntaxTreeNode") -> list[str]:
    """Files of the pictures in a paragraph."""
    return [str(child.attrs.get("src", "")) for child in paragraph.children[0].children if child.type == "image"]


def plain(node: "SyntaxTreeNode") -> str:
    """The text of a block without its marks."""
    if node.type in ("softbreak", "hardbreak"):
        return " "
    if node.type == "image":
        return ""
    if not node.children:
        return node.content or ""
    return "".join(plain(child) for child in node.children)
