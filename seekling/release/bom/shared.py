"""What both bills of materials say of a release."""

import uuid
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from seekling.release.material import Release

USE = "Study and teaching: how a DeepSeek-style language model is trained, changed, served and released."


def identifier(release: "Release", what: str) -> str:
    """A UUID that follows from the release, so that equal releases have equal documents."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"seekling/{release.name}/{release.version}/{release.date}/{what}"))


def description(release: "Release") -> str:
    """The publisher's words, or the least that is true."""
    return release.about.model.get("description") or f"A {release.config.model_type} language model."
