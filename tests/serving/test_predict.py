"""`POST /predict`, as its users and as those who wish it ill ask it."""

from __future__ import annotations

import re
import socket
import struct
import zlib

import numpy as np
import pytest

from catflap.exporting.golden_cases import drawn_photos
from catflap.image import encode
from tests.serving.bundles import BLUE, RED
from tests.serving.client import Server, eventually, form


def test_one_raw_photo(server: Server) -> None:
    reply = server.predict(RED)
    message = reply.json()
    assert reply.status == 200
    assert (message["label"], message["decision"], message["model"]) == ("cat", "cat", "cat")
    assert message["version"] == server.models["cat"]
    assert sum(message["probabilities"].values()) == pytest.approx(1)
    assert message["probability"] == max(message["probabilities"].values())


@pytest.mark.parametrize(
    "kind", ["image/png", "application/octet-stream", "application/x-www-form-urlencoded", ""]
)
def test_the_bytes_decide_what_a_raw_body_is(server: Server, kind: str) -> None:
    reply = server.ask("/predict", BLUE, {"Content-Type": kind} if kind else {})
    assert (reply.status, reply.json()["label"]) == (200, "not_cat")


def test_a_form_is_answered_file_by_file(server: Server) -> None:
    body, headers = form(("red.jpg", RED), ("bad.jpg", b"<html>"), ("zoë blue.jpg", BLUE))
    reply = server.ask("/predict", body, headers)
    lines = reply.json()["predictions"]
    assert reply.status == 200
    assert [line["path"] for line in lines] == ["red.jpg", "bad.jpg", "zoë blue.jpg"]
    assert [line.get("label") for line in lines] == ["cat", None, "not_cat"]
    assert lines[1]["error"]["what"] == "The file is a web page or XML, not a photo."


def test_a_form_without_any_readable_photo_is_422(server: Server) -> None:
    body, headers = form(("a.jpg", b""), ("b.jpg", RED[:200]))
    reply = server.ask("/predict", body, headers)
    assert reply.status == 422
    assert all("error" in line for line in reply.json()["predictions"])


def test_another_bundle_is_asked_by_its_name(server: Server) -> None:
    reply = server.ask("/predict?model=dog", RED, {"Content-Type": "image/jpeg"})
    assert (reply.json()["label"], reply.json()["model"]) == ("dog", "dog")


def test_a_version_is_asked_by_its_hash(server: Server) -> None:
    version = server.models["cat"]
    headers = {"Content-Type": "image/jpeg"}
    assert server.ask(f"/predict?version={version}", RED, headers).json()["version"] == version
    assert server.ask("/predict?version=000000000000", RED, headers).status == 404


@pytest.mark.parametrize("photo", drawn_photos(), ids=lambda photo: f"{len(photo)}")
def test_every_kind_of_photo_is_judged(server: Server, photo: bytes) -> None:
    assert server.predict(photo).status == 200


def bomb(width: int, height: int) -> bytes:
    """A PNG of few bytes that says it has many pixels."""
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(bytes(9))),
    )
    packed = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


HOSTILE = {
    "nothing": (b"", 422),
    "zeros": (bytes(4000), 422),
    "a web page": (b"<!DOCTYPE html><html>", 422),
    "half a photo": (RED[: len(RED) // 2], 422),
    "the head of a photo": (RED[:20], 422),
    "a bomb": (bomb(100_000, 100_000), 413),
    "more pixels than the server allows": (bomb(2001, 2000), 413),
    "more pixels than their bytes": (bomb(900, 900), 422),
    "a HEIC photo": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(300), 422),
    "float pixels": (encode(np.zeros((9, 9), np.uint8), "TIFF", "F"), 422),
    "a program": (b"\x7fELF" + bytes(500), 422),
    "a bundle": (b"PK\x03\x04" + bytes(500), 422),
    "a damaged photo": (RED[:300] + bytes(100) + RED[400:], None),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_photo_is_one_sentence_and_one_fix(server: Server, name: str) -> None:
    photo, status = HOSTILE[name]
    reply = server.predict(photo)
    if status is None:
        assert reply.status in (200, 422)
        return
    assert reply.status == status
    error = reply.json()["error"]
    assert set(error) == {"what", "fix"}
    assert error["what"].endswith(".")
    assert server.predict(RED).status == 200


@pytest.mark.parametrize(
    "kind", ["application/json", "text/plain", "video/mp4", "multipart/mixed; boundary=a", "?"]
)
def test_a_body_that_says_it_is_no_photo_is_415(server: Server, kind: str) -> None:
    reply = server.ask("/predict", RED, {"Content-Type": kind})
    assert reply.status == 415
    assert "photo" in reply.json()["error"]["what"]


def test_a_compressed_body_is_415(server: Server) -> None:
    assert server.predict(RED, **{"Content-Encoding": "gzip"}).status == 415


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"", "multipart/form-data; boundary=a"),
        (RED, "multipart/form-data; boundary=a"),
        (RED, "multipart/form-data"),
        (b"--a\r\n\r\n", "multipart/form-data; boundary=a"),
        (b"--a\r\nno head\r\n--a--", "multipart/form-data; boundary=a"),
        (
            b'--a\r\nContent-Disposition: form-data; name="word"\r\n\r\nx\r\n--a--',
            "multipart/form-data; boundary=a",
        ),
        (b"--a--\r\n", "multipart/form-data; boundary=a"),
    ],
)
def test_a_broken_form_is_400(server: Server, body: bytes, kind: str) -> None:
    assert server.ask("/predict", body, {"Content-Type": kind}).status == 400


def test_a_form_with_too_many_photos_is_413(server: Server) -> None:
    body, headers = form(*[("a.jpg", RED)] * 9)
    assert server.ask("/predict", body, headers).status == 413


def test_a_form_of_countless_parts_is_413(server: Server) -> None:
    body = b"--b\r\n\r\n\r\n" * 90_000 + b"--b--\r\n"
    reply = server.ask("/predict", body, {"Content-Type": "multipart/form-data; boundary=b"})
    assert (reply.status, reply.json()["error"]["fix"]) == (413, "Send only the photos.")
    assert server.predict(RED).status == 200


def test_an_oversized_body_is_refused_by_its_length(server: Server) -> None:
    head = b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 1073741824\r\n\r\n"
    with server.raw(head) as connection:
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 413")


def test_an_oversized_body_without_a_length_is_refused_and_the_client_reads_why(server: Server) -> None:
    """The client sends all it has before it reads, as most do."""
    with server.raw(b"POST /predict HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n") as connection:
        for _ in range(160):
            connection.sendall(b"8000\r\n" + bytes(0x8000) + b"\r\n")
        connection.sendall(b"0\r\n\r\n")
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 413")


def test_an_upload_that_stalls_is_408(server: Server) -> None:
    with server.raw(
        b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 5000\r\n\r\n" + bytes(99)
    ) as connection:
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 408")


def test_an_aborted_upload_is_counted_and_harms_nobody(server: Server) -> None:
    before = server.metric("catflap_requests_total", route="/predict", status="499")
    connection = server.raw(b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 5000\r\n\r\n" + bytes(99))
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset, no goodbye
    connection.close()
    eventually(lambda: server.metric("catflap_requests_total", route="/predict", status="499") == before + 1)
    assert server.predict(RED).status == 200


def test_garbage_instead_of_http_is_400(server: Server) -> None:
    with server.raw(b"\x16\x03\x01\x02\x00\x01 hello\r\n\r\n") as connection:
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 400")
    assert server.predict(RED).status == 200


def test_requests_in_one_packet_are_answered_in_order(server: Server) -> None:
    head = b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n"
    with server.raw(b"".join(head % len(photo) + photo for photo in (RED, BLUE, RED))) as connection:
        answers = b""
        while answers.count(b"}, ") < 3:
            answers += connection.recv(1 << 16)
    assert re.findall(rb'"label": "(\w+)"', answers) == [b"cat", b"not_cat", b"cat"]


@pytest.mark.parametrize(("path", "method", "status"), [("/nothing", "GET", 404), ("/predict", "PUT", 405)])
def test_what_is_not_there_says_so(server: Server, path: str, method: str, status: int) -> None:
    reply = server.ask(path, method=method)
    assert reply.status == status
    assert reply.json()["error"]["fix"] == "See /docs."


def test_an_unknown_model_names_those_that_are_there(server: Server) -> None:
    reply = server.ask("/predict?model=cow", RED, {"Content-Type": "image/jpeg"})
    assert reply.status == 404
    assert reply.json()["error"]["fix"] == "Use one of: cat, dog."
