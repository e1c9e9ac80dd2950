"""Who made a Bundle: detached signatures with local keys; the one file that owns model_signing.

OpenSSF Model Signing v1.0: an in-toto statement over the file's SHA-256 in a Sigstore bundle.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from catflap.artifacts.bundle import Bundle, read_bundle
from catflap.artifacts.bundle_zip import encode_members
from catflap.artifacts.folder import whole_file
from catflap.errors import CatflapError, Refused, missing_extra, why

SUFFIX = ".sig"
MOST_BYTES = 1 << 20  # of a signature


def sign_bundle(path: Path, key: Path, out: Path | None = None) -> dict[str, Any]:
    """Sign a Bundle with a private key, PEM; the signature lies beside it, as NAME.catflap.sig.

    The Bundle is checked first. Raises CatflapError when the key is none of an elliptic curve, and
    MissingExtra without `sign`.
    """
    signing, _ = _tools()
    bundle = read_bundle(path)
    out = out or path.with_name(path.name + SUFFIX)
    if out.exists():
        _read_signature(out)
    _check_key(key)
    with tempfile.TemporaryDirectory() as folder:
        model, written = _copy(bundle, Path(folder)), Path(folder) / "written.sig"
        try:
            signing.Config().use_elliptic_key_signer(private_key=key).sign(model, written)
        except Exception as error:  # the library and its cryptography raise many types
            raise CatflapError(
                f"{key} cannot sign: {why(error)}.", "Name a private key of an elliptic curve, as PEM."
            ) from error
        whole_file(out, written.read_bytes())
    return {"bundle": str(path), "sha256": bundle.sha256, "signature": str(out)}


def read_signed(path: str | os.PathLike[str], key: Path | None, signature: Path | None = None) -> Bundle:
    """Open a Bundle only if the owner of this public key, PEM, signed it; without a key, open it.

    Raises Refused when there is no signature, or it is another's or of other bytes.
    """
    bundle = read_bundle(path)
    if key is not None:
        check_signature(bundle, key, signature)
    return bundle


def check_signature(bundle: Bundle, key: Path, signature: Path | None = None) -> None:
    """Raise Refused unless this very Bundle, as it was read, is signed by the key's owner."""
    _, verifying = _tools()
    signature = signature or bundle.path.with_name(bundle.path.name + SUFFIX)
    if not signature.is_file():
        raise Refused(f"{bundle.path} is not signed: there is no {signature.name}.", "Run: catflap sign")
    data = _read_signature(signature)
    _check_key(key)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "signature.sig"
        copy.write_bytes(data)
        try:
            verifier = verifying.Config().use_elliptic_key_verifier(public_key=key)
        except Exception as error:  # as above
            raise CatflapError(
                f"{key} is no key: {why(error)}.", "Name a public key of an elliptic curve, as PEM."
            ) from error
        try:
            verifier.verify(_copy(bundle, Path(folder)), copy)
        except Exception as error:  # as above; whatever it is, the signature was not confirmed
            raise Refused(
                f"{bundle.path} is not signed by the owner of {key}: {why(error)}.",
                "Get the bundle and its signature from where they were made.",
            ) from error


def _tools() -> tuple[Any, Any]:
    try:
        from model_signing import signing, verifying
    except ModuleNotFoundError as error:
        raise (
            missing_extra(error) or missing_extra(ModuleNotFoundError(name="model_signing")) or error
        ) from error
    return signing, verifying


def _copy(bundle: Bundle, folder: Path) -> Path:
    """The bytes that were read, which are what will run, even if the file was changed since."""
    path = folder / "bundle.catflap"
    path.write_bytes(encode_members(bundle.members))
    return path


def _read_signature(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise CatflapError(f"{path} cannot be read: {error.strerror}.", "Name a signature.") from error
    if len(data) > MOST_BYTES or not data.lstrip().startswith(b"{"):
        raise Refused(f"{path} is not a signature.", "Name a signature of catflap sign.")
    return data


def _check_key(key: Path) -> None:
    if not key.is_file():
        raise CatflapError(f"There is no key {key}.", "Name a key file, PEM.")
