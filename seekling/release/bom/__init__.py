"""Bills of materials: CycloneDX 1.6 with a model card (ML-BOM), and SPDX 3.0.1 with its AI and Dataset profiles.

Both list the same model, data, code, libraries and file hashes.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from seekling.errors import SeeklingError
from seekling.release.bom.cyclonedx import cyclonedx, cyclonedx_problems
from seekling.release.bom.spdx import spdx_document
from seekling.release.layout import CYCLONEDX, SPDX, files_of, sha256

if TYPE_CHECKING:
    from seekling.release.material import Release

__all__ = ["cyclonedx_problems", "write_boms"]


def write_boms(folder: Path, release: "Release") -> None:
    """Write both files.

    Raises:
        SeeklingError: one is not valid against its schema, which would be our mistake.
    """
    (folder / CYCLONEDX).parent.mkdir(parents=True)
    hashes = {p.as_posix(): sha256(folder / p) for p in files_of(folder)}
    cdx = cyclonedx(release, hashes)
    problems = cyclonedx_problems(cdx)
    if problems:
        raise SeeklingError(f"the CycloneDX bill of materials came out invalid: {problems[0]}")
    (folder / CYCLONEDX).write_text(json.dumps(cdx, ensure_ascii=False, indent=1) + "\n", "utf-8")
    (folder / SPDX).write_bytes(spdx_document(release, hashes))
