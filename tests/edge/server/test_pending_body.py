"""A body that is read from the socket only when the handler asks for it."""

import asyncio

import pytest

from proxy.edge.server.pending_body import PendingBody
from proxy.errors import Rejected
from proxy.model import Reason


def pending() -> tuple[PendingBody, list[None]]:
    """Return a body, and a list that grows with each request for it."""
    requests: list[None] = []
    future: asyncio.Future[bytes | Rejected] = asyncio.get_running_loop().create_future()
    return PendingBody(future, lambda: requests.append(None)), requests


async def test_the_body_is_requested_once() -> None:
    """Two reads give the same body, and the socket is asked once."""
    body, requests = pending()
    assert not body.requested
    reads = [asyncio.ensure_future(body.read()) for _ in range(2)]
    await asyncio.sleep(0)
    assert (body.requested, body.complete, len(requests)) == (True, False, 1)
    body.resolve(b"abc")
    assert await asyncio.gather(*reads) == [b"abc", b"abc"]
    assert body.complete


async def test_a_body_that_has_arrived_is_not_requested() -> None:
    """The socket has nothing more of it."""
    body, requests = pending()
    body.resolve(b"abc")
    assert await body.read() == b"abc"
    assert not requests


async def test_a_rejected_body_is_not_complete() -> None:
    """The first result counts, and each read raises it."""
    body, _ = pending()
    body.resolve(Rejected(Reason.CLIENT_GONE))
    body.resolve(b"abc")
    assert not body.complete
    for _ in range(2):
        with pytest.raises(Rejected):
            await body.read()
