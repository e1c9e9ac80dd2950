"""The Bundle format: one encoding, checked to the last bit; hostile files are refused."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catflap.artifacts import bundle as bundle_room
from catflap.artifacts.bundle import load_bundle, refuse_foreign_file
from catflap.errors import BadArtifact, CatflapError
from tests.artifacts.samples import FILES, small_bundle, small_head, write_bundle

NAMES = st.from_regex(bundle_room.NAME, fullmatch=True)


def fits_a_folder(names: Iterable[str]) -> bool:
    """Whether no name is the folder of another."""
    return not any(one != other and other.startswith(f"{one}/") for one in names for other in names)


def refused(path: Path) -> str:
    """What the refusal of a file says; fails when the file is read."""
    try:
        load_bundle(path)
    except BadArtifact as error:
        return error.what
    raise AssertionError("the bundle was read")


def repacked(path: Path, change: Callable[[dict[str, Any]], object], files: dict[str, bytes] = FILES) -> Path:
    """A bundle whose zip and hashes are right and whose bundle.json was changed."""
    members = {name: bytes(data) for name, data in bundle_room.decode_members(path.read_bytes()).items()}
    head = json.loads(members.pop("bundle.json"))
    change(head)
    text = json.dumps(head).encode()
    changed = path.with_name("changed.catflap")
    changed.write_bytes(bundle_room.encode_members({"bundle.json": text, **files}))
    return changed


@pytest.mark.parametrize("data", [b"", b"no bundle"])
def test_which_file_is_no_bundle_is_told(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.catflap").write_bytes(data)
    reported = refused(tmp_path / "x.catflap")
    assert reported == f"{tmp_path / 'x.catflap'} is not a whole Catflap bundle: it does not begin like one."


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = small_bundle(tmp_path)
    bundle = load_bundle(path)
    assert bundle.labels == ("cat", "not_cat")
    assert {name: bytes(data) for name, data in bundle.members.items() if name != "bundle.json"} == FILES
    assert bundle.variant().file == "int8.onnx"
    with pytest.raises(BadArtifact, match="no variant 'fp16'"):
        bundle.variant("fp16")


def test_the_same_content_is_the_same_bytes(tmp_path: Path) -> None:
    first = small_bundle(tmp_path).read_bytes()
    write_bundle(tmp_path / "again.catflap", small_head(), FILES)
    assert (tmp_path / "again.catflap").read_bytes() == first


def test_any_zip_program_can_open_it(tmp_path: Path) -> None:
    with zipfile.ZipFile(small_bundle(tmp_path)) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["bundle.json", *FILES]
        assert all(entry.compress_type == zipfile.ZIP_STORED for entry in archive.infolist())
        assert archive.read("card.md") == FILES["card.md"]


@pytest.mark.parametrize("bits", [[0], [7], range(8)], ids=["lowest bit", "highest bit", "all bits"])
def test_a_flip_in_any_byte_is_refused(tmp_path: Path, bits: Iterable[int]) -> None:
    path = small_bundle(tmp_path)
    whole = path.read_bytes()
    mask = sum(1 << bit for bit in bits)
    with open(path, "r+b", buffering=0) as file:
        for place, byte in enumerate(whole):
            os.pwrite(file.fileno(), bytes([byte ^ mask]), place)
            assert refused(path), f"byte {place}"
            os.pwrite(file.fileno(), bytes([byte]), place)
    assert load_bundle(path).labels == ("cat", "not_cat")


def test_any_truncation_is_refused(tmp_path: Path) -> None:
    path = small_bundle(tmp_path)
    with open(path, "r+b") as file:
        for length in reversed(range(path.stat().st_size)):
            file.truncate(length)
            assert refused(path), f"{length} bytes"


def test_any_extra_byte_is_refused(tmp_path: Path) -> None:
    whole = small_bundle(tmp_path).read_bytes()
    for number, extra in enumerate((b"\0", b"PK\x05\x06" + bytes(18), whole)):
        for side, data in (("after", whole + extra), ("before", extra + whole)):
            path = tmp_path / f"{number}{side}.catflap"
            path.write_bytes(data)
            assert refused(path)


def test_a_missing_or_doubled_byte_is_refused(tmp_path: Path) -> None:
    whole = small_bundle(tmp_path).read_bytes()
    for place in range(0, len(whole), 3):
        for changed in (
            whole[:place] + whole[place + 1 :],
            whole[:place] + whole[place:][:1] + whole[place:],
        ):
            with pytest.raises(BadArtifact):
                bundle_room.decode_members(changed)


def test_what_other_zip_programs_write_is_refused(tmp_path: Path) -> None:
    whole = small_bundle(tmp_path)
    with zipfile.ZipFile(whole) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    for compression in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        path = tmp_path / f"{compression}.catflap"
        with zipfile.ZipFile(path, "w", compression) as archive:
            for name, data in members.items():
                archive.writestr(name, data)
        assert refused(path)


def test_a_member_that_is_not_listed_is_refused(tmp_path: Path) -> None:
    path = small_bundle(tmp_path)
    assert "other files" in refused(repacked(path, lambda head: None, {**FILES, "extra.bin": b"x"}))
    fewer = {name: data for name, data in FILES.items() if name != "card.md"}
    assert "other files" in refused(repacked(path, lambda head: None, fewer))


def test_a_changed_member_is_refused_though_its_checksum_is_right(tmp_path: Path) -> None:
    path = small_bundle(tmp_path)
    changed = repacked(path, lambda head: None, {**FILES, "int8.onnx": b"not a real modem"})
    assert "int8.onnx" in refused(changed)


MEAN = {"groups": 5, "mean": "AQIDBA==", "length": 0.5, "axes": "", "limit": 0.1, "ood_score": [0, 1]}
NARROW = {"share": 0, "embedding": {**MEAN, "mean": "AQID"}}
CHANGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "an unknown major version": lambda head: head.update(catflap_bundle="2.0"),
    "no version": lambda head: head.pop("catflap_bundle"),
    "a number for a version": lambda head: head.update(catflap_bundle=1),
    "one label": lambda head: head.update(labels=["cat"]),
    "a label twice": lambda head: head.update(labels=["cat", "cat"]),
    "a label with a line break": lambda head: head.update(labels=["cat\n", "not_cat"]),
    "an unknown field of the frame": lambda head: head["frame"].update(mean=0.5),
    "a frame of a size that is none": lambda head: head["frame"].update(width=100_000),
    "true for a width": lambda head: head["frame"].update(width=True),
    "a default variant that is not there": lambda head: head.update(default_variant="fp32"),
    "a path out of the bundle": lambda head: head["variants"]["int8"].update(file="../int8.onnx"),
    "a file that is not listed": lambda head: head["golden"].update(file="other.npz"),
    "a variant named like a path": lambda head: head["variants"].update({"../x": head["variants"]["int8"]}),
    "a temperature of zero": lambda head: head["variants"]["int8"].update(temperature=0),
    "a prior without a label": lambda head: head["prior"].pop("cat"),
    "a prior that does not add up": lambda head: head["prior"].update(cat=0.9),
    "a negative prior": lambda head: head["prior"].update(cat=-0.1),
    "a hash in capitals": lambda head: head["ancestors"].update(checkpoint="A" * 64),
    "a size that is not the file's": lambda head: head["files"]["card.md"].update(bytes=1),
    "a list for an object": lambda head: head.update(variants=[]),
    "a null": lambda head: head.update(labels=None),
    "means of two widths": lambda head: head["variants"]["int8"].update(
        baseline={"photos": 9, "labels": {"cat": {"share": 1, "embedding": MEAN}, "other": NARROW}}
    ),
    "axes of another width": lambda head: head["variants"]["int8"].update(
        baseline={"photos": 9, "labels": {"cat": {"share": 1, "embedding": {**MEAN, "axes": "AQID"}}}}
    ),
    "a mean that is no base64": lambda head: head["variants"]["int8"].update(
        baseline={"photos": 9, "labels": {"cat": {"share": 1, "embedding": {**MEAN, "mean": "AQIDBA="}}}}
    ),
    "a mean of nothing": lambda head: head["variants"]["int8"].update(
        baseline={"photos": 9, "labels": {"cat": {"share": 1, "embedding": {**MEAN, "mean": ""}}}}
    ),
    "a baseline without labels": lambda head: head["variants"]["int8"].update(baseline={"photos": 9}),
    "a baseline of words": lambda head: head["variants"]["int8"].update(
        baseline={"photos": 9, "labels": {"cat": {"share": 1, "groups": 1, "quantiles": ["sure"]}}}
    ),
    "an untested form whose file is not listed": lambda head: head.update(
        untested={"x": {"file": "x.bin", "runtime": "coreml", "precision": "fp32"}}
    ),
    "a variant tested and untested": lambda head: head.update(
        untested={"int8": {"file": "int8.onnx", "runtime": "coreml", "precision": "int8"}}
    ),
    "an untested form without a runtime": lambda head: head.update(untested={"x": {"file": "int8.onnx"}}),
    "a share of a whole number that no double holds": lambda head: head["prior"].update(cat=10**400),
    "such a number in a baseline": lambda head: head["variants"]["int8"].update(
        baseline={"photos": 9, "labels": {"cat": {"share": 1, "groups": 1, "quantiles": [10**400]}}}
    ),
    "such a number in the metrics": lambda head: head["variants"]["int8"]["metrics"].update(f1=-(10**400)),
    "such a number in an unknown field": lambda head: head.update(extra=[10**400]),
    "an unknown field that is nested 900 deep": lambda head: head.update(extra=nested(900)),
    "an unknown field that is nested too deep": lambda head: head.update(extra=nested(64)),
    "an unpaired surrogate in a label": lambda head: head.update(
        labels=["cat", "\ud800"], prior={"cat": 0.25, "\ud800": 0.75}
    ),
    "an unpaired surrogate in the name of an unknown field": lambda head: head.update(
        {"extra": {"\udfff": 1}}
    ),
    "floats in the input": lambda head: head["input"].update(dtype="float32"),
}


def nested(depth: int) -> Any:
    """Objects and lists in each other."""
    value: Any = 1
    for level in range(depth):
        value = [value] if level % 2 else {"in": value}
    return value


@pytest.mark.parametrize("name", CHANGES)
def test_a_contradiction_in_the_head_is_refused(tmp_path: Path, name: str) -> None:
    refused(repacked(small_bundle(tmp_path), CHANGES[name]))


def test_a_newer_minor_version_with_unknown_fields_is_read(tmp_path: Path) -> None:
    path = repacked(
        small_bundle(tmp_path), lambda head: head.update(catflap_bundle="1.7", targets={"phone": [1]})
    )
    assert load_bundle(path).head["targets"] == {"phone": [1]}
    path = repacked(small_bundle(tmp_path), lambda head: head.update(extra=[nested(62), 10**300]))
    assert load_bundle(path).head["extra"] == [nested(62), 10**300]
    path = repacked(small_bundle(tmp_path), lambda head: head.update(extra="\U0001f408"))  # a pair of escapes
    assert load_bundle(path).head["extra"] == "\U0001f408"


def test_an_older_minor_version_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = small_bundle(tmp_path)
    monkeypatch.setattr(bundle_room, "FORMAT", "1.7")
    assert load_bundle(path).head["catflap_bundle"] == "1.1"


def risk_curve(*points: tuple[float, float, float], **changes: object) -> dict[str, object]:
    """A decision of format 1.1 with this curve: error rate, threshold, share unsure."""
    names = ("error_rate", "threshold", "unsure")
    curve = [dict(zip(names, point, strict=True)) for point in points]
    return {"threshold": 0.7, "error_rate": 0.03, "photos": 50, "rule": "top", "curve": curve, **changes}


def test_a_decision_with_a_curve_is_read(tmp_path: Path) -> None:
    decision = risk_curve((0.01, 0.9, 0.4), (0.03, 0.7, 0.1), (0.05, 0.7, 0.1))
    path = repacked(small_bundle(tmp_path), lambda head: head["variants"]["int8"].update(decision=decision))
    assert load_bundle(path).variant("int8").decision == decision


@pytest.mark.parametrize(
    "decision",
    [
        risk_curve((0.03, 0.7, 0.1), (0.01, 0.9, 0.4)),
        risk_curve((0.01, 0.6, 0.4), (0.03, 0.7, 0.1)),
        risk_curve((0.03, 0.7, 0.1), (0.03, 0.7, 0.1)),
        risk_curve((0.01, 0.9, 0.4), (0.02, 0.7, 0.1)),
        risk_curve((0.03, 0.8, 0.1)),
        risk_curve(),
        risk_curve((0, 0.7, 0.1), (0.03, 0.7, 0.1)),
        risk_curve((0.03, 0.7, 1.1)),
        risk_curve((0.03, 0.7, 0.1), rule="only"),
        risk_curve((0.03, 0.7, 0.1), threshold=1.5),
    ],
    ids=["rates descend", "thresholds ascend", "a rate twice", "no own rate", "no own threshold",
         "empty", "a rate of 0", "more than all unsure", "an unknown rule", "a threshold above 1"],
)  # fmt: skip
def test_a_curve_that_contradicts_itself_is_refused(tmp_path: Path, decision: dict[str, object]) -> None:
    refused(repacked(small_bundle(tmp_path), lambda head: head["variants"]["int8"].update(decision=decision)))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"{" * 100_000,
        b"[" * 100_000,
        b'{"a": NaN}',
        b'{"a": 1' + b"0" * 5000 + b"}",
        b'{"catflap_bundle": "1.0"}',
    ],
    ids=lambda text: repr(text[:12]),
)
def test_a_head_that_is_none_is_refused(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "bad.catflap"
    path.write_bytes(bundle_room.encode_members({"bundle.json": text, **FILES}))
    refused(path)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"name":"cat"', b'"name":"cat","name":"dog"'),
        (b'"tolerance":0.05', b'"tolerance":0.05,"tolerance":0.4'),
        (b'"value":0.99', b'"value":NaN'),
        (b'"value":0.99', b'"value":-Infinity'),
        (b'"temperature":1.5', b'"temperature":1e999'),
    ],
)
def test_json_that_two_readers_could_take_in_two_ways_is_refused(
    tmp_path: Path, old: bytes, new: bytes
) -> None:
    members = dict(bundle_room.decode_members(small_bundle(tmp_path).read_bytes()))
    text = json.dumps(json.loads(bytes(members["bundle.json"])), separators=(",", ":")).encode()
    assert old in text
    path = tmp_path / "bad.catflap"
    path.write_bytes(bundle_room.encode_members({**members, "bundle.json": text.replace(old, new)}))
    refused(path)


def test_bundle_json_comes_first(tmp_path: Path) -> None:
    members = dict(bundle_room.decode_members(small_bundle(tmp_path).read_bytes()))
    path = tmp_path / "bad.catflap"
    path.write_bytes(bundle_room.encode_members({"card.md": b"x", **members}))
    refused(path)


def test_the_encoding_is_that_of_the_specification() -> None:
    """Byte by byte, as docs/reference/bundle.md states it; older bundles and other readers depend on it."""
    data = b"{}"
    sums = zlib.crc32(data).to_bytes(4, "little") + bytes([2, 0, 0, 0]) * 2
    local = b"PK\x03\x04" + bytes([20, 0, 0, 0, 0, 0, 0, 0, 33, 0]) + sums + bytes([11, 0, 0, 0])
    central = b"PK\x01\x02" + bytes([20, 0]) + local[4:] + bytes(6) + bytes(4) + bytes(4)
    sizes = len(central + b"bundle.json").to_bytes(4, "little") + (len(local) + 13).to_bytes(4, "little")
    end = b"PK\x05\x06" + bytes([0, 0, 0, 0, 1, 0, 1, 0]) + sizes + bytes(2)
    expected = local + b"bundle.json" + data + central + b"bundle.json" + end
    assert bundle_room.encode_members({"bundle.json": data}) == expected


def test_the_limits_are_those_of_the_specification() -> None:
    limits = (bundle_room.MAX_HEAD, bundle_room.DEEPEST, bundle_room.MAX_MEMBERS, bundle_room.MAX_BYTES)
    assert limits == (16 * 1024 * 1024, 64, 1000, 2_147_483_647)


@settings(deadline=None, max_examples=100)
@given(st.dictionaries(NAMES, st.binary(max_size=200), min_size=1, max_size=6).filter(fits_a_folder))
def test_any_members_come_back(members: dict[str, bytes]) -> None:
    data = bundle_room.encode_members(members)
    found = bundle_room.decode_members(data)
    assert {name: bytes(view) for name, view in found.items()} == members
    assert list(found) == list(members)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.namelist() == list(members)


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=400))
def test_noise_is_refused(noise: bytes) -> None:
    for data in (noise, b"PK\x03\x04" + noise):
        with pytest.raises(BadArtifact):
            bundle_room.decode_members(data)


BAD_NAMES = [
    "../x",
    "/x",
    "a//b",
    "a/../b",
    ".hidden",
    "a\\b",
    "",
    "a b",
    "caf\xe9",
    "x" * 101,
    "a/b/c/d/e",
    "a\0",
]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_that_could_escape_are_not_written_and_not_read(name: str) -> None:
    with pytest.raises(CatflapError, match="cannot hold"):
        bundle_room.encode_members({name: b"x"})
    path = name.encode("latin-1")
    forged = bundle_room._LOCAL.pack(b"PK\x03\x04", 20, 0, 0, 0, 33, zlib.crc32(b"x"), 1, 1, len(path), 0)
    with pytest.raises(BadArtifact):
        bundle_room.decode_members(forged + path + b"x")


@pytest.mark.parametrize("names", [("card.md", "card.md/x"), ("a/b/c/d", "other", "a/b")])
def test_a_name_that_is_the_folder_of_another_is_not_written_and_not_read(names: tuple[str, ...]) -> None:
    with pytest.raises(CatflapError, match="cannot hold"):
        bundle_room.encode_members(dict.fromkeys(names, b"x"))
    forged = b"".join(map(bytes, bundle_room._chunks(dict.fromkeys(names, b"x"))))
    with pytest.raises(BadArtifact, match="is a folder of others too"):
        bundle_room.decode_members(forged)


def test_too_many_members_are_refused() -> None:
    with pytest.raises(CatflapError, match="cannot hold"):
        bundle_room.encode_members({f"f{number}": b"" for number in range(1001)})


def test_a_bundle_does_not_replace_a_photo(tmp_path: Path) -> None:
    photo = tmp_path / "cat.jpg"
    photo.write_bytes(b"\xff\xd8\xff precious")
    with pytest.raises(CatflapError, match="is not a bundle"):
        refuse_foreign_file(photo)
    refuse_foreign_file(small_bundle(tmp_path))  # a bundle does replace a bundle
    refuse_foreign_file(tmp_path / "absent.catflap")


@pytest.mark.parametrize(
    "change", ["a temperature of zero", "a prior that does not add up", "an unpaired surrogate in a label"]
)
def test_a_bundle_that_could_not_be_read_is_not_written(tmp_path: Path, change: str) -> None:
    head = small_head()
    CHANGES[change](head)
    with pytest.raises(BadArtifact):
        write_bundle(tmp_path / "bad.catflap", head, FILES)
    assert list(tmp_path.iterdir()) == []


def test_a_head_that_is_too_large_is_not_written_and_not_read(tmp_path: Path) -> None:
    head = small_head()
    head["extra"] = "x" * bundle_room.MAX_HEAD
    with pytest.raises(CatflapError, match=r"bundle\.json of 16\.0 MiB, 16 at most"):
        write_bundle(tmp_path / "large.catflap", head, FILES)
    assert list(tmp_path.iterdir()) == []
    text = json.dumps(head).encode()
    (tmp_path / "large.catflap").write_bytes(bundle_room.encode_members({"bundle.json": text, **FILES}))
    assert refused(tmp_path / "large.catflap").endswith("has more than 16 MiB.")


def test_what_is_just_as_large_as_allowed_is_written_and_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = small_bundle(tmp_path)
    first = len(bundle_room.decode_members(path.read_bytes())["bundle.json"])
    monkeypatch.setattr(bundle_room, "MAX_HEAD", first)
    with monkeypatch.context() as limits:
        limits.setattr(bundle_room, "MAX_BYTES", path.stat().st_size)
        load_bundle(path)
        limits.setattr(bundle_room, "MAX_BYTES", path.stat().st_size - 1)
        assert refused(path).endswith("is larger than a bundle can be.")
    load_bundle(small_bundle(tmp_path))
    monkeypatch.setattr(bundle_room, "MAX_HEAD", first - 1)
    assert "bundle.json" in refused(path)


def test_the_headers_of_a_bundle_have_room_beside_its_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the 2 GiB that a bundle can have they may need one MiB: 1,000 files of long names."""
    monkeypatch.setattr(bundle_room, "MAX_BYTES", (1 << 20) + 10)
    bundle_room.encode_members({"a": bytes(4), "b": bytes(6)})
    with pytest.raises(CatflapError, match="2 GB in all"):
        bundle_room.encode_members({"a": bytes(4), "b": bytes(7)})


def test_a_bundle_of_nearly_this_name_is_suggested(tmp_path: Path) -> None:
    small_bundle(tmp_path)
    for name, fix in (
        ("smal", f"Did you mean: {tmp_path / 'small.catflap'}"),
        ("dog", "Name a .catflap file."),
    ):
        with pytest.raises(BadArtifact) as error:
            load_bundle(tmp_path / f"{name}.catflap")
        assert error.value.fix == fix


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.catflap")
    (tmp_path / "zero.catflap").symlink_to("/dev/zero")
    (tmp_path / "folder.catflap").mkdir()
    with open(tmp_path / "huge.catflap", "wb") as file:
        file.truncate(3 << 30)
    with open(tmp_path / "hole.catflap", "wb") as file:
        file.truncate(1 << 30)
    code = (
        "import re, sys; from catflap.artifacts.bundle import load_bundle\n"
        "from catflap.errors import BadArtifact\n"
        "peak = lambda: int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])\n"
        "before = peak()\n"
        "for name in sys.argv[1:]:\n"
        "    try: load_bundle(name)\n"
        "    except BadArtifact: print('refused', peak() - before)\n"
        "    else: print('read', peak() - before)"
    )
    names = ("pipe", "zero", "folder", "huge", "hole", "absent", "a" * 300, "a\udce9")
    command = [sys.executable, "-c", code, *(str(tmp_path / f"{name}.catflap") for name in names)]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    for name, line in zip(names, answer.stdout.splitlines(), strict=True):
        word, growth = line.split()
        assert word == "refused", name
        assert int(growth) < 64 << 10, f"{name}: KiB"
