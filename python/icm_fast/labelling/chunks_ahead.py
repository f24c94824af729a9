"""Chunks of a view that are scored before an earlier one is: durable beside the file of the view.

A view's file grows in the order of the rows, so that it has the same bytes however it was made.
Where several chunks are scored at once, those that come too early wait in ``VIEW.ahead``, which is
gone when the view is whole.

Layout, little-endian: a header (magic, format, digest of what was scored, CRC-32), then one record
for each chunk (its number, tokens forwarded, float32 scores, CRC-32). What is after the last whole
record is cut off on opening.
"""

from __future__ import annotations

import os
import struct
import zlib
from types import TracebackType
from typing import Self

import numpy as np

from icm_fast.errors import InputError
from icm_fast.files import (
    append_durably,
    is_file,
    open_regular,
    read_file,
    write_atomically,
    writing,
)
from icm_fast.labelling.view_file import ViewFile
from icm_fast.types import ScoreArray

MAGIC = b"ICMAHEAD"
FORMAT = 1
_HEADER = struct.Struct("<8sI32s")
_FIELDS = struct.Struct("<QQ")
_CHECKSUM = struct.Struct("<I")
_SPARE = 64
"""Records that may be in the view already before the file is written anew without them."""


class ChunksAhead:
    """Keeps chunks of a view in any order; moves them into its file when their turn comes.

    Args:
        view: The open file of the view.
        digest: SHA-256 (hex) of everything that its scores depend on.

    Raises:
        InputError: The file belongs to something else, is damaged, or cannot be written.
    """

    def __init__(self, view: ViewFile, digest: str) -> None:
        self.path = view.path.with_suffix(".ahead")
        self._view = view
        body = _HEADER.pack(MAGIC, FORMAT, bytes.fromhex(digest))
        self._header = body + _CHECKSUM.pack(zlib.crc32(body))
        self._waiting: dict[int, tuple[ScoreArray, int]] = {}
        self._descriptor: int | None = None
        self._end = len(self._header)
        self._n_records = 0
        if is_file(self.path):
            self._read()
            self._move()
            self._rewrite()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()

    def __contains__(self, chunk: int) -> bool:
        return chunk < self._view.n_done or chunk in self._waiting

    @property
    def n_in_order(self) -> int:
        """Chunks from the first on without a gap."""
        return self._view.n_done

    @property
    def n_chunks(self) -> int:
        """All chunks that are stored."""
        return self._view.n_done + len(self._waiting)

    def keep(self, chunk: int, scores: ScoreArray, n_tokens: int) -> None:
        """Make a chunk durable.

        Args:
            chunk: Its number, from 0; not stored yet.
            scores: ``[items, n_labels]`` float32 log-probabilities.
            n_tokens: Tokens forwarded for them.

        Raises:
            InputError: The file system refuses, for example because the disk is full.
        """
        if chunk == self._view.n_done:
            self._view.append(scores, n_tokens)
            if self._waiting or self._n_records:
                self._move()
                self._tidy()
            return
        self._append(chunk, scores, n_tokens)
        self._waiting[chunk] = (scores, n_tokens)

    def _move(self) -> None:
        """Move what is next, and all that follows it, into the view."""
        while (ready := self._waiting.pop(self._view.n_done, None)) is not None:
            self._view.append(*ready)

    def _tidy(self) -> None:
        if not self._waiting or self._n_records > 2 * len(self._waiting) + _SPARE:
            self._rewrite()

    def _append(self, chunk: int, scores: ScoreArray, n_tokens: int) -> None:
        if self._descriptor is None:
            write_atomically(self.path, self._header)
            with writing(self.path):
                self._descriptor = open_regular(self.path, os.O_WRONLY)
            self._end, self._n_records = len(self._header), 0
        record = _record(chunk, scores, n_tokens)
        append_durably(self.path, self._descriptor, self._end, record)
        self._end += len(record)
        self._n_records += 1

    def _rewrite(self) -> None:
        """Leave in the file what still waits; without any there is no file."""
        self._close()
        self._n_records = len(self._waiting)
        if not self._waiting:
            with writing(self.path):
                self.path.unlink(missing_ok=True)
            return
        records = [_record(chunk, *waiting) for chunk, waiting in self._waiting.items()]
        content = self._header + b"".join(records)
        write_atomically(self.path, content)
        self._end = len(content)
        with writing(self.path):
            self._descriptor = open_regular(self.path, os.O_WRONLY)

    def _close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _read(self) -> None:
        fix = "delete it to score its rows again"
        content = read_file(self.path, fix)
        if content[: len(self._header)] != self._header:
            raise InputError(f"{self.path} belongs to another labelling or is damaged; {fix}")
        shape, at = self._view.shape, len(self._header)
        while at + _FIELDS.size <= len(content):
            chunk, n_tokens = _FIELDS.unpack_from(content, at)
            if chunk >= shape.n_chunks:
                break
            size = shape.size(chunk)
            end = at + _FIELDS.size + 4 * size * shape.n_labels
            checksum = content[end : end + _CHECKSUM.size]
            if _CHECKSUM.pack(zlib.crc32(content[at:end])) != checksum:
                break  # torn by a crash; what came after it, if anything, is scored again
            scores = np.frombuffer(content[at + _FIELDS.size : end], "<f4").astype(np.float32)
            if not np.isfinite(scores).all():
                raise InputError(f"{self.path} holds scores that no model gives; {fix}")
            if chunk >= self._view.n_done:
                self._waiting[chunk] = (scores.reshape(size, shape.n_labels), int(n_tokens))
            at = end + _CHECKSUM.size


def _record(chunk: int, scores: ScoreArray, n_tokens: int) -> bytes:
    body = _FIELDS.pack(chunk, n_tokens) + np.ascontiguousarray(scores, "<f4").tobytes()
    return body + _CHECKSUM.pack(zlib.crc32(body))
