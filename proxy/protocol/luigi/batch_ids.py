"""Batch ids of luigid, bound to the identity that got them.

luigid runs tasks of one family together under a batch id, and an ``add_task`` with that id ends the
complete batch: its tasks become DONE or FAILED with the named one, whatever the caller may do with
them by name (luigi/scheduler.py). The id is the MD5 of the tasks' ids, which every caller can
compute.

So the response to ``get_work`` carries a signed id, ``<id>.<HMAC>.<task>``, over upstream,
identity, family, id and one task of the batch. A worker sends back exactly what it got, with the
family (luigi/worker.py). Without this caller's signature the call is rejected; with it luigid gets
its own id again. The family is signed too, and a task id begins with its family, so a policy that
judges the task of the call judges the batch: a batch got under one role is not ended from another
family under the next.

A signature says that the caller had such a batch once. By the task luigid is asked whether it still
has it (`proxy.protocol.luigi.task_reports`).
"""

import hmac
import json

from proxy.errors import Rejected
from proxy.model import Principal, Reason, Value

# Hexadecimal digits of the HMAC in a signed id: 128 bits.
_DIGITS = 32


def derive_batch_key(secret: bytes) -> bytes:
    """Derive the key for batch ids from a `secret` that has other uses too."""
    return hmac.digest(secret, b"callgate batch ids", "sha256")


class BatchIdSigner:
    """A signer and verifier of the batch ids of one upstream."""

    def __init__(self, key: bytes, upstream: str) -> None:
        """`key` is secret; `upstream` is the name of the luigid that makes the ids."""
        self._key = key
        self._upstream = upstream

    def sign(self, principal: Principal, family: str, batch_id: str, task_id: str) -> str:
        """Return the id that `principal` gets in place of `batch_id`.

        The batch is of `family`, and `task_id` is one of its tasks.
        """
        return f"{batch_id}.{self._digest(principal, family, batch_id, task_id)}.{task_id}"

    def verify(self, principal: Principal, family: Value, signed: Value) -> None:
        """Raise `Rejected` unless `principal` got `signed`, for a batch of `family`."""
        if isinstance(signed, str) and isinstance(family, str):
            batch_id, _, rest = signed.partition(".")
            digest, _, task_id = rest.partition(".")
            if hmac.compare_digest(
                digest.encode(errors="replace"),
                self._digest(principal, family, batch_id, task_id).encode("ascii"),
            ):
                return
        raise Rejected(
            Reason.NOT_YOUR_WORKER,
            "get_work gave this identity no such batch_id for this family",
        )

    def _digest(self, principal: Principal, family: str, batch_id: str, task_id: str) -> str:
        parts = [self._upstream, principal.issuer_name, principal.subject]
        parts += [family, batch_id, task_id]
        return hmac.digest(self._key, json.dumps(parts).encode("ascii"), "sha256").hex()[:_DIGITS]


def luigid_batch_id(signed: str) -> str:
    """Return luigid's own id out of a verified one. It is hexadecimal, without a point."""
    return signed.partition(".")[0]


def batch_member(signed: str) -> str:
    """Return a task of the batch out of a verified id."""
    return signed.partition(".")[2].partition(".")[2]
