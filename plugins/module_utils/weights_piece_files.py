# Copyright (c) 2026, baremetal.llm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Piece manifests and the files that they are about: write one for a folder, find the damage in a file with one."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

from ansible_collections.baremetal.llm.plugins.module_utils.weights_files import CHUNK, write_atomically
from ansible_collections.baremetal.llm.plugins.module_utils.weights_pieces import (
    DEFAULT_PIECE_BYTES,
    LARGEST_MANIFEST,
    PIECES_NAME,
    FilePieces,
    Known,
    PiecesError,
    parse_pieces,
    render_pieces,
)

# Two buffers of this size for each file that is hashed: long enough that to hand one over costs nothing beside it.
_BUFFER = 4 * CHUNK


def ignore(count: int) -> None:
    """Nobody wants to know how many bytes were read."""


def read_pieces(folder: str, files: Mapping[str, Known]) -> dict[str, FilePieces]:
    """The manifest in a folder; nothing if there is none. PiecesError if it cannot be used for these files."""
    try:
        with open(os.path.join(folder, PIECES_NAME), "rb") as stream:
            return parse_pieces(stream.read(LARGEST_MANIFEST + 1), files)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise PiecesError(f"cannot be read: {error.strerror}") from error


def pieces_are_written(folder: str, files: Mapping[str, Known], piece_bytes: int = DEFAULT_PIECE_BYTES) -> bool:
    """Whether the manifest in a folder is of these files, in pieces of that length. Reads the manifest only."""
    try:
        known = read_pieces(folder, files)
    except PiecesError:
        return False
    wanted = {path for path, file in files.items() if file.size > piece_bytes}
    return (
        os.path.exists(os.path.join(folder, PIECES_NAME))
        and set(known) == wanted
        and all(pieces.piece_bytes == piece_bytes for pieces in known.values())
    )


def write_pieces(
    folder: str,
    model: str,
    revision: str,
    files: Mapping[str, Known],
    piece_bytes: int = DEFAULT_PIECE_BYTES,
    workers: int = 2,
    mode: int = 0o644,
    read: Callable[[int], None] = ignore,
) -> bool:
    """Write the manifest of a folder that holds these files (by path); whether it had to be written.

    Every file is read once, and its SHA-256 as a whole is computed along the way, for a manifest of damaged files would
    teach the damage to others: PiecesError, and nothing is written, if one is not what is known of it. `read` is told
    of bytes as they are read.
    """
    if pieces_are_written(folder, files, piece_bytes):
        return False
    # Of the rest the whole is the piece.
    long = {path: file for path, file in files.items() if file.size > piece_bytes}
    # hashlib releases the interpreter lock: each file has one thread for its pieces and one for the whole of it.
    with ThreadPoolExecutor(workers) as files_pool, ThreadPoolExecutor(workers) as whole_pool:
        jobs = {
            path: files_pool.submit(_digests, os.path.join(folder, path), piece_bytes, whole_pool, read)
            for path in sorted(long, key=lambda path: -long[path].size)
        }
        try:
            found = {path: job.result() for path, job in jobs.items()}
        except BaseException:
            for job in jobs.values():
                job.cancel()
            raise
    wrong = sorted(path for path, (sha256, dummy) in found.items() if sha256 != long[path].sha256)
    if wrong:
        raise PiecesError(f"{', '.join(wrong)} in {folder} are damaged (SHA-256), so their pieces are not written down")
    pieces = {path: FilePieces(long[path].size, piece_bytes, digests) for path, (dummy, digests) in found.items()}
    content = render_pieces(model, revision, files, pieces)
    if len(content) > LARGEST_MANIFEST:
        raise PiecesError(f"pieces of {piece_bytes} bytes make a manifest of {len(content)} bytes; choose larger ones")
    write_atomically(os.path.join(folder, PIECES_NAME), content, mode)
    return True


def _digests(
    path: str, piece_bytes: int, pool: ThreadPoolExecutor, read: Callable[[int], None]
) -> tuple[str, tuple[bytes, ...]]:
    """The SHA-256 of a file and of each piece of it, in one pass and two threads."""
    whole, piece, left = hashlib.sha256(), hashlib.sha256(), piece_bytes
    digests: list[bytes] = []
    buffers = [memoryview(bytearray(_BUFFER)), memoryview(bytearray(_BUFFER))]
    pending: Future[None] | None = None
    with open(path, "rb", buffering=0) as stream:
        while True:
            # The whole may still be at work on the other one.
            buffers.reverse()
            count = stream.readinto(buffers[0])
            if pending is not None:
                pending.result()
            if not count:
                break
            view = buffers[0][:count]
            pending = pool.submit(whole.update, view)
            read(count)
            while view:
                part, view = view[:left], view[left:]
                piece.update(part)
                left -= len(part)
                if not left:
                    digests.append(piece.digest())
                    piece, left = hashlib.sha256(), piece_bytes
    if left < piece_bytes:
        digests.append(piece.digest())
    return whole.hexdigest(), tuple(digests)


def damaged_pieces(path: str, pieces: FilePieces, workers: int = 2, read: Callable[[int], None] = ignore) -> list[int]:
    """The numbers of the pieces that a file has not got right, be it that they cannot be read."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with ThreadPoolExecutor(workers) as pool:
            right = list(
                pool.map(lambda number: piece_is_right(descriptor, pieces, number, read), range(len(pieces.digests)))
            )
    finally:
        os.close(descriptor)
    return [number for number, good in enumerate(right) if not good]


def piece_is_right(
    descriptor: int,
    pieces: FilePieces,
    number: int,
    read: Callable[[int], None] = ignore,
    take: Callable[[memoryview, int], None] = lambda view, offset: None,
) -> bool:
    """Whether an open file has the bytes of a piece. `take` gets them as they are read, before that is known."""
    digest = hashlib.sha256()
    position, end = pieces.range_of(number)
    buffer = memoryview(bytearray(min(CHUNK, end - position)))
    while position < end:
        try:
            count = os.preadv(descriptor, [buffer[: end - position]], position)
        except OSError:
            # A bad sector damages its piece and no other.
            return False
        if not count:
            return False
        digest.update(buffer[:count])
        read(count)
        position += count
        take(buffer[:count], position - count)
    return digest.digest() == pieces.digests[number]
