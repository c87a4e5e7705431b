"""Text as a reader sees it: the disguises that hide words from a filter taken off.

`plain` undoes compatibility forms (NFKC), look-alikes of other alphabets, invisible characters and case. `views` adds readings
that change letters (leet, letters apart, base64, rot13): a rule is tried on every one of them.
"""

import base64
import binascii
import codecs
import re
import unicodedata
from functools import lru_cache

# Letters of Cyrillic, Greek, Armenian, Cherokee and others drawn like Latin ones (from Unicode's confusables.txt).
LOOK_ALIKES = str.maketrans(
    "аеорсухіјѕһԁԛԝвкмнтгьӏѵɑɡɩʏοαενκιρτυχωβΑΒΕΖΗΙΚΜΝΟΡΤΥΧАВЕКМНОРСТХУІЈЅԌՏՕոսօցհյᎪᏟᎬᎻᏆᏦᏞᎷᏢᏚᎢᏙᏔᏃıłøđħŧßƖǀⅼ∣", 
    "aeopcyxijshdqwbkmhtrbivagiyoaevkiptuxwbABEZHIKMNOPTYXABEKMHOPCTXYIJSGSOnuoghjACEHIKLMPSTVWZilodhtsllll",
)  # fmt: skip
LEET = str.maketrans("0134578@$!|+€", "oieastbasilte")
APART = re.compile(r"(?<![^\W_])((?:[^\W\d_][\s.\-_*·|/]{1,2}){3,}[^\W\d_])(?![^\W_])")
BASE64 = re.compile(r"[A-Za-z0-9+/_-]{20,}={0,2}")
HEX = re.compile(r"(?<![0-9A-Za-z])(?:[0-9a-fA-F]{2}[\s:]?){11,}[0-9a-fA-F]{2}(?![0-9A-Za-z])")


@lru_cache(4096)
def plain(text: str) -> str:
    """NFKC, look-alikes to Latin, accents and invisible characters gone, case folded, runs of blanks made one."""
    text = unicodedata.normalize("NFKC", text)
    if not text.isascii():
        text = unicodedata.normalize("NFKD", text).translate(LOOK_ALIKES)
        text = "".join(c for c in text if not _invisible(c))
        text = unicodedata.normalize("NFKC", text)
    return re.sub(r"\s+", " ", text.casefold())


def _invisible(char: str) -> bool:
    """Zero-width, directional, tag and combining characters."""
    return unicodedata.category(char) in ("Cf", "Mn", "Me", "Cc", "Co") and char not in "\n\t"


def views(text: str) -> list[str]:
    """The readings of a text, each once: plain, leet undone, letters put together, encodings opened."""
    base = plain(text)
    out = [base]
    if any(c in base for c in "0134578@$!|+€"):
        out.append(base.translate(LEET))
    for view in list(out):
        joined = APART.sub(lambda match: re.sub(r"[^\w]|_", "", match[1]), view)
        if joined != view:
            out.append(joined)
    out += [plain(hidden) for hidden in opened(text)]
    out.append(codecs.encode(base, "rot13"))
    return list(dict.fromkeys(out))


def opened(text: str) -> list[str]:
    """What base64 and hexadecimal runs in a text hold, where it is text."""
    found = []
    for run in BASE64.findall(text):
        body = run.rstrip("=").replace("-", "+").replace("_", "/")
        found.append(_text(_decode64(body + "=" * (-len(body) % 4))))
    for run in HEX.findall(text):
        digits = re.sub(r"[\s:]", "", run)
        found.append(_text(bytes.fromhex(digits)))
    return [hidden for hidden in found if len(hidden) >= 8]


def _decode64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return b""


def _text(raw: bytes) -> str:
    """The bytes as text, empty where they are none."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        return ""
    return text if text and sum(c.isprintable() or c.isspace() for c in text) >= 0.95 * len(text) else ""
