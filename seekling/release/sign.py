"""The signature of a release: a Sigstore bundle in key mode, made and verifiable by ``model_signing``.

openssl ecparam -name prime256v1 -genkey -noout -out my.key && chmod 600 my.key
model_signing verify key DIR --signature DIR/model.sig --public_key my.pub
"""

import hashlib
import os
import stat
from pathlib import Path
from typing import Any

from seekling.errors import MachineError, RecipeError
from seekling.release.layout import GIT, PUBLIC_KEY, SIGNATURE

CURVES = ("secp256r1", "secp384r1", "secp521r1")


def read_key(path: str | Path) -> tuple[Path, bytes]:
    """Check a private key; gives its path and the public key in PEM.

    Raises:
        RecipeError: no such file, readable by others, encrypted, or no elliptic-curve key.
        MachineError: model-signing is not installed.
    """
    path = Path(path)
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        held = path.read_bytes()
    except OSError as error:
        raise RecipeError(f"--sign {path}: {error.strerror}; give a private key in PEM form") from None
    if os.name == "posix" and mode & 0o077:
        raise RecipeError(f"--sign {path} can be read by others (mode {mode:o}): chmod 600 {path}, or make a new key")
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ec

        import_signer()
    except ImportError:
        raise MachineError("--sign needs model-signing: pip install 'seekling[release]'") from None
    try:
        key = serialization.load_pem_private_key(held, None)
    except TypeError:
        raise RecipeError(f"--sign {path} is encrypted: decrypt it for this use (openssl ec -in {path} -out FILE)") from None
    except ValueError:
        raise RecipeError(f"--sign {path} is no private key in PEM form; make one as docs/release.md shows") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name not in CURVES:
        raise RecipeError(f"--sign {path} is no key on P-256, P-384 or P-521; make one as docs/release.md shows")
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return path, public


def import_signer() -> Any:
    """The module; model-signing forgets to ask for pyOpenSSL, which the release extra brings."""
    import model_signing

    return model_signing


def fingerprint(public: bytes) -> str:
    """SHA-256 of a public key's PEM, the hint inside the bundle."""
    return hashlib.sha256(public).hexdigest()


def sign(folder: Path, key: Path) -> None:
    """Write ``model.sig`` over every file of the folder as it is."""
    signer = import_signer()
    ignore = [folder / name for name in (SIGNATURE, *GIT)]
    hashing = signer.hashing.Config().set_ignored_paths(paths=ignore, ignore_git_paths=True)
    config = signer.signing.Config().use_elliptic_key_signer(private_key=key).set_hashing_config(hashing)
    config.sign(folder, folder / SIGNATURE)


def write_public_key(folder: Path, public: bytes) -> None:
    """``model.pub``, so that a reader who trusts its fingerprint can verify."""
    (folder / PUBLIC_KEY).write_bytes(public)
