"""The licence texts of a release: LICENSE, the weights', and LICENSES/, one for every licence named anywhere in it."""

from pathlib import Path
from typing import TYPE_CHECKING

from seekling.release import layout
from seekling.release.licences import ids_of, text_of

if TYPE_CHECKING:
    from seekling.release.material import Release


def licence_text(name: str, release: "Release", holder: str = "") -> str:
    """The text of a licence: as an ancestor carried it, from the publisher's LICENSES folder, or SPDX's with its holder
    filled in.

    Raises:
        LicenceError: there is none.
    """
    chain = release.chain
    for ancestor in (*chain.base_models, *chain.teachers, *chain.merged):
        if ancestor.licence == name and ancestor.text:
            return ancestor.text
    return text_of(
        name,
        (release.about.folder / layout.LICENSES, chain.last.run / layout.LICENSES),
        holder,
        release.released.year if holder else "",
    )


def write_licences(folder: Path, release: "Release") -> None:
    """LICENSES/<id>.txt for every id, and LICENSE, the weights'."""
    (folder / layout.LICENSES).mkdir()
    for name in release.licence_ids():
        (folder / layout.LICENSES / f"{name}.txt").write_text(licence_text(name, release), "utf-8")
    who = release.about.producer.get("name") or f"the makers of {release.name}"
    own = [licence_text(name, release, who) for name in ids_of(release.options.licence)]
    (folder / layout.LICENSE).write_text(("\n" + "-" * 40 + "\n\n").join(own), "utf-8")
