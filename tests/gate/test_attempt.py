"""The memory of one request: what counts, when it is reserved, and that all of it comes back."""

import gzip
from dataclasses import replace

import pytest

from proxy.catalog.loading import load_catalog
from proxy.common.memory_budget import (
    FREE_BYTES,
    SMALL_BYTES,
    WRITE_BYTES,
    MemoryBudget,
    Reservation,
    decoding_bytes,
)
from proxy.errors import Unavailable
from proxy.gate.attempt import Attempt
from proxy.model import Peer, Principal, Reason, Request, Response
from proxy.protocol.luigi.api import LuigiApi
from proxy.protocol.luigi.batch_ids import BatchIdSigner
from proxy.protocol.xmlrpc.server import XmlRpcServer
from tests.support.paths import ROOT

PEER = Peer("127.0.0.1", 4711, None, "test")
PRINCIPAL = Principal("https://issuer", "local", "alice", ("worker",))
CATALOGS = ROOT / "policies" / "catalogs"
LUIGI = LuigiApi(
    "luigi",
    load_catalog(CATALOGS / "luigi.toml"),
    batch_ids=BatchIdSigner(bytes(32), "luigi"),
)
PROCESSES = XmlRpcServer(
    "processes",
    load_catalog(CATALOGS / "supervisor.toml"),
    "/RPC2",
    max_batch_calls=10,
    body_bytes=16 << 20,
)
MIB = 1 << 20


def request(body: bytes = b"", **headers: bytes) -> Request:
    """Return a POST that came with its body."""
    named = {name.replace("_", "-").encode(): value for name, value in headers.items()}
    return Request("id", "POST", "/api/ping", None, named, body, PEER)


async def no_more(memory: Reservation | None = None) -> bytes:
    """Fail: the body is there."""
    raise AssertionError("the body was complete")


def test_an_ordinary_call_needs_no_memory() -> None:
    """Nothing is reserved for the bodies that stock workers send."""
    budget = MemoryBudget()
    assert not Attempt(request(bytes(FREE_BYTES)), budget).needs_memory
    assert Attempt(request(bytes(FREE_BYTES + 1)), budget).needs_memory
    assert Attempt(replace(request(), head_bytes=60_000), budget).needs_memory
    assert Attempt(replace(request(), body_complete=False), budget).needs_memory


async def test_a_small_body_that_inflates_to_a_large_one_counts() -> None:
    """2 MiB in 2 kB of gzip are reserved before a byte of them is inflated."""
    budget = MemoryBudget(64 * MIB)
    body = gzip.compress(b"x" * (2 * MIB - 1), 9)
    assert len(body) <= 2 * FREE_BYTES
    attempt = Attempt(request(body[:FREE_BYTES], content_encoding=b"gzip"), budget)
    assert attempt.needs_memory
    attempt = Attempt(request(body, content_encoding=b"gzip"), budget)
    await attempt.claim_body(PRINCIPAL, PROCESSES, no_more)
    assert budget.in_use == len(body) + decoding_bytes(2 * MIB - 1)
    attempt.release()
    assert budget.in_use == 0


async def test_what_decoding_takes_is_reserved_before_it() -> None:
    """For an identified caller; a body for which there is no memory is refused at once."""
    budget = MemoryBudget(32 * MIB)
    attempt = Attempt(request(bytes(MIB)), budget)
    await attempt.claim_body(PRINCIPAL, LUIGI, no_more)
    assert budget.held_by_principal(PRINCIPAL.name) == MIB + decoding_bytes(MIB)
    with pytest.raises(Unavailable) as caught:
        await Attempt(request(bytes(MIB)), budget).claim_body(PRINCIPAL, LUIGI, no_more)
    assert caught.value.reason is Reason.OVERLOADED
    attempt.release()
    assert budget.in_use == 0


async def test_a_refused_body_gives_its_memory_back() -> None:
    """Also what was reserved while it was read."""
    budget = MemoryBudget(32 * MIB)
    attempt = Attempt(replace(request(), body_complete=False), budget)

    async def read_body(memory: Reservation | None = None) -> bytes:
        assert memory is not None
        memory.resize(8 * MIB)
        return bytes(8 * MIB)

    with pytest.raises(Unavailable):
        await attempt.claim_body(PRINCIPAL, LUIGI, read_body)
    assert budget.in_use == 8 * MIB
    attempt.release()
    assert budget.in_use == 0


def attempted(budget: MemoryBudget) -> Attempt:
    """Return an attempt whose caller is identified."""
    attempt = Attempt(request(), budget)
    attempt.principal = PRINCIPAL
    return attempt


def test_an_answer_is_held_until_it_is_sent() -> None:
    """The response owns its memory from the moment in which the gate returns it."""
    budget = MemoryBudget()
    attempt = attempted(budget)
    response = Response(200, bytes(MIB))
    attempt.hold_answer(response, forced=False)
    response = attempt.hand_over(response)
    attempt.release()
    assert budget.held_by_principal(PRINCIPAL.name) == MIB + WRITE_BYTES
    assert response.on_sent is not None
    response.on_sent()
    assert budget.in_use == 0


def test_a_small_answer_is_free() -> None:
    """Its response is the very object that the codec made."""
    attempt = attempted(MemoryBudget())
    response = Response(200, bytes(FREE_BYTES))
    attempt.hold_answer(response, forced=False)
    assert attempt.hand_over(response) is response


def test_the_answer_to_a_read_is_refused_and_that_to_a_write_is_not() -> None:
    """A write has had its effect: its caller must learn of it."""
    budget = MemoryBudget(MIB)
    response = Response(200, bytes(MIB))
    with pytest.raises(Unavailable):
        attempted(budget).hold_answer(response, forced=False)
    attempted(budget).hold_answer(response, forced=True)
    assert budget.in_use > MIB


def test_the_answers_of_a_batch_count_with_what_decoding_them_takes() -> None:
    """They are gathered before the response is made of them."""
    budget = MemoryBudget()
    attempt = attempted(budget)
    attempt.hold_results(SMALL_BYTES)
    assert budget.in_use == SMALL_BYTES + decoding_bytes(SMALL_BYTES)
    attempt.release()
    assert budget.in_use == 0
