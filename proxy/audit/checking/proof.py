"""Proofs that single records are in a log, to be checked without the log.

A proof file is JSON: ``{"format": "callgate-proof-1", "proofs": [{"record", "index", "path",
"checkpoint"}, …]}``. `record` is the record's line as text, `index` its number, `path` the RFC 6962
audit path in hex, `checkpoint` the signed note whose root it leads to. To make one, a single
segment is read: its first record has the edge of the tree before it, and it ends with a checkpoint.
"""

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from proxy.audit.checking.chain import Chain, VerificationError
from proxy.audit.checking.verify import Keys, checkpoint_signed_by
from proxy.audit.format.checkpoint import BadCheckpointError, Checkpoint, parse, split
from proxy.audit.format.layout import CHECKPOINT_SUFFIX, segment_name
from proxy.audit.format.merkle import (
    Subtree,
    inclusion_path,
    leaf_hash,
    node_hash,
    root_from_inclusion,
)
from proxy.audit.format.segment_file import open_readable
from proxy.audit.reading.reader import LogEntry

FORMAT = "callgate-proof-1"


class BadProofError(ValueError):
    """A proof that cannot be made, or that proves nothing."""


@dataclass(frozen=True, slots=True)
class Proved:
    """A record that is in the log `checkpoint.origin`, as number `index` of its first
    `checkpoint.size` records.
    """

    record: dict[str, Any]
    index: int
    checkpoint: Checkpoint


def prove(directory: Path, items: Sequence[LogEntry]) -> bytes:
    """Return the proof file for records of one log; raise BadProofError when one is not under a
    checkpoint yet.
    """
    proofs = []
    for item in items:
        index = int(item.record["seq"])
        checkpoint = _covering(directory, item.after.segment, index)
        path = inclusion_path(
            index, checkpoint.size, _subtrees(directory, item.after.segment, checkpoint.size)
        )
        note, hexes = checkpoint.note.decode(), [part.hex() for part in path]
        proofs.append(
            {"record": item.raw.decode(), "index": index, "path": hexes, "checkpoint": note}
        )
    return orjson.dumps({"format": FORMAT, "proofs": proofs}, option=orjson.OPT_INDENT_2) + b"\n"


def check_proof(data: bytes, keys: Keys) -> list[Proved]:
    """Return what a proof file proves; raise BadProofError unless all of it holds under one of
    `keys`.
    """
    try:
        document = orjson.loads(data)
        proofs = document["proofs"]
        if document["format"] != FORMAT or not proofs:
            raise BadProofError("not a proof file of this format")
        return [_checked(proof, keys) for proof in proofs]
    except BadCheckpointError as error:
        raise BadProofError(f"the checkpoint: {error}") from None
    except BadProofError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError):
        raise BadProofError("not a proof file of this format") from None


def _checked(proof: dict[str, Any], keys: Keys) -> Proved:
    line = proof["record"].encode()
    checkpoint = checkpoint_signed_by(proof["checkpoint"].encode(), keys)
    index = proof["index"]
    record = orjson.loads(line)
    if type(index) is not int or record["seq"] != index:
        raise BadProofError("the record says another number than the proof")
    try:
        root = root_from_inclusion(
            leaf_hash(line), index, checkpoint.size, [bytes.fromhex(part) for part in proof["path"]]
        )
    except ValueError:
        raise BadProofError(f"the path of record {index} does not fit the checkpoint") from None
    if root != checkpoint.root:
        raise BadProofError(
            f"record {index} is not in the log that the checkpoint signs (root {b64encode(root).decode()})"
        )
    return Proved(record, index, checkpoint)


def _covering(directory: Path, segment: int, index: int) -> Checkpoint:
    """Return the first checkpoint beside the segment that covers the record."""
    path = directory / f"{segment_name(segment)}{CHECKPOINT_SUFFIX}"
    try:
        notes = [parse(note) for note in split(path.read_bytes())]
    except (OSError, BadCheckpointError):
        notes = []
    for found in notes:
        if found.size > index:
            return found
    raise BadProofError(f"no checkpoint covers record {index} yet: try again in a second")


def _subtrees(directory: Path, segment: int, size: int) -> Subtree:
    """Return the hashes of subtrees, from the segment's lines and the edge in its first record."""
    base = directory / segment_name(segment)
    path = (
        base.with_suffix(".jsonl")
        if base.with_suffix(".jsonl").exists()
        else base.with_suffix(".jsonl.gz")
    )
    leaves: list[bytes] = []
    chain = Chain()
    with open_readable(path) as lines:
        for raw in lines:
            if not leaves:
                try:
                    chain.begin_at_header(raw.rstrip(b"\n"))
                except VerificationError as broken:
                    raise BadProofError(broken.text) from None
            leaves.append(leaf_hash(raw.rstrip(b"\n")))
            if chain.tree.size + len(leaves) == size:
                break
    start = chain.tree.size
    known: dict[tuple[int, int], bytes] = {}
    at = 0
    # largest first: the place of each follows from the bits of the size
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
