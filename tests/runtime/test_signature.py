"""A device that asks for a signature takes no bundle but the owner's, byte for byte."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from catflap.artifacts.bundle import load_bundle
from catflap.cli.main import main
from catflap.errors import CatflapError, Refused
from catflap.exporting.golden_cases import scene
from catflap.image import encode
from catflap.runtime.signature import Signer, read_signed, sign_bundle
from catflap.serving.serve import serve
from catflap.serving.serve_settings import ServeSettings
from catflap.verification.verify import verify
from tests.artifacts.samples import small_bundle
from tests.serving.bundles import make_bundle
from tests.serving.client import eventually, running

if find_spec("model_signing") is None:
    pytest.skip("model-signing is not installed: pip install 'catflap[sign]'", allow_module_level=True)
serialization = pytest.importorskip("cryptography.hazmat.primitives.serialization")


def keys(folder: Path, name: str) -> tuple[Path, Path]:
    """A private and a public key, PEM."""
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    none = serialization.NoEncryption()
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    private.write_bytes(key.private_bytes(pem, pkcs8, none))
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    public.write_bytes(key.public_key().public_bytes(pem, form))
    return private, public


@pytest.fixture
def signed(tiny_bundle: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A signed bundle and its owner's public key."""
    private, public = keys(tmp_path, "mine")
    path = Path(shutil.copy(tiny_bundle, tmp_path / "warmth.catflap"))
    assert main(["sign", str(path), "--key", str(private), "--json"]) == 0
    return path, public


def test_the_owners_bundle_is_taken(signed: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    path, public = signed
    assert read_signed(path, Signer(public)).sha256 == load_bundle(path).sha256
    verdict = verify(path, signer=Signer(public))
    assert verdict.passed
    assert [check.name for check in verdict.checks][:2] == ["integrity", "signature"]
    photo = path.with_name("photo.png")
    photo.write_bytes(encode(scene(1, 40, 40), "PNG"))
    assert main(["predict", str(path), str(photo), "--key", str(public), "--json"]) == 0
    assert "label" in json.loads(capsys.readouterr().out.splitlines()[-1])


def test_whatever_is_not_the_owners_is_refused(
    signed: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, public = signed
    _, foreign = keys(tmp_path, "foreign")
    signature = path.with_name(path.name + ".sig")
    other = small_bundle(tmp_path)
    shutil.copy(signature, f"{other}.sig")
    for bundle, key, why in (
        (path, foreign, "not signed by the owner"),
        (other, public, "not signed by the owner"),
    ):
        with pytest.raises(Refused, match=why):
            read_signed(bundle, Signer(key))
    for damaged in (b"", b"{}", b"not a signature", signature.read_bytes()[:-40], b"{" * (2 << 20)):
        signature.write_bytes(damaged)
        with pytest.raises(Refused):
            read_signed(path, Signer(public))
    signature.unlink()
    with pytest.raises(Refused, match="is not signed"):
        read_signed(path, Signer(public))
    assert main(["verify", str(path), "--key", str(public)]) == 1
    assert main(["predict", str(path), "photo.png", "--key", str(public)]) == 1
    with pytest.raises(Refused, match="is not signed"):
        serve(ServeSettings((path,), port=0, signer=Signer(public)), lambda fields: None, lambda text: None)
    capsys.readouterr()


@pytest.mark.slow
def test_the_signature_of_a_served_version_may_come_before_it_or_after_it(tmp_path: Path) -> None:
    private, public = keys(tmp_path, "mine")
    served, *new = (make_bundle(tmp_path / f"{place}.catflap", sharpness=place / 50) for place in (1, 2, 3))
    for path in (served, *new):
        sign_bundle(path, private)

    def put(path: Path, suffix: str = "") -> None:
        Path(f"{path}{suffix}").rename(f"{served}{suffix}")

    with running(served, "--key", public, "--reload", "0.05") as server:

        def counted(result: str) -> float:
            return server.metric("catflap_reloads_total", model="cat", result=result)

        first = server.models["cat"]
        put(new[0])
        eventually(lambda: counted("refused") == 1)
        assert server.ask("/readyz").json()["models"] == {"cat": [first]}
        put(new[0], ".sig")
        eventually(lambda: counted("loaded") == 1)
        put(new[1], ".sig")
        time.sleep(0.5)  # some looks at a bundle that has not changed
        put(new[1])
        eventually(lambda: counted("loaded") == 2)
        assert server.ask("/readyz").json()["models"] == {"cat": [load_bundle(served).sha256[:12]]}
        assert counted("refused") == 1


def test_keys_that_are_none_get_a_sentence(signed: tuple[Path, Path], tmp_path: Path) -> None:
    path, public = signed
    (tmp_path / "note.txt").write_text("no key")
    for key in (tmp_path / "absent.pem", tmp_path / "note.txt"):
        with pytest.raises(CatflapError):
            read_signed(path, Signer(key))
        with pytest.raises(CatflapError):
            sign_bundle(path, key, tmp_path / "new.sig")
    with pytest.raises(CatflapError):
        sign_bundle(path, public, tmp_path / "new.sig")
    assert not (tmp_path / "new.sig").exists()
    (tmp_path / "mine.txt").write_text("somebody's")
    with pytest.raises(CatflapError):
        sign_bundle(path, tmp_path / "mine.pem", tmp_path / "mine.txt")
    assert (tmp_path / "mine.txt").read_text() == "somebody's"


def test_only_a_signature_is_replaced_by_one(signed: tuple[Path, Path], tmp_path: Path) -> None:
    path, _ = signed
    for mine in (b'{"name": "catflap"}', b'{"mediaType": 5}', b"[" * 100_000, b"{not JSON"):
        (tmp_path / "package.json").write_bytes(mine)
        with pytest.raises(Refused, match="is not a signature"):
            sign_bundle(path, tmp_path / "mine.pem", tmp_path / "package.json")
        assert (tmp_path / "package.json").read_bytes() == mine
    sign_bundle(path, tmp_path / "mine.pem")


def test_another_tool_confirms_it(signed: tuple[Path, Path]) -> None:
    """The reference implementation's own command line."""
    path, public = signed
    command = [sys.executable, "-m", "model_signing", "verify", "key", str(path)]
    options = ["--signature", f"{path}.sig", "--public_key", str(public)]
    answer = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout + answer.stderr


@pytest.mark.slow
def test_another_tool_refuses_it_for_changed_bytes(signed: tuple[Path, Path]) -> None:
    path, public = signed
    path.write_bytes(path.read_bytes() + b"x")
    command = [sys.executable, "-m", "model_signing", "verify", "key", str(path)]
    options = ["--signature", f"{path}.sig", "--public_key", str(public)]
    assert subprocess.run([*command, *options], capture_output=True, check=False).returncode != 0
