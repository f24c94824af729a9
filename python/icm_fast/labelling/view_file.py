"""Scores of all rows under one context: a file that grows chunk by chunk and survives a kill.

Layout, little-endian: a header (magic, format, labels, items per chunk, items in all, digest of
what was scored, CRC-32), then one record for each chunk (tokens forwarded, float32 scores, CRC-32).
A chunk counts once it is complete and synced; a torn end is cut off on opening.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from icm_fast.errors import InputError
from icm_fast.files import append_durably, is_file, open_regular, write_atomically, writing
from icm_fast.types import ScoreArray

MAGIC = b"ICMVIEW\x00"
FORMAT = 1
_HEADER = struct.Struct("<8sIIIQ32s")
_TOKENS = struct.Struct("<Q")
_CHECKSUM = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class ViewShape:
    """What the records of a file look like.

    Attributes:
        n_items: Prompts in all.
        n_labels: Labels of each.
        chunk: Prompts in one record; the last one has the rest.
    """

    n_items: int
    n_labels: int
    chunk: int

    @property
    def n_chunks(self) -> int:
        """Records of a whole file."""
        return -(-self.n_items // self.chunk)

    def size(self, chunk: int) -> int:
        """Prompts in one record."""
        return min(self.chunk, self.n_items - chunk * self.chunk)

    def record_bytes(self, chunk: int) -> int:
        """Bytes of one record."""
        return _TOKENS.size + 4 * self.n_labels * self.size(chunk) + _CHECKSUM.size


class ViewFile:
    """An open file of scores, positioned after its last whole chunk.

    Args:
        path: The file; made if absent.
        shape: What its records look like.
        digest: SHA-256 (hex) of everything that the scores depend on; a file with another one is
            refused.

    Raises:
        InputError: The file belongs to something else, is damaged, or cannot be written.
    """

    def __init__(self, path: Path, shape: ViewShape, digest: str) -> None:
        self.path = path
        self.shape = shape
        body = _HEADER.pack(
            MAGIC, FORMAT, shape.n_labels, shape.chunk, shape.n_items, bytes.fromhex(digest)
        )
        self._header = body + _CHECKSUM.pack(zlib.crc32(body))
        if not is_file(path):
            write_atomically(path, self._header)
        with writing(path):
            self._descriptor = open_regular(path, os.O_RDWR)
        try:
            self.n_done, self._end, self.n_tokens = self._read_all()
            with writing(path):
                os.ftruncate(self._descriptor, self._end)
        except BaseException:
            os.close(self._descriptor)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._descriptor)

    @property
    def is_whole(self) -> bool:
        """Whether all chunks are there."""
        return self.n_done == self.shape.n_chunks

    def append(self, scores: ScoreArray, n_tokens: int) -> None:
        """Write the next chunk and sync it; on failure the file keeps its former chunks.

        Args:
            scores: ``[items, n_labels]`` float32 log-probabilities.
            n_tokens: Tokens forwarded for them.

        Raises:
            InputError: The file system refuses, for example because the disk is full.
        """
        assert scores.shape == (self.shape.size(self.n_done), self.shape.n_labels)
        body = _TOKENS.pack(n_tokens) + np.ascontiguousarray(scores, "<f4").tobytes()
        record = body + _CHECKSUM.pack(zlib.crc32(body))
        append_durably(self.path, self._descriptor, self._end, record)
        self._end += len(record)
        self.n_done += 1
        self.n_tokens += n_tokens

    def chunks(self) -> Iterator[ScoreArray]:
        """The scores of each chunk, ``[items, n_labels]`` float32, read one by one."""
        at = len(self._header)
        for chunk in range(self.n_done):
            record = self._record(chunk, at)
            assert record is not None, "checked when the file was opened"
            yield record[0]
            at += self.shape.record_bytes(chunk)

    def _read_all(self) -> tuple[int, int, int]:
        """Whole chunks, where the last one ends, and the tokens of all."""
        if os.pread(self._descriptor, len(self._header), 0) != self._header:
            raise InputError(
                f"{self.path} belongs to another labelling or is damaged; delete it to score again"
            )
        size = os.fstat(self._descriptor).st_size
        at, tokens = len(self._header), 0
        for chunk in range(self.shape.n_chunks):
            end = at + self.shape.record_bytes(chunk)
            record = self._record(chunk, at) if end <= size else None
            if record is None:
                if end < size:  # there is more after it, so it is not what a kill leaves
                    raise InputError(
                        f"{self.path}: chunk {chunk + 1} of {self.shape.n_chunks} is damaged "
                        f"(checksum differs at byte {at}); delete the file to score again"
                    )
                return chunk, at, tokens
            tokens += record[1]
            at = end
        if size > at:
            raise InputError(
                f"{self.path} has {size - at} bytes too many; delete it to score again"
            )
        return self.shape.n_chunks, at, tokens

    def _record(self, chunk: int, at: int) -> tuple[ScoreArray, int] | None:
        """Scores and tokens of the record at a byte; None if it is not whole."""
        size = self.shape.record_bytes(chunk)
        content = os.pread(self._descriptor, size, at)
        body, checksum = content[: -_CHECKSUM.size], content[-_CHECKSUM.size :]
        if len(content) != size or _CHECKSUM.pack(zlib.crc32(body)) != checksum:
            return None
        (n_tokens,) = _TOKENS.unpack_from(body)
        scores = np.frombuffer(body, "<f4", offset=_TOKENS.size)
        shaped = scores.reshape(self.shape.size(chunk), self.shape.n_labels).astype(np.float32)
        if not np.isfinite(shaped).all():
            raise InputError(
                f"{self.path} holds scores that no model gives; delete it to score again"
            )
        return shaped, int(n_tokens)
