# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A piece manifest: the SHA-256 of every stretch of every file of a revision, as Metalink (RFC 5854).

It says where a file is damaged, so that only that has to be fetched again. Whether a file is right is never for it to
say: it comes from where the bytes come from, and the lock's SHA-256 of the whole file decides.

It lies in the revision's folder, under a name that no lock can hold (names that begin with a dot are reserved), like
the record of the verification: so it appears with the files by one rename, goes with the folder wherever that is
carried, copied or served, and is found below any kind of source in the same way.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import quote
from xml.parsers import expat
from xml.sax.saxutils import escape, quoteattr

PIECES_NAME = ".baremetal-llm.meta4"
# One damaged bit costs a piece: 0.3 s at 50 MB/s. 140 GB have 9000 of them, which is a manifest of 0.8 MB.
DEFAULT_PIECE_BYTES = 16 * 1024 * 1024
SMALLEST_PIECE_BYTES = 64 * 1024
# Six terabytes in pieces of 16 MiB. What is longer is not read.
LARGEST_MANIFEST = 32 * 1024 * 1024
# RFC 5854, section 4.
_NAMESPACE = "urn:ietf:params:xml:ns:metalink"
# RFC 5854, section 7.1: the names of hash functions are those of IANA's registry of textual names.
_HASH = "sha-256"
_LONGEST_TEXT = 4096
_DEEPEST = 16


class Known(Protocol):
    """What is known of a file beforehand, from the lock or from the record of a verification."""

    @property
    def size(self) -> int: ...

    @property
    def sha256(self) -> str: ...


class PiecesError(ValueError):
    """A manifest that must not be used."""


@dataclass(frozen=True)
class FilePieces:
    """The digests of one file's pieces. All have the same length in bytes but the last."""

    size: int
    piece_bytes: int
    digests: tuple[bytes, ...]

    def range_of(self, number: int) -> tuple[int, int]:
        """First byte of a piece (counted from 0), and the one after its last."""
        return number * self.piece_bytes, min(self.size, (number + 1) * self.piece_bytes)

    def ranges_of(self, numbers: Iterable[int]) -> list[tuple[int, int]]:
        """The same for many, neighbours together."""
        ranges: list[tuple[int, int]] = []
        for first, end in map(self.range_of, sorted(numbers)):
            if ranges and ranges[-1][1] == first:
                first = ranges.pop()[0]
            ranges.append((first, end))
        return ranges

    def describe(self, numbers: Sequence[int]) -> str:
        """Which pieces, for a person: "1 of 4 pieces (bytes 16777216-33554431)"."""
        ranges = [f"{first}-{end - 1}" for first, end in self.ranges_of(numbers)]
        more = f" and {len(ranges) - 5} more stretches" if len(ranges) > 5 else ""
        where = f" (bytes {', '.join(ranges[:5])}{more})" if ranges else ""
        return f"{len(numbers)} of {len(self.digests)} pieces{where}"


def pieces_of(size: int, piece_bytes: int) -> int:
    """How many pieces a file has."""
    return -(-size // piece_bytes)


def render_pieces(model: str, revision: str, files: Mapping[str, Known], pieces: Mapping[str, FilePieces]) -> bytes:
    """The text of a manifest, the same for the same content. `pieces` may lack files that are one piece anyway.

    The addresses are relative, as `aria2c https://…/.baremetal-llm.meta4` takes them: the manifest knows no host.
    """
    lines = ['<?xml version="1.0" encoding="UTF-8"?>', f'<metalink xmlns="{_NAMESPACE}">']
    lines.append("  <generator>baremetal.llm</generator>")
    for path, file in sorted(files.items()):
        lines.append(f"  <file name={quoteattr(path)}>")
        lines.append(f"    <identity>{escape(model)}</identity>")
        lines.append(f"    <version>{escape(revision)}</version>")
        lines.append(f"    <size>{file.size}</size>")
        lines.append(f'    <hash type="{_HASH}">{file.sha256}</hash>')
        known = pieces.get(path)
        if known is not None:
            lines.append(f'    <pieces length="{known.piece_bytes}" type="{_HASH}">')
            lines += [f"      <hash>{digest.hex()}</hash>" for digest in known.digests]
            lines.append("    </pieces>")
        lines.append(f"    <url>{escape(quote(path))}</url>")
        lines.append("  </file>")
    lines.append("</metalink>\n")
    return "\n".join(lines).encode("utf-8")


def parse_pieces(content: bytes, files: Mapping[str, Known]) -> dict[str, FilePieces]:
    """The pieces of the files that are known, from a manifest of any origin; PiecesError for one that is not whole,
    not a manifest, or of other files than these. A file that it has no pieces of is not in the result.

    Declarations of a document type are refused, and with them entities of every kind: what is read is never longer
    than what was sent.
    """
    if len(content) > LARGEST_MANIFEST:
        raise PiecesError(f"has more than {LARGEST_MANIFEST} bytes")
    reader = _Reader(files)
    try:
        reader.parser.Parse(content, True)
    except expat.ExpatError as error:
        raise PiecesError(f"is not whole or not XML (line {error.lineno}: {expat.ErrorString(error.code)})") from error
    except (LookupError, UnicodeError) as error:
        raise PiecesError("is in an unknown encoding") from error
    return reader.pieces


class _Reader:
    """Reads elements as they come; of each file of interest only the digests are kept."""

    def __init__(self, files: Mapping[str, Known]) -> None:
        self.pieces: dict[str, FilePieces] = {}
        self.parser = expat.ParserCreate(namespace_separator=" ")
        self.parser.buffer_text = True
        self.parser.StartDoctypeDeclHandler = self._refuse
        self.parser.EntityDeclHandler = self._refuse
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._add_text
        self._files = files
        self._seen: set[str] = set()
        self._open: list[str] = []
        self._text = ""
        self._name = ""
        self._size = self._sha256 = ""
        self._hash_type = ""
        self._piece_bytes = 0
        self._most = 0
        self._digests: list[bytes] | None = None

    def _refuse(self, *dummy: object) -> None:
        raise PiecesError("declares a document type or entities")

    def _start(self, name: str, attributes: Mapping[str, Any]) -> None:
        namespace, dummy, element = name.rpartition(" ")
        element = element if namespace == _NAMESPACE else "?"
        if not self._open and element != "metalink":
            raise PiecesError("is not a Metalink document of RFC 5854")
        self._open.append(element)
        if len(self._open) > _DEEPEST:
            raise PiecesError("is nested too deeply")
        self._text = ""
        place = self._open[1:]
        if place == ["file"]:
            self._begin_file(str(attributes.get("name", "")))
        elif place == ["file", "hash"]:
            self._hash_type = str(attributes.get("type", ""))
        elif place == ["file", "pieces"] and self._name and attributes.get("type") == _HASH:
            self._begin_pieces(str(attributes.get("length", "")))

    def _begin_file(self, name: str) -> None:
        if name in self._seen:
            raise PiecesError(f"names {name!r} twice")
        # Files of no interest are not remembered: there can be many.
        self._name = name if name in self._files else ""
        if self._name:
            self._seen.add(name)
        self._size = self._sha256 = ""
        self._piece_bytes, self._digests = 0, None

    def _begin_pieces(self, length: str) -> None:
        if self._piece_bytes:
            raise PiecesError(f"{self._name!r} has pieces twice")
        self._piece_bytes = int(length) if re.fullmatch(r"[0-9]{1,15}", length) else 0
        if self._piece_bytes < SMALLEST_PIECE_BYTES:
            raise PiecesError(f"{self._name!r}: pieces of {length!r} bytes are too small")
        self._most = pieces_of(self._files[self._name].size, self._piece_bytes)
        self._digests = []

    def _add_text(self, text: str) -> None:
        if len(self._text) + len(text) > _LONGEST_TEXT:
            raise PiecesError("holds a text that is too long")
        self._text += text

    def _end(self, dummy: str) -> None:
        place, text = self._open[1:], self._text.strip()
        self._open.pop()
        self._text = ""
        if not self._name:
            return
        if place == ["file"]:
            self._end_file()
        elif place == ["file", "size"]:
            self._size = text
        elif place == ["file", "hash"] and self._hash_type == _HASH:
            self._sha256 = text.lower()
        elif place == ["file", "pieces", "hash"] and self._digests is not None:
            if not re.fullmatch(r"[0-9a-fA-F]{64}", text):
                raise PiecesError(f"{self._name!r}: the digest of a piece is not a SHA-256")
            if len(self._digests) >= self._most:
                raise PiecesError(f"{self._name!r}: has more than the {self._most} pieces that its size makes")
            self._digests.append(bytes.fromhex(text))
        elif place == ["file", "pieces"] and self._digests is not None and len(self._digests) != self._most:
            raise PiecesError(f"{self._name!r}: has {len(self._digests)} of {self._most} pieces")

    def _end_file(self) -> None:
        known = self._files[self._name]
        if self._size != str(known.size) or self._sha256 != known.sha256:
            raise PiecesError(
                f"is about another {self._name!r}: {self._size or 'no'} bytes with the SHA-256 "
                f"{self._sha256[:64] or '(none)'} instead of {known.size} with {known.sha256}"
            )
        if self._digests:
            self.pieces[self._name] = FilePieces(known.size, self._piece_bytes, tuple(self._digests))
        self._name = ""
