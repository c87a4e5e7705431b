"""A typed tree of settings: sections of knobs that are the Python API, a TOML file and the command's flags at once.

`seekling.recipe.Recipe` (pretraining) and the recipes of the teaching stages are such trees. Field names are unique over the
sections, so a flag needs no prefix (``--batch-size``) and ``Tree.of(lr=1e-3)`` finds its section.
"""

import argparse
import dataclasses
import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, get_type_hints

from seekling.errors import RecipeError, raise_all
from seekling.knobs import Knob, collect, toml_value


def knobs_of(tree: type) -> dict[str, Knob]:
    """Every field of a tree by name."""
    if tree not in _KNOBS:
        _KNOBS[tree] = collect(tree)
    return _KNOBS[tree]


_KNOBS: dict[type, dict[str, Knob]] = {}


@dataclass(frozen=True)
class Tree:
    """Base of all recipes; a subclass has sections (dataclasses of knobs) as its fields, and the verb that takes it."""

    @classmethod
    def verb(cls) -> str:
        """The command whose flags these are, for messages."""
        raise NotImplementedError

    @classmethod
    def sections(cls) -> tuple[str, ...]:
        return tuple(f.name for f in dataclasses.fields(cls))

    # ---- flat view -----------------------------------------------------------------------------------------------

    @classmethod
    def of(cls, **values: Any) -> Self:
        """A tree from flat names; all others keep their defaults. Raises RecipeError listing every problem."""
        return cls().override(values)

    def flat(self) -> dict[str, Any]:
        """Every field by name."""
        return {name: getattr(getattr(self, spec.section), name) for name, spec in knobs_of(type(self)).items()}

    def override(self, values: Mapping[str, Any], *, what: str = "recipe") -> Self:
        """A copy with some fields replaced; strings are read as on the command line.

        Raises:
            RecipeError: listing every unknown name, wrong type, bad range and contradiction at once.
        """
        knobs = knobs_of(type(self))
        bad: list[str] = []
        clean: dict[str, Any] = {}
        for name, value in values.items():
            if name not in knobs:
                bad.append(self.unknown_key(name))
                continue
            try:
                clean[name] = knobs[name].read(value)
            except ValueError as error:
                bad.append(str(error))
        raise_all(RecipeError, bad + self.refusals(clean), what)
        changed = self.replaced(self.relaxed(clean))
        raise_all(RecipeError, changed.problems(), what)
        return changed

    def replaced(self, values: Mapping[str, Any]) -> Self:
        """A copy with checked values put in; nothing is read or judged."""
        knobs = knobs_of(type(self))
        parts = {
            s: dataclasses.replace(getattr(self, s), **{n: v for n, v in values.items() if knobs[n].section == s})
            for s in self.sections()
        }
        return dataclasses.replace(self, **parts)

    def refusals(self, values: Mapping[str, Any]) -> list[str]:
        """Why these fields must not be changed on this tree."""
        return []

    def relaxed(self, values: dict[str, Any]) -> dict[str, Any]:
        """The fields to change, with those that must be derived again because of them."""
        return values

    # ---- checks --------------------------------------------------------------------------------------------------

    def problems(self) -> list[str]:
        """Every bad range and contradiction that can be seen without a machine or data, one line each."""
        bad = []
        for name, value in self.flat().items():
            try:
                knobs_of(type(self))[name].read(value)
            except ValueError as error:
                bad.append(str(error))
        return bad or self.contradictions()

    def contradictions(self) -> list[str]:
        """What single fields do not show."""
        return []

    # ---- TOML ----------------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Sections of plain values; None fields are left out."""
        return {s: {k: v for k, v in dataclasses.asdict(getattr(self, s)).items() if v is not None} for s in self.sections()}

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any], what: str = "recipe") -> Self:
        """From sections of plain values. Raises RecipeError listing every problem."""
        flat: dict[str, Any] = {}
        bad: list[str] = []
        for section, values in raw.items():
            if section not in cls.sections():
                bad.append(f"unknown section [{section}]; the sections are {', '.join(cls.sections())}")
            elif not isinstance(values, Mapping):
                bad.append(f"{section} must be a section, not {values!r}")
            else:
                for name, value in values.items():
                    spec = knobs_of(cls).get(name)
                    if spec is None or spec.section != section:
                        bad.append(cls.unknown_key(name, section))
                    elif isinstance(value, str) and spec.kind is not str:
                        bad.append(spec.complaint(value))
                    else:
                        try:
                            flat[name] = spec.read(value)
                        except ValueError as error:
                            bad.append(str(error))
        raise_all(RecipeError, bad, what)
        return cls().override(flat, what=what)

    def to_toml(self) -> str:
        """The tree as TOML text; ``from_toml`` gives back an equal one."""
        lines = []
        for section, values in self.to_dict().items():
            lines += [f"[{section}]", *(f"{key} = {toml_value(value)}" for key, value in values.items()), ""]
        return "\n".join(lines)

    @classmethod
    def from_toml(cls, text: str, what: str = "recipe") -> Self:
        """Read TOML text. Raises RecipeError for a syntax error or listing every problem."""
        try:
            raw = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise RecipeError(f"{what} is not valid TOML: {error}") from None
        return cls.from_dict(raw, what)

    def save(self, path: str | Path) -> None:
        """Write the TOML file."""
        Path(path).write_text(self.to_toml(), encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a TOML file, or the recipe.toml of a run folder. Raises RecipeError."""
        path = Path(path)
        if path.is_dir():
            path = path / "recipe.toml"
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(f"no recipe at {path} ({error.__class__.__name__}); give a recipe.toml or a run folder") from None
        return cls.from_toml(text, str(path))

    # ---- flags ---------------------------------------------------------------------------------------------------

    @classmethod
    def unknown_key(cls, name: str, section: str | None = None) -> str:
        """The message for a name that is no field (or not of that section)."""
        knobs = knobs_of(cls)
        if name in knobs:
            return f"{name} belongs in [{knobs[name].section}], not in [{section}]"
        near = difflib.get_close_matches(name.replace("-", "_"), knobs, n=1)
        where = f" in [{section}]" if section else ""
        remedy = f"; did you mean {near[0]}?" if near else f"; see seekling {cls.verb()} --help"
        return f"unknown key {name!r}{where}{remedy}"

    @classmethod
    def add_flags(cls, parser: argparse.ArgumentParser) -> None:
        """Give the parser one flag a field. Values stay strings, so that :meth:`override` can list all problems at once."""
        hints = {s: part for s, part in get_type_hints(cls).items() if s in cls.sections()}
        groups = {s: parser.add_argument_group(f"{s}: {(part.__doc__ or s).rstrip('.')}") for s, part in hints.items()}
        for name, spec in knobs_of(cls).items():
            if not spec.meta["flag"]:
                continue
            flag, text = "--" + name.replace("_", "-"), spec.meta["help"].replace("%", "%%")
            default = spec.meta["derived"] or ("" if spec.default in (None, ()) else str(spec.default))
            text += f" [{default.replace('%', '%%')}]" if default else ""
            options: dict[str, Any] = dict(dest=name, default=argparse.SUPPRESS, help=text)
            if spec.kind is bool:
                options["action"] = argparse.BooleanOptionalAction
            elif spec.kind is tuple:
                options.update(action="extend", nargs="+", metavar=name.upper())
            else:
                choices = spec.meta["choices"]
                options["metavar"] = "{" + ",".join(choices) + "}" if choices else kind_letter(spec.kind)
            groups[spec.section].add_argument(flag, **options)

    @classmethod
    def from_args(cls, args: argparse.Namespace, base: Self | None = None) -> Self:
        """What the flags ask for, over ``base`` (a TOML file) or the defaults."""
        knobs = knobs_of(cls)
        given = {name: value for name, value in vars(args).items() if name in knobs and knobs[name].meta["flag"]}
        return (base or cls()).override(given, what="")


def kind_letter(kind: type) -> str:
    """Placeholder of a flag's value in the help."""
    return {int: "N", float: "X", str: "TEXT"}[kind]
