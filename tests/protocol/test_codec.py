import pytest

from proxy.errors import Rejected
from proxy.model import Call, Reason, Response
from proxy.protocol.codec import ByteBudget, OneCallCodec


async def test_a_codec_of_single_calls_has_no_batches_and_nothing_of_its_own() -> None:
    """What the pipeline never asks of it is an internal error, not a wrong answer."""
    codec = OneCallCodec()
    call = Call("luigi", "luigi", "ping", "work", {})
    with pytest.raises(Rejected) as caught:
        codec.introspect(call, lambda name: True)
    assert caught.value.reason is Reason.INTERNAL_ERROR
    with pytest.raises(Rejected):
        codec.render_batch([])
    with pytest.raises(Rejected):
        await codec.read_result(Response(200), ByteBudget(), "ref")


def test_the_responses_of_a_batch_share_one_budget() -> None:
    """One byte over it is too complex, however many calls there were."""
    budget = ByteBudget(10)
    budget.spend(6)
    budget.spend(4)
    with pytest.raises(Rejected) as caught:
        budget.spend(1)
    assert caught.value.reason is Reason.CALL_TOO_COMPLEX
