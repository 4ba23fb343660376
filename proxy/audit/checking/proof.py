"""Proofs that single records are in a log, to be checked without the log.

A proof file is JSON: ``{"format": "callgate-proof-1", "proofs": [{"record", "index", "path",
"checkpoint"}, …]}``. `record` is the record's line as text, `index` its sequence number, `path` the
RFC 6962 audit path in hex, `checkpoint` the signed note whose root the path leads to.

Making a proof reads one segment: its first record has the frontier of the tree before it, and a
checkpoint covers its end.
"""

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from proxy.audit.checking.chain import Chain, VerificationError
from proxy.audit.checking.signatures import Keys, checkpoint_signed_by
from proxy.audit.format.checkpoint import BadCheckpointError, Checkpoint, parse, split
from proxy.audit.format.layout import CHECKPOINT_SUFFIX, segment_name, segments
from proxy.audit.format.merkle import (
    Subtree,
    inclusion_path,
    leaf_hash,
    node_hash,
    root_from_inclusion,
)
from proxy.audit.format.segment_file import open_readable

FORMAT = "callgate-proof-1"


class BadProofError(ValueError):
    """A proof that cannot be made, or that proves nothing."""


@dataclass(frozen=True, slots=True)
class Provable:
    """A record to make a proof of: its segment's number, its sequence number, its line."""

    segment: int
    index: int
    line: bytes


@dataclass(frozen=True, slots=True)
class Proved:
    """A record that is proved to be in the log `checkpoint.origin`.

    It is number `index` of the log's first `checkpoint.size` records. `line` is its text.
    """

    line: bytes
    index: int
    checkpoint: Checkpoint


def prove(directory: Path, records: Sequence[Provable]) -> bytes:
    """Return the proof file for records of one log.

    Raises:
        BadProofError: no checkpoint covers one of them yet.

    """
    proofs = []
    for record in records:
        checkpoint = _covering(directory, record.segment, record.index)
        subtrees = _subtrees(directory, record.segment, checkpoint.size)
        path = inclusion_path(record.index, checkpoint.size, subtrees)
        proofs.append(
            {
                "record": record.line.decode(),
                "index": record.index,
                "path": [part.hex() for part in path],
                "checkpoint": checkpoint.note.decode(),
            }
        )
    return orjson.dumps({"format": FORMAT, "proofs": proofs}, option=orjson.OPT_INDENT_2) + b"\n"


def check_proof(data: bytes, keys: Keys) -> list[Proved]:
    """Return what a proof file proves.

    Raises:
        BadProofError: it is not a proof file, or a part of it does not hold under `keys`.

    """
    try:
        document = orjson.loads(data)
        proofs = document["proofs"]
        if document["format"] != FORMAT or not proofs:
            raise BadProofError("not a proof file of this format")
        return [_check_one(proof, keys) for proof in proofs]
    except BadCheckpointError as error:
        raise BadProofError(f"the checkpoint: {error}") from None
    except BadProofError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError):
        raise BadProofError("not a proof file of this format") from None


def _check_one(proof: dict[str, Any], keys: Keys) -> Proved:
    line = proof["record"].encode()
    checkpoint = checkpoint_signed_by(proof["checkpoint"].encode(), keys)
    index = proof["index"]
    if type(index) is not int or orjson.loads(line)["seq"] != index:
        raise BadProofError("the record has another sequence number than the proof")
    path = [bytes.fromhex(part) for part in proof["path"]]
    try:
        root = root_from_inclusion(leaf_hash(line), index, checkpoint.size, path)
    except ValueError:
        raise BadProofError(f"the path of record {index} does not fit the checkpoint") from None
    if root != checkpoint.root:
        raise BadProofError(
            f"record {index} is not in the log that the checkpoint signs (root"
            f" {b64encode(root).decode()})"
        )
    return Proved(line, index, checkpoint)


def _covering(directory: Path, segment: int, index: int) -> Checkpoint:
    """Return the first checkpoint of the segment that covers the record."""
    path = directory / f"{segment_name(segment)}{CHECKPOINT_SUFFIX}"
    try:
        checkpoints = [parse(note) for note in split(path.read_bytes())]
    except (OSError, BadCheckpointError):
        checkpoints = []
    for found in checkpoints:
        if found.size > index:
            return found
    raise BadProofError(f"no checkpoint covers record {index} yet. Try again in a second.")


def _subtrees(directory: Path, segment: int, size: int) -> Subtree:
    """Return the hashes of subtrees, from the segment's lines and the frontier before them."""
    chain = Chain()
    leaves: list[bytes] = []
    with open_readable(segments(directory)[segment]) as lines:
        for raw in lines:
            line = raw.removesuffix(b"\n")
            if not leaves:
                try:
                    chain.begin_at_header(line)
                except VerificationError as error:
                    raise BadProofError(error.text) from None
            leaves.append(leaf_hash(line))
            if chain.tree.size + len(leaves) == size:
                break
    start = chain.tree.size
    known: dict[tuple[int, int], bytes] = {}
    at = 0
    # Largest first: the place of each subtree follows from the bits of the size.
    for part in chain.tree.frontier:
        width = 1 << (start - at).bit_length() - 1
        known[at, at + width] = part
        at += width

    def subtree(begin: int, end: int) -> bytes:
        if (begin, end) in known:
            return known[begin, end]
        if end - begin == 1:
            if not start <= begin < start + len(leaves):
                raise BadProofError(
                    "the segment does not hold the records that the checkpoint covers"
                )
            return leaves[begin - start]
        middle = begin + (1 << (end - begin - 1).bit_length() - 1)
        return node_hash(subtree(begin, middle), subtree(middle, end))

    return subtree
