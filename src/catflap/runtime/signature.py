"""Signatures: sign a Bundle, and check who signed it; the one file that owns model_signing.

OpenSSF Model Signing v1.0: an in-toto statement over the file's SHA-256 in a Sigstore bundle.
"""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from catflap.artifacts.bundle import Bundle, encode_members, load_bundle
from catflap.artifacts.folder import write_atomically
from catflap.errors import CatflapError, Refused, first_line, missing_extra, system_reason

SUFFIX = ".sig"
MAX_BYTES = 1 << 20  # of a signature
MEDIA_TYPE = "application/vnd.dev.sigstore.bundle"  # the start of every version's
NO_SIGSTORE = "Sigstore needs the network; without it, use your own key or certificate."


@dataclass(frozen=True)
class Signer:
    """Who must have signed a Bundle: exactly one of three.

    The owner of a public `key` (PEM); the owner of a certificate that chains to `root`, a PEM file of
    self-signed certificates; or an `identity` that its OpenID `issuer`, a URL, confirmed to Sigstore.
    """

    key: Path | None = None
    root: Path | None = None
    identity: str = ""
    issuer: str = ""

    def __post_init__(self) -> None:
        if sum(map(bool, (self.key, self.root, self.identity))) != 1 or bool(self.identity) != bool(
            self.issuer
        ):
            raise CatflapError(
                "The signer is ambiguous or missing.", "Give --key, or --root, or --identity with --issuer."
            )

    def __str__(self) -> str:
        if self.key:
            return f"the owner of {self.key}"
        return (
            f"a certificate of {self.root}" if self.root else f"{self.identity}, confirmed by {self.issuer}"
        )


def sign_bundle(
    path: Path,
    key: Path | None,
    out: Path | None = None,
    *,
    certificate: Path | None = None,
    chain: Path | None = None,
) -> dict[str, Any]:
    """Sign a Bundle after checking it; the signature is written beside it, as NAME.catflap.sig.

    Sign with a private `key` (PEM), optionally with its `certificate` and the `chain` of certificates between
    it and the root. Without a key Sigstore signs, which asks who you are in a browser.
    Raises CatflapError when these cannot sign, and MissingExtra without the extra `sign`.
    """
    signing, _ = _import_model_signing()
    bundle = load_bundle(path)
    out = out or path.with_name(path.name + SUFFIX)
    if out.exists():
        _check_replaceable(out)
    if (chain and not certificate) or (certificate and not key):
        raise CatflapError(
            "--chain needs --certificate, and --certificate needs --key.",
            "Give the missing one.",
        )
    for file in filter(None, (key, certificate, chain)):
        _check_file(file)
    with tempfile.TemporaryDirectory() as folder:
        model, written = _write_copy(bundle, Path(folder)), Path(folder) / "written.sig"
        try:
            _signer(signing.Config(), key, certificate, chain).sign(model, written)
        except Exception as error:  # the library and its cryptography raise many types
            if key is None:
                raise CatflapError(f"Sigstore cannot sign: {first_line(error)}.", NO_SIGSTORE) from error
            raise CatflapError(
                f"{certificate or key} cannot sign: {first_line(error)}.",
                "Name an elliptic-curve private key and its own certificate, as PEM."
                if certificate
                else "Name an elliptic-curve private key, as PEM.",
            ) from error
        write_atomically(out, written.read_bytes())
    return {"bundle": str(path), "sha256": bundle.sha256, "signature": str(out)}


def _signer(config: Any, key: Path | None, certificate: Path | None, chain: Path | None) -> Any:
    if key is None:
        return config.use_sigstore_signer(use_ambient_credentials=True)
    if certificate is None:
        return config.use_elliptic_key_signer(private_key=key)
    return config.use_certificate_signer(
        private_key=key,
        signing_certificate=certificate,
        certificate_chain=[chain or certificate],  # the library fails on an empty chain
    )


def read_signed(path: str | os.PathLike[str], signer: Signer | None) -> Bundle:
    """Open a Bundle if this Signer signed it; without a Signer, open it unchecked.

    Raises Refused when there is no signature, or when it is someone else's or of other bytes.
    """
    bundle = load_bundle(path)
    if signer is not None:
        check_signature(bundle, signer)
    return bundle


def check_signature(bundle: Bundle, signer: Signer, signature: Path | None = None) -> None:
    """Raise Refused unless this Signer signed this Bundle, exactly as it was read."""
    _, verifying = _import_model_signing()
    signature = signature or bundle.path.with_name(bundle.path.name + SUFFIX)
    if not signature.is_file():
        raise Refused(
            f"{bundle.path} is not signed: there is no {signature.name}.",
            f"Ask its maker for that file, or run: catflap sign {bundle.path} --key PRIVATE",
        )
    data = _read_signature(signature)
    verifier = _verifier(verifying.Config(), signer)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "signature.sig"
        copy.write_bytes(data)
        try:
            verifier.verify(_write_copy(bundle, Path(folder)), copy)
        except Exception as error:  # as above; whatever it is, the signature is not confirmed
            reason = (
                "it is another kind of signature" if isinstance(error, AttributeError) else first_line(error)
            )
            raise Refused(
                f"{bundle.path} is not signed by {signer}: {reason}.",
                "Get the bundle and its signature from their maker again.",
            ) from error


def _verifier(config: Any, signer: Signer) -> Any:
    file = signer.key or signer.root
    if file is not None:
        _check_file(file)
    try:
        if signer.key:
            return config.use_elliptic_key_verifier(public_key=signer.key)
        if signer.root:
            return config.use_certificate_verifier(certificate_chain=[signer.root])
        return config.use_sigstore_verifier(identity=signer.identity, oidc_issuer=signer.issuer)
    except Exception as error:  # as above
        if file is None:
            raise CatflapError(f"Sigstore is not available: {first_line(error)}.", NO_SIGSTORE) from error
        fix = "Name an elliptic-curve public key" if signer.key else "Name certificates"
        raise CatflapError(f"{file} cannot be used: {first_line(error)}.", f"{fix}, as PEM.") from error


def _import_model_signing() -> tuple[Any, Any]:
    try:
        from model_signing import signing, verifying
    except ModuleNotFoundError as error:
        raise (
            missing_extra(error) or missing_extra(ModuleNotFoundError(name="model_signing")) or error
        ) from error
    return signing, verifying


def _write_copy(bundle: Bundle, folder: Path) -> Path:
    """Write the bytes that were read, which are what will run, even if the file has changed since."""
    path = folder / "bundle.catflap"
    path.write_bytes(encode_members(bundle.members))
    return path


def _read_signature(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise CatflapError(
            f"{path} cannot be read: {system_reason(error)}.", "Name a signature file."
        ) from error
    if len(data) > MAX_BYTES or not data.lstrip().startswith(b"{"):
        raise Refused(f"{path} is not a signature.", "Name a file that catflap sign wrote.")
    return data


def _check_replaceable(path: Path) -> None:
    """Raise Refused where the output would overwrite a file that is not a signature."""
    try:
        fields = json.loads(_read_signature(path))
    except (ValueError, RecursionError):
        fields = {}
    if not str(fields.get("mediaType")).startswith(MEDIA_TYPE):
        raise Refused(f"{path} exists and is not a signature.", "Choose another output name.")


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise CatflapError(f"There is no file {path}.", "Name a PEM file with a key or a certificate.")
