"""A certificate that leads to the device's root is taken, another one is not; Sigstore needs a network."""

from __future__ import annotations

import datetime
import io
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from catflap.cli.main import main
from catflap.errors import CatflapError, Refused
from catflap.exporting.golden_cases import scene
from catflap.image import encode
from catflap.live.watch import watch
from catflap.live.watch_settings import WatchSettings
from catflap.runtime.signature import Signer, read_signed, sign_bundle
from catflap.serving.serve import serve
from catflap.serving.serve_settings import ServeSettings
from catflap.verification.verify import verify

if find_spec("model_signing") is None:
    pytest.skip("model-signing is not installed: pip install 'catflap[sign]'", allow_module_level=True)
x509 = pytest.importorskip("cryptography.x509")


@dataclass(frozen=True)
class Holder:
    """A name with a private key, its certificate, and their files."""

    name: str
    key: Any
    certificate: Any
    pem: Path
    private: Path


def certified(folder: Path, name: str, by: Holder | None = None, *, authority: bool = False) -> Holder:
    """A new key with a certificate by somebody, or by itself."""
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    own = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    start = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    usage = dict.fromkeys(("content_commitment", "key_encipherment", "data_encipherment"), False)
    usage |= {"key_agreement": False, "encipher_only": False, "decipher_only": False, "crl_sign": authority}
    certificate = (
        x509.CertificateBuilder()
        .subject_name(own)
        .issuer_name(by.certificate.subject if by else own)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=3650))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(digital_signature=not authority, key_cert_sign=authority, **usage), critical=True
        )
        .sign(by.key if by else key, hashes.SHA256())
    )
    pem, private = folder / f"{name}.crt", folder / f"{name}.pem"
    pem.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return Holder(name, key, certificate, pem, private)


@dataclass(frozen=True)
class Signed:
    """A bundle that a maker signed, whose certificate leads over an office to a root."""

    path: Path
    root: Holder
    office: Holder
    maker: Holder


@pytest.fixture
def signed(tiny_bundle: Path, tmp_path: Path) -> Signed:
    root = certified(tmp_path, "root", authority=True)
    office = certified(tmp_path, "office", root, authority=True)
    maker = certified(tmp_path, "maker", office)
    path = Path(shutil.copy(tiny_bundle, tmp_path / "warmth.catflap"))
    words = ["--key", maker.private, "--certificate", maker.pem, "--chain", office.pem]
    assert main(["sign", *map(str, [path, *words])]) == 0
    return Signed(path, root, office, maker)


def test_a_certificate_of_the_root_is_taken(
    signed: Signed, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    verdict = verify(signed.path, signer=Signer(root=signed.root.pem))
    assert verdict.passed
    assert verdict.checks[1].name == "signature"
    photo = encode(scene(1, 40, 40), "JPEG")
    (signed.path.parent / "photo.jpg").write_bytes(photo)
    words = [str(signed.path), str(signed.path.parent / "photo.jpg"), "--root", str(signed.root.pem)]
    assert main(["predict", *words]) == 0
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(photo)))
    assert main(["watch", words[0], "-", "--root", words[3], "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["event"] == "ended"


def test_what_does_not_lead_to_the_root_is_refused(signed: Signed, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = certified(tmp_path / "other", "root", authority=True)  # of the same name
    foreign = certified(tmp_path / "other", "maker", other)
    for root in (other.pem, foreign.pem):
        with pytest.raises(Refused, match="is not signed by a certificate of"):
            read_signed(signed.path, Signer(root=root))
    signer = Signer(root=signed.root.pem)
    for certificate, key, chain in (
        (foreign.pem, foreign.private, other.pem),  # another root brought along
        (foreign.pem, foreign.private, signed.office.pem),
        (signed.office.pem, signed.office.private, signed.root.pem),  # it may certify, not sign
        (signed.maker.pem, signed.maker.private, None),  # the way to the root is missing
    ):
        sign_bundle(signed.path, key, certificate=certificate, chain=chain)
        with pytest.raises(Refused, match="is not signed by a certificate of"):
            read_signed(signed.path, signer)
    sign_bundle(signed.path, signed.maker.private)  # the same key, without its certificate
    with pytest.raises(Refused, match="is not signed by a certificate of"):
        read_signed(signed.path, signer)
    with pytest.raises(Refused, match="is not signed by a certificate of"):
        serve(ServeSettings((signed.path,), port=0, signer=signer), lambda fields: None, lambda text: None)
    with pytest.raises(Refused, match="is not signed by a certificate of"):
        watch(WatchSettings(signed.path, "-", signer=signer))


def test_the_bytes_are_still_what_is_signed(signed: Signed, tmp_path: Path) -> None:
    from tests.artifacts.samples import small_bundle

    other = small_bundle(tmp_path)
    shutil.copy(f"{signed.path}.sig", f"{other}.sig")
    with pytest.raises(Refused, match="is not signed by a certificate of"):
        read_signed(other, Signer(root=signed.root.pem))
    envelope = Path(f"{signed.path}.sig")
    fields = json.loads(envelope.read_text())
    (entry,) = fields["dsseEnvelope"]["signatures"]
    entry["sig"] = entry["sig"][:30] + ("B" if entry["sig"][30] == "A" else "A") + entry["sig"][31:]
    envelope.write_text(json.dumps(fields))
    with pytest.raises(Refused, match="is not signed by a certificate of"):
        read_signed(signed.path, Signer(root=signed.root.pem))


def test_files_that_do_not_belong_together_get_a_sentence(signed: Signed, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("no certificate")
    out = tmp_path / "new.sig"
    for key, certificate, chain in (
        (signed.maker.private, signed.office.pem, None),
        (signed.maker.private, tmp_path / "note.txt", None),
        (signed.maker.private, tmp_path / "absent.crt", None),
        (signed.maker.private, signed.maker.pem, tmp_path / "note.txt"),
        (signed.maker.private, None, signed.office.pem),
        (None, signed.maker.pem, None),
    ):
        with pytest.raises(CatflapError):
            sign_bundle(signed.path, key, out, certificate=certificate, chain=chain)
    assert not out.exists()
    for wrong in (tmp_path / "note.txt", tmp_path / "absent.crt"):
        with pytest.raises(CatflapError):
            read_signed(signed.path, Signer(root=wrong))
    for ways in ({}, {"key": wrong, "root": wrong}, {"identity": "me@example.org"}, {"issuer": "https://x"}):
        with pytest.raises(CatflapError, match="ambiguous or missing"):
            Signer(**ways)


def test_another_tool_confirms_it(signed: Signed) -> None:
    """The reference implementation's own command line."""
    command = [sys.executable, "-m", "model_signing", "verify", "certificate", str(signed.path)]
    options = ["--signature", f"{signed.path}.sig", "--certificate_chain", str(signed.root.pem)]
    answer = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout + answer.stderr


def test_sigstore_without_a_network_is_one_sentence(
    signed: Signed, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its servers are looked for on this machine, where nobody listens; its own cache is empty."""
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("XDG_DATA_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.setenv("NO_PROXY", "")
    assert main(["sign", str(signed.path), "--sigstore", "--json"]) == 2
    reported = json.loads(capsys.readouterr().out)["error"]
    assert "Sigstore cannot sign" in reported["what"]
    assert "network" in reported["fix"]
    words = ["--identity", "me@example.org", "--issuer", "https://accounts.example.org"]
    assert main(["verify", str(signed.path), *words, "--json"]) == 2
    assert "Sigstore is not available" in json.loads(capsys.readouterr().out)["error"]["what"]
