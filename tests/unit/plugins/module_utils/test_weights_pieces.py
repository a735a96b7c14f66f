# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Piece manifests: written as RFC 5854 wants them, read as if an enemy had written them."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import tracemalloc
from xml.etree import ElementTree

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ansible_collections.baremetal.llm.plugins.module_utils import weights_piece_files, weights_pieces
from ansible_collections.baremetal.llm.plugins.module_utils.lock import LockFile
from ansible_collections.baremetal.llm.plugins.module_utils.weights_piece_files import (
    damaged_pieces,
    pieces_are_written,
    read_pieces,
    write_pieces,
)
from ansible_collections.baremetal.llm.plugins.module_utils.weights_pieces import (
    PIECES_NAME,
    FilePieces,
    PiecesError,
    parse_pieces,
    render_pieces,
)

PIECE = 64 * 1024
REVISION = "1" * 40
CONTENT = {
    "config.json": b"{}",
    "model.safetensors": bytes(range(256)) * 1000,
    "sub/two words & <more>.gguf": b"g" * PIECE + b"h",
    "exact.gguf": b"e" * (2 * PIECE),
    "merges.txt": b"",
}
NAMESPACE = "{urn:ietf:params:xml:ns:metalink}"


def known(content):
    return {path: LockFile(path, len(data), hashlib.sha256(data).hexdigest()) for path, data in content.items()}


FILES = known(CONTENT)


@pytest.fixture
def folder(tmp_path):
    for path, data in CONTENT.items():
        place = tmp_path / path
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(data)
    return tmp_path


@pytest.fixture
def manifest(folder):
    assert write_pieces(str(folder), "demo/tiny", REVISION, FILES, PIECE)
    return (folder / PIECES_NAME).read_bytes()


def test_what_is_written_is_a_metalink(manifest, folder):
    """Read with another parser, and hashed another way."""
    root = ElementTree.fromstring(manifest)
    assert root.tag == f"{NAMESPACE}metalink"
    files = {element.get("name"): element for element in root.iterfind(f"{NAMESPACE}file")}
    assert set(files) == set(CONTENT)
    for path, element in files.items():
        data = CONTENT[path]
        assert element.findtext(f"{NAMESPACE}version") == REVISION
        assert element.findtext(f"{NAMESPACE}size") == str(len(data))
        digest = element.find(f"{NAMESPACE}hash")
        assert (digest.get("type"), digest.text) == ("sha-256", hashlib.sha256(data).hexdigest())
        # RFC 5854, section 4.1.2: a file has at least one address.
        assert re.fullmatch(r"[A-Za-z0-9_.~/%-]+", element.findtext(f"{NAMESPACE}url"))
        pieces = element.find(f"{NAMESPACE}pieces")
        assert (pieces is not None) == (len(data) > PIECE)
        if pieces is not None:
            assert pieces.attrib == {"length": str(PIECE), "type": "sha-256"}
            assert [hash_.text for hash_ in pieces] == [
                hashlib.sha256(data[first : first + PIECE]).hexdigest() for first in range(0, len(data), PIECE)
            ]


def test_it_is_written_once(manifest, folder):
    status = (folder / PIECES_NAME).stat()
    assert status.st_mode & 0o7777 == 0o644
    assert not write_pieces(str(folder), "demo/tiny", REVISION, FILES, PIECE)
    assert (folder / PIECES_NAME).stat().st_ctime_ns == status.st_ctime_ns
    # Pieces of another length, another lock, a manifest that was cut: written again.
    assert not pieces_are_written(str(folder), FILES, 2 * PIECE)
    assert not pieces_are_written(str(folder), {**FILES, "new.gguf": LockFile("new.gguf", 2 * PIECE, "0" * 64)}, PIECE)
    (folder / PIECES_NAME).write_bytes(manifest[:-20])
    assert write_pieces(str(folder), "demo/tiny", REVISION, FILES, PIECE)
    assert (folder / PIECES_NAME).read_bytes() == manifest


def test_damaged_files_get_no_manifest(folder):
    (folder / "exact.gguf").write_bytes(b"e" * (2 * PIECE - 1) + b"x")
    with pytest.raises(PiecesError, match=r"exact\.gguf in .* damaged"):
        write_pieces(str(folder), "demo/tiny", REVISION, FILES, PIECE)
    assert not (folder / PIECES_NAME).exists()


def test_where_the_damage_is(manifest, folder):
    pieces = read_pieces(str(folder), FILES)["model.safetensors"]
    place = folder / "model.safetensors"
    assert damaged_pieces(str(place), pieces) == []
    data = bytearray(CONTENT["model.safetensors"])
    data[PIECE] ^= 1
    data[2 * PIECE - 1] ^= 1
    data[-1] ^= 1
    place.write_bytes(data)
    assert damaged_pieces(str(place), pieces) == [1, 3]
    assert pieces.describe([1, 3]) == "2 of 4 pieces (bytes 65536-131071, 196608-255999)"
    assert pieces.describe([0, 1, 3]) == "3 of 4 pieces (bytes 0-131071, 196608-255999)"
    place.write_bytes(data[: PIECE + 1])
    assert damaged_pieces(str(place), pieces) == [1, 2, 3]


def test_a_bad_sector_damages_its_piece_only(manifest, folder, monkeypatch):
    pieces = read_pieces(str(folder), FILES)["model.safetensors"]
    preadv = os.preadv

    def broken(descriptor, buffers, offset):
        if offset // PIECE == 2:
            raise OSError(errno.EIO, "Input/output error")
        return preadv(descriptor, buffers, offset)

    monkeypatch.setattr(weights_piece_files.os, "preadv", broken)
    assert damaged_pieces(str(folder / "model.safetensors"), pieces) == [2]


def test_parsing_gives_back_what_was_rendered(manifest):
    parsed = parse_pieces(manifest, FILES)
    assert set(parsed) == {"model.safetensors", "sub/two words & <more>.gguf", "exact.gguf"}
    assert render_pieces("demo/tiny", REVISION, FILES, parsed) == manifest
    # A lock of fewer files of the same revision: what it does not know does not matter.
    assert set(parse_pieces(manifest, {"exact.gguf": FILES["exact.gguf"]})) == {"exact.gguf"}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"<size>131072</size>", b"<size>131071</size>", "about another 'exact.gguf'"),
        (b"<size>131072</size>", b"", "about another 'exact.gguf': no bytes"),
        (FILES["exact.gguf"].sha256.encode(), b"0" * 64, "about another 'exact.gguf'"),
        (b'length="65536"', b'length="65537"', "has 2 of|has 4 of|has more than"),
        (b'length="65536"', b'length="1"', "too small"),
        (b'length="65536"', b'length="-65536"', "too small"),
        (b'length="65536"', b'length="9999999999999999999999"', "too small"),
        (hashlib.sha256(b"h").hexdigest().encode(), b"abc", "not a SHA-256"),
        (b"</metalink>\n", b"", "not whole"),
        (b"urn:ietf:params:xml:ns:metalink", b"urn:other", "not a Metalink"),
        (b'<file name="config.json">', b'<file name="exact.gguf">', "twice|another"),
        (b'encoding="UTF-8"', b'encoding="x-none"', "encoding|not whole"),
        (b"<generator>", b"<generator>" + b"x" * 5000, "too long"),
        (b"<generator>", b"<a>" * 40 + b"</a>" * 40 + b"<generator>", "too deeply"),
    ],
)
def test_what_is_refused(manifest, old, new, message):
    assert old in manifest
    with pytest.raises(PiecesError, match=message):
        parse_pieces(manifest.replace(old, new), FILES)


def test_pieces_of_another_kind_are_not_for_us(manifest):
    assert parse_pieces(manifest.replace(b'type="sha-256">\n      <hash>', b'type="sha-1">\n      <hash>'), FILES) == {}


LAUGHS = b'<!ENTITY a "ha">' + b"".join(b'<!ENTITY %c "%s">' % (97 + n, b"&%c;" % (96 + n) * 10) for n in range(1, 12))


@pytest.mark.parametrize(
    "declaration",
    [
        b"<!DOCTYPE metalink>",
        b"<!DOCTYPE metalink [" + LAUGHS + b"]>",
        b'<!DOCTYPE metalink SYSTEM "file:///etc/passwd">',
        b'<!DOCTYPE metalink [<!ENTITY x SYSTEM "file:///etc/passwd">]>',
    ],
)
def test_no_document_type_and_no_entities(manifest, declaration):
    content = manifest.replace(b"?>\n", b"?>\n" + declaration, 1).replace(b"<size>2<", b"<size>&l;<")
    tracemalloc.start()
    with pytest.raises(PiecesError, match="document type"):
        parse_pieces(content, FILES)
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()


def test_a_manifest_without_end_is_not_read(folder, monkeypatch):
    monkeypatch.setattr(weights_piece_files, "LARGEST_MANIFEST", 1000)
    monkeypatch.setattr(weights_pieces, "LARGEST_MANIFEST", 1000)
    (folder / PIECES_NAME).write_bytes(b" " * 1001)
    with pytest.raises(PiecesError, match="more than 1000 bytes"):
        read_pieces(str(folder), FILES)
    with pytest.raises(PiecesError, match="choose larger ones"):
        write_pieces(str(folder), "demo/tiny", REVISION, FILES, PIECE)


def test_more_pieces_than_the_file_can_have_are_not_kept(manifest):
    more = b"      <hash>" + b"0" * 64 + b"</hash>\n"
    with pytest.raises(PiecesError, match="more than the 2 pieces"):
        parse_pieces(manifest.replace(b"    </pieces>", more * 1000 + b"    </pieces>", 1), FILES)


@settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_a_manifest_that_was_changed_somewhere_is_refused_or_harmless(manifest, data):
    """Whatever is changed: no other error, and never pieces that do not fit the file."""
    position = data.draw(st.integers(0, len(manifest) - 1))
    length = data.draw(st.integers(0, 200))
    content = manifest[:position] + data.draw(st.binary(max_size=40)) + manifest[position + length :]
    try:
        parsed = parse_pieces(content, FILES)
    except PiecesError:
        return
    for path, pieces in parsed.items():
        assert (pieces.size, len(pieces.digests)) == (FILES[path].size, -(-pieces.size // pieces.piece_bytes))


def test_the_last_range_ends_with_the_file():
    pieces = FilePieces(10, 4, (b"", b"", b""))
    assert [pieces.range_of(number) for number in range(3)] == [(0, 4), (4, 8), (8, 10)]
    assert pieces.ranges_of([2, 1]) == [(4, 10)]
