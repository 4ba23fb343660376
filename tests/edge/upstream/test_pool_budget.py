"""Answers that are gathered count against the memory budget until they are handed over."""

import asyncio
from dataclasses import replace

import pytest

from proxy.common.memory_budget import MemoryBudget
from proxy.edge.upstream.address import UpstreamAddress
from tests.support.edge_server import until
from tests.support.loops import both_loops
from tests.support.scripted_upstream import (
    HEAD_200,
    RECEIPT,
    WRITE,
    Conversation,
    pool_to,
    scripted_upstream,
)

SIZE = 4_000_000
LONG = replace(WRITE, max_buffered=16 << 20)


@both_loops
@pytest.mark.parametrize("ends", ["complete", "cut", "cancelled"])
async def test_an_answer_counts_while_it_is_gathered(ends: str) -> None:
    """However it ends, all of it is given back; what does not fit is counted all the same."""
    budget = MemoryBudget(1 << 20)
    go_on = asyncio.Event()

    async def script(conversation: Conversation) -> None:
        await conversation.read_request()
        await conversation.send(HEAD_200 + b"Content-Length: %d\r\n\r\n" % SIZE)
        await conversation.send(bytes(SIZE // 2))
        await go_on.wait()
        if ends == "complete":
            await conversation.send(bytes(SIZE // 2))
            await conversation.wait_closed()

    async with (
        scripted_upstream(script) as scripted,
        pool_to(UpstreamAddress(port=scripted.port), memory=budget.for_upstream("luigi")) as pool,
    ):
        call = asyncio.ensure_future(pool.forward(RECEIPT, LONG))
        await until(lambda: budget.in_use == SIZE // 2)
        if ends == "cancelled":
            call.cancel()
        go_on.set()
        [result] = await asyncio.gather(call, return_exceptions=True)
        if ends == "complete":
            assert not isinstance(result, BaseException)
            assert len(result.body) == SIZE
        await until(lambda: budget.in_use == 0)
