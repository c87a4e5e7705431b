"""The pages a report is set on: their look, running head and numbers, and the fonts.

The fonts are those that every matplotlib has (STIX for text, DejaVu Sans Mono for code); what they lack is looked for in a
Chinese font of the system.
"""

import datetime
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fpdf import FPDF

TEXT, MONO, SYMBOLS, CJK = "text", "mono", "symbols", "cjk"
INK, QUIET, ACCENT, RULE, PAPER = (34, 34, 34), (106, 106, 106), (0, 90, 143), (205, 205, 205), (245, 246, 248)
MARGIN, LINE = 22.0, 4.9  # mm
BODY, SMALL, CODE = 10.5, 8.6, 7.6  # points
CHINESE = ("Noto Sans CJK SC", "Noto Serif CJK SC", "WenQuanYi Zen Hei", "Source Han Sans SC", "PingFang SC", "SimHei")


def open_document(title: str, author: str, date: datetime.datetime) -> "FPDF":
    """An empty A4 document with fonts, running head and page numbers."""
    import matplotlib
    from fpdf import FPDF

    class Pages(FPDF):
        def header(self) -> None:
            if self.page_no() > 1:
                self.set_xy(MARGIN, 11)
                self.set_font(TEXT, "I", 8.5)
                self.set_text_color(*QUIET)
                self.cell(0, 4, title)
                self.set_y(20)

        def footer(self) -> None:
            self.set_y(-14)
            self.set_font(TEXT, "", 9)
            self.set_text_color(*QUIET)
            self.cell(0, 5, str(self.page_no()), align="C")

    page = Pages(format="A4")
    page.set_creation_date(date)
    page.set_title(title)
    page.set_author(author)
    page.set_lang("en")
    page.set_creator("Seekling")
    fonts = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    for style, name in (("", "STIXGeneral"), ("B", "STIXGeneralBol"), ("I", "STIXGeneralItalic"), ("BI", "STIXGeneralBolIta")):
        page.add_font(TEXT, style, fonts / f"{name}.ttf")
    for style, name in (("", "DejaVuSansMono"), ("B", "DejaVuSansMono-Bold")):
        page.add_font(MONO, style, fonts / f"{name}.ttf")
    page.add_font(SYMBOLS, "", fonts / "DejaVuSans.ttf")
    fallback = [SYMBOLS]
    found = chinese_font()
    if found is not None:
        page.add_font(CJK, "", found[0], collection_font_number=found[1])
        fallback.append(CJK)
    page.set_fallback_fonts(fallback, exact_match=False)
    page.set_margins(MARGIN, 20, MARGIN)
    page.set_auto_page_break(True, 20)
    page.add_page()
    return page


def chinese_font() -> tuple[str, int] | None:
    """Path and number in its collection of a Chinese font of this system; None where there is none."""
    from matplotlib.font_manager import fontManager

    names = {font.name: font.fname for font in fontManager.ttflist}
    for name in CHINESE:
        if name in names:
            return names[name], _number_in(names[name], name)
    for name, file in names.items():  # a collection is listed by the name of its first font
        if "CJK" in name and "Mono" not in name and file.endswith(".ttc"):
            return file, _number_in(file, "CJK SC")
    return None


def _number_in(file: str, name: str) -> int:
    if not file.endswith(".ttc"):
        return 0
    from fontTools.ttLib import TTCollection

    with TTCollection(file, lazy=True) as held:
        for number, font in enumerate(held.fonts):
            if name in str(font["name"].getDebugName(4)):
                return number
    return 0
