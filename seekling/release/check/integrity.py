"""Hashes and signatures: that the files are those that were published, and by whom.

Looked at where there: ``release.json``'s list, ``SHA256SUMS``, the hub's own hashes, and a Sigstore bundle in key mode
as ``model_signing`` writes it (DSSE envelope around an in-toto statement with one SHA-256 a file). No network, and no key that
the folder itself brings along.
"""

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from seekling.errors import DataError, MachineError
from seekling.hub.names import RECORD
from seekling.release import layout
from seekling.release.check.finding import FAIL, NOTE, PASS, PERSON, Finding
from seekling.release.check.place import Place, Trouble, short

PREDICATE = "https://model_signing/signature/v1.0"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
_SUM = re.compile(r"([0-9a-fA-F]{64}) [ *](.+)")
SHOWN = 12


class Hashes:
    """SHA-256 of each file, computed once; of files that were not fetched, what the hub states."""

    def __init__(self, place: Place, progress: Callable[[int], None] = lambda n: None) -> None:
        self.place, self._progress = place, progress
        self._known: dict[str, str | None] = {}

    def of(self, path: str) -> str | None:
        """Hex digest; None for a file that is not here, whose hub states none. Raises Trouble."""
        if path not in self._known:
            self._known[path] = self._compute(path)
        return self._known[path]

    def _compute(self, path: str) -> str | None:
        if path in self.place.absent:
            return self.place.entries[path].sha256
        digest = hashlib.sha256()
        with self.place.open(path) as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
                self._progress(len(chunk))
        return digest.hexdigest()


def integrity_findings(place: Place, manifest: dict[str, Any] | None, hashes: Hashes, key: Path | None) -> Iterator[Finding]:
    """Findings about every list of hashes and every signature there is."""
    lists = 0
    if manifest is not None:
        lists += 1
        listed = {f["path"]: f for f in _rows(manifest.get("files")) if isinstance(f.get("path"), str)}
        wanted = {path: str(f.get("sha256", "")).lower() for path, f in listed.items()}
        yield from _compared(place, hashes, wanted, "release.json", layout.UNLISTED)
    if place.has(layout.SUMS):
        lists += 1
        yield from _sums(place, hashes)
    if place.here(RECORD):  # what `seekling pull` brought, with the hub's hashes
        lists += 1
        yield from _pulled(place, hashes)
    signatures = [p for p in place.matching(r"[^/]+\.(sig|sigstore|sigstore\.json)") if place.here(p)]
    for path in signatures:
        yield from _signature(place, hashes, path, key)
    if not lists and not signatures:
        text = "no list of hashes and no signature: a changed file cannot be told"
        yield Finding("integrity.none", NOTE, text, remedy="add SHA256SUMS, or sign with model_signing")
    elif not signatures:
        yield Finding(
            "integrity.unsigned", NOTE, "not signed: who published it cannot be told", remedy="seekling release --sign KEY"
        )
        if key is not None:
            yield Finding("integrity.signature", FAIL, "a key was given and there is no signature to verify")


def _rows(value: Any) -> list[dict[str, Any]]:
    return [v for v in value if isinstance(v, dict)] if isinstance(value, list) else []


def _compared(
    place: Place, hashes: Hashes, wanted: Mapping[str, str], source: str, unlisted: tuple[str, ...]
) -> Iterator[Finding]:
    changed, missing, unread, unknown = [], [], [], []
    for path, digest in wanted.items():
        if not place.has(path):
            missing.append(path)
            continue
        try:
            found = hashes.of(path)
        except Trouble as trouble:
            unread.append(str(trouble))
            continue
        if found is None:
            unknown.append(path)
        elif found != digest:
            changed.append(path)
    extra = [p for p in place.entries if p not in wanted and p not in unlisted and p.split("/")[0] not in layout.GIT]
    again = "get the folder again; do not use it as it is"
    for names, what in ((changed, "changed"), (missing, "missing"), (unread, "unreadable")):
        if names:
            text = f"{source}: {len(names)} of {len(wanted)} files {what}: {_some(names)}"
            yield Finding("integrity.hash", FAIL, text, source, tuple(names[:SHOWN]), again)
    if extra:
        text = f"{source} does not list {len(extra)} files that are there: {_some(extra)}"
        yield Finding("integrity.unlisted", FAIL, text, source, tuple(extra[:SHOWN]), "remove them, or make the list again")
    if unknown:
        yield Finding("integrity.unknown", NOTE, f"{source}: {len(unknown)} files were not fetched, so not compared", source)
    if not changed and not missing and not unread:
        yield Finding("integrity.hash", PASS, f"{source}: {len(wanted) - len(unknown)} files are as listed", source)


def _pulled(place: Place, hashes: Hashes) -> Iterator[Finding]:
    try:
        files = place.mapping(RECORD).get("files")
    except Trouble as trouble:
        yield Finding("integrity.sums", FAIL, str(trouble), RECORD)
        return
    rows = files.items() if isinstance(files, dict) else ()
    wanted = {path: str(facts["sha256"]) for path, facts in rows if isinstance(facts, dict) and facts.get("sha256")}
    yield from _compared(place, hashes, wanted, RECORD, (RECORD,))


def _sums(place: Place, hashes: Hashes) -> Iterator[Finding]:
    if not place.here(layout.SUMS):
        return
    try:
        lines = place.text(layout.SUMS, 16 << 20).splitlines()
    except Trouble as trouble:
        yield Finding("integrity.sums", FAIL, str(trouble), layout.SUMS)
        return
    wanted, bad = {}, 0
    for line in lines:
        match = _SUM.fullmatch(line)
        if match is None:
            bad += bool(line.strip())
        else:
            wanted[match[2]] = match[1].lower()
    if bad:
        yield Finding("integrity.sums", FAIL, f"SHA256SUMS has {bad} lines that are no hash and path", layout.SUMS)
    yield from _compared(place, hashes, wanted, layout.SUMS, (layout.SUMS, layout.SIGNATURE))


# ---- signatures ------------------------------------------------------------------------------------------------------


def _signature(place: Place, hashes: Hashes, path: str, key: Path | None) -> Iterator[Finding]:
    try:
        bundle = place.mapping(path)
        payload, signatures = _envelope(bundle, path)
        statement = json.loads(payload)
        named = _resources(statement, path)
    except (Trouble, ValueError, RecursionError) as error:
        yield Finding("integrity.signature", FAIL, f"{path} is no signature that can be read ({short(error)})", path)
        return
    yield from _verified(path, payload, signatures, bundle, key)
    ignored = _ignored(statement)
    yield from _compared(place, hashes, named, path, (path, *ignored))


def _envelope(bundle: dict[str, Any], path: str) -> tuple[bytes, list[bytes]]:
    envelope = bundle.get("dsseEnvelope")
    if not isinstance(envelope, dict) or envelope.get("payloadType") != PAYLOAD_TYPE:
        raise Trouble(f"{path} holds no in-toto envelope")
    rows = _rows(envelope.get("signatures"))
    try:
        payload = base64.b64decode(str(envelope.get("payload")), validate=True)
        signatures = [base64.b64decode(str(s.get("sig")), validate=True) for s in rows]
    except binascii.Error as error:
        raise Trouble(f"{path}: {error}") from None
    if not signatures:
        raise Trouble(f"{path} holds no signature")
    return payload, signatures


def _resources(statement: Any, path: str) -> dict[str, str]:
    """File -> hash that a statement vouches for, after its root digest was computed again."""
    if not isinstance(statement, dict) or statement.get("predicateType") != PREDICATE:
        raise Trouble(f"{path} signs something else than a model's files")
    rows = _rows((statement.get("predicate") or {}).get("resources"))
    named: dict[str, str] = {}
    root = hashlib.sha256()
    for row in rows:
        digest = str(row.get("digest", ""))
        if row.get("algorithm") != "sha256" or not re.fullmatch(r"[0-9a-f]{64}", digest):
            raise Trouble(f"{path} uses the hash {str(row.get('algorithm'))[:40]!r}; only sha256 of whole files is read")
        named[str(row.get("name"))] = digest
        root.update(bytes.fromhex(digest))
    subject = _rows(statement.get("subject"))
    digests = subject[0].get("digest") if len(subject) == 1 else None
    if not isinstance(digests, dict) or digests.get("sha256") != root.hexdigest() or not named:
        raise Trouble(f"{path}: its root digest is not that of the files it lists")
    return named


def _ignored(statement: dict[str, Any]) -> tuple[str, ...]:
    found = ((statement.get("predicate") or {}).get("serialization") or {}).get("ignore_paths")
    return tuple(str(p) for p in found[:100]) if isinstance(found, list) else ()


def _verified(
    path: str, payload: bytes, signatures: list[bytes], bundle: dict[str, Any], key: Path | None
) -> Iterator[Finding]:
    material = bundle.get("verificationMaterial")
    hint = ((material if isinstance(material, dict) else {}).get("publicKey") or {}).get("hint")
    if key is None:
        who = f"key {str(hint)[:16]}…" if hint else "a certificate or an unnamed key"
        text = f"{path} is signed with {who}; whose it is was not verified"
        yield Finding(
            "integrity.signature", PERSON, text, path, remedy="get the publisher's public key and give it with --key FILE"
        )
        return
    public, name = _public_key(key)
    if hint and hint != name:
        yield Finding("integrity.signature", FAIL, f"{path} was made with another key ({str(hint)[:16]}…) than {key}", path)
    elif any(_is_signed(public, signature, payload) for signature in signatures):
        yield Finding("integrity.signature", PASS, f"{path} was made with the key {name[:16]}…", path)
    else:
        text = f"{path}: the signature is not of this content"
        yield Finding("integrity.signature", FAIL, text, path, remedy="do not use the folder: get it from its publisher")


def _public_key(path: Path) -> tuple[Any, str]:
    """The key of a PEM file and its name, as model_signing has it. Raises DataError, MachineError."""
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ec
    except ImportError:
        raise MachineError("verifying signatures needs cryptography: pip install 'seekling[release]'") from None
    try:
        key = serialization.load_pem_public_key(path.read_bytes())
    except OSError as error:
        raise DataError(f"--key {path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise DataError(f"--key {path} is no public key in PEM form ({short(error)})") from None
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise DataError(f"--key {path} is no elliptic-curve key (P-256, P-384, P-521), which model_signing uses")
    pem = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return key, hashlib.sha256(pem).hexdigest()


def _is_signed(key: Any, signature: bytes, payload: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    size = key.curve.key_size
    digest = hashes.SHA256() if size == 256 else hashes.SHA384() if size == 384 else hashes.SHA512()
    message = f"DSSEv1 {len(PAYLOAD_TYPE)} {PAYLOAD_TYPE} {len(payload)} ".encode() + payload
    try:
        key.verify(signature, message, ec.ECDSA(digest))
    except InvalidSignature:
        return False
    return True


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (", …" if len(names) > 4 else "")
