"""Batch ids of luigid, bound to the identity that they were given to.

luigid runs tasks of one family together under a batch id, and whoever states that id in an
``add_task`` ends the whole batch: its tasks become DONE or FAILED with the stated one, whatever the
caller may do with them by name (luigi/scheduler.py). The id is the MD5 of the tasks' ids, which
anybody can compute.

So in the answer to ``get_work`` the gate seals it: ``<id>.<HMAC>``, over upstream, identity, family
and id. A worker sends back exactly what it got, with the family (luigi/worker.py); without this
caller's seal the call is refused, and with it luigid gets its own id again. The family is in the
seal, and a task id goes on after its family, so a policy that judges the task of the call judges
the batch: a batch got under one role is not ended from another family under the next.

The key has to be the same in all processes and after a restart, since a batch outlives both.
"""

import hmac
import json

from proxy.errors import Rejected
from proxy.model import Principal, Reason, Value

_DIGITS = 32  # 128 bits of the HMAC


def derive_batch_key(secret: bytes) -> bytes:
    """Derive the key for batch ids from a `secret` that also has other uses."""
    return hmac.digest(secret, b"callgate batch ids", "sha256")


class BatchIdSigner:
    """Seals and opens the batch ids of one upstream."""

    def __init__(self, key: bytes, upstream: str) -> None:
        """`key` is secret; `upstream` is the name of the luigid that makes the ids."""
        self._key = key
        self._upstream = upstream

    def sign(self, principal: Principal, family: str, batch_id: str) -> str:
        """What `principal` is told in place of `batch_id`, an id of a batch of `family`."""
        return f"{batch_id}.{self._digest(principal, family, batch_id)}"

    def verify(self, principal: Principal, family: Value, sealed: Value) -> str:
        """The batch id in `sealed`. Raises `Rejected` unless `principal` was given it, for a batch
        of `family`.
        """
        if isinstance(sealed, str) and isinstance(family, str):
            batch_id, _, digest = sealed.rpartition(".")
            if hmac.compare_digest(
                digest.encode(errors="replace"),
                self._digest(principal, family, batch_id).encode("ascii"),
            ):
                return batch_id
        raise Rejected(
            Reason.NOT_YOUR_WORKER,
            "the batch_id is none that get_work gave this identity for this family",
        )

    def _digest(self, principal: Principal, family: str, batch_id: str) -> str:
        parts = [self._upstream, principal.issuer_name, principal.subject, family, batch_id]
        return hmac.digest(self._key, json.dumps(parts).encode("ascii"), "sha256").hex()[:_DIGITS]
