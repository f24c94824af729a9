"""The durable list of scored labellings: an append-only binary file.

Layout, little-endian: a header (magic, format, n_examples, n_labels, run fingerprint,
CRC-32), then records of one fixed size (labels, tokens forwarded, float32 scores,
CRC-32). A record counts once it is complete and synced; a torn tail is cut off on opening.
"""

from __future__ import annotations

import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from icm_fast.errors import InputError
from icm_fast.files import append_durably, is_file, open_regular, reading, write_atomically, writing
from icm_fast.types import UNLABELLED, IntArray, ScoreArray

MAGIC = b"ICMEVAL\x00"
FORMAT = 1
_HEADER = struct.Struct("<8sIII32s")
_TOKENS = struct.Struct("<Q")
_CHECKSUM = struct.Struct("<I")
_MOST_TOKENS = 2**53
_DELETE = "delete it to score again"


@dataclass(frozen=True, slots=True)
class ScoredLabelling:
    """A labelling and its scores.

    Attributes:
        labels: ``[n]`` int32, -1 where unlabelled.
        scores: ``[n, n_labels]`` float32 LOO log-probabilities.
        n_tokens: Tokens that the model forwarded for it.
    """

    labels: IntArray
    scores: ScoreArray
    n_tokens: int


def labels_key(labels: IntArray) -> bytes:
    """Bytes that identify a labelling."""
    return np.ascontiguousarray(labels, dtype="<i4").tobytes()


class ScoreLog:
    """An open log, positioned after its last complete record.

    Args:
        path: The file; created if absent.
        n_examples: Examples per labelling.
        n_labels: Labels in the label space.
        fingerprint: SHA-256 of the run (hex); a file of another run is refused.
        writable: Whether records may be appended; otherwise the file stays as it is.

    Raises:
        InputError: A file of another run, a corrupt record, or a file system error.
    """

    def __init__(
        self,
        path: Path,
        n_examples: int,
        n_labels: int,
        fingerprint: str,
        *,
        writable: bool = True,
    ) -> None:
        self.path = path
        self._shape = (n_examples, n_labels)
        self._label_type = _label_type(n_labels)
        self._header = _header(n_examples, n_labels, fingerprint)
        if writable and not is_file(path):
            write_atomically(path, self._header)
        with reading(path, _DELETE), os.fdopen(open_regular(path, os.O_RDONLY), "rb") as file:
            self._check_header(file.read(len(self._header)))
            self.labellings, self._end = self._read_records(file)
        if not writable:
            return
        with writing(path):
            self._descriptor = open_regular(path, os.O_WRONLY)
            os.ftruncate(self._descriptor, self._end)

    @property
    def record_bytes(self) -> int:
        """Size of one record in bytes."""
        n, n_labels = self._shape
        labels = n * self._label_type.itemsize
        return labels + _TOKENS.size + 4 * n * n_labels + _CHECKSUM.size

    def append(self, scored: ScoredLabelling) -> None:
        """Write one record and sync it; on failure the file keeps only its former records.

        Raises:
            InputError: The file system refuses, for example because the disk is full.
        """
        record = self._encode(scored)
        append_durably(self.path, self._descriptor, self._end, record)
        self._end += len(record)
        self.labellings.append(scored)

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def _check_header(self, content: bytes) -> None:
        if content != self._header:
            raise InputError(
                f"{self.path} belongs to another run or is corrupt (its header does not match this "
                "data, configuration and model); choose another output folder or delete the file"
            )

    def _read_records(self, file: BinaryIO) -> tuple[list[ScoredLabelling], int]:
        """Read record after record, so that a huge file is refused at its first bad one."""
        start, size = len(self._header), self.record_bytes
        total = os.fstat(file.fileno()).st_size
        n_whole = (total - start) // size
        labellings: list[ScoredLabelling] = []
        for k in range(n_whole):
            at = start + k * size
            scored = self._decode(file.read(size))
            if scored is None:
                if at + 2 * size > total:  # the last one: torn by a crash
                    return labellings, at
                raise InputError(
                    f"{self.path}: record {k + 1} of {n_whole} is corrupt (checksum differs at "
                    f"byte {at}); delete the file to score again, or restore it from a copy"
                )
            labellings.append(scored)
        return labellings, start + n_whole * size

    def _encode(self, scored: ScoredLabelling) -> bytes:
        labels = np.ascontiguousarray(scored.labels, dtype=self._label_type)
        scores = np.ascontiguousarray(scored.scores, dtype="<f4")
        assert labels.shape == self._shape[:1]
        assert scores.shape == self._shape
        body = labels.tobytes() + _TOKENS.pack(scored.n_tokens) + scores.tobytes()
        return body + _CHECKSUM.pack(zlib.crc32(body))

    def _decode(self, record: bytes) -> ScoredLabelling | None:
        body, checksum = record[: -_CHECKSUM.size], record[-_CHECKSUM.size :]
        if _CHECKSUM.pack(zlib.crc32(body)) != checksum:
            return None
        n, n_labels = self._shape
        cut = n * self._label_type.itemsize
        (n_tokens,) = _TOKENS.unpack_from(body, cut)
        scores = np.frombuffer(body, dtype="<f4", offset=cut + _TOKENS.size)
        labels = np.frombuffer(body[:cut], dtype=self._label_type).astype(np.int32)
        # The checksum finds damage; a record that was made up can still name labels there are not.
        if n and not UNLABELLED <= labels.min() <= labels.max() < n_labels:
            raise InputError(f"{self.path} holds labels outside -1 .. {n_labels - 1}; {_DELETE}")
        if np.isinf(scores).any() or n_tokens > _MOST_TOKENS:
            raise InputError(f"{self.path} holds scores that no model gives; {_DELETE}")
        return ScoredLabelling(
            labels=labels,
            scores=scores.astype(np.float32).reshape(n, n_labels),
            n_tokens=n_tokens,
        )


def _label_type(n_labels: int) -> np.dtype[np.signedinteger]:
    for name in ("<i1", "<i2"):
        if n_labels - 1 <= np.iinfo(name).max:
            return np.dtype(name)
    return np.dtype("<i4")


def _header(n_examples: int, n_labels: int, fingerprint: str) -> bytes:
    body = _HEADER.pack(MAGIC, FORMAT, n_examples, n_labels, bytes.fromhex(fingerprint))
    return body + _CHECKSUM.pack(zlib.crc32(body))
