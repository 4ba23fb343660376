"""Places that are shared out between principals, by the events and in their order; nothing here
waits for a clock.
"""

import asyncio
import contextlib
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.edge.upstream.fair_semaphore import FairSemaphore
from proxy.errors import Unavailable
from proxy.model import Reason


def refusal() -> Unavailable:
    """What those hear for whom there is no room."""
    return Unavailable(Reason.OVERLOADED, retry_after=1)


def _note(order: list[str], turn: str, _: asyncio.Future[str]) -> None:
    order.append(turn)


def some(
    total: int = 2, *, each: int = 2, room: int = 100, patience: float = 60.0
) -> FairSemaphore:
    """Places."""
    return FairSemaphore(total, each=each, room=room, patience=patience, refusal=refusal)


async def test_a_free_place_is_had_at_once_and_can_be_had_again() -> None:
    """Nothing of whoever held it stays."""
    places = some(1, each=1)
    for name in ("a", "b", "a"):
        assert await places.wait(places.ask(name)) == name
        places.give_back(name)
    assert (places._held, places._lines, places._waiting) == ({}, {}, 0)


async def test_principals_have_their_turns_one_after_the_other() -> None:
    """Within each line first come first served; between lines it is everybody's turn once."""
    places = some(1)
    assert places.ask("x").done()
    turns = {turn: places.ask(turn[0]) for turn in ("a1", "a2", "a3", "b1", "b2", "c1")}
    order: list[str] = []
    for turn, future in turns.items():
        future.add_done_callback(partial(_note, order, turn))
    held = "x"
    for _ in range(len(turns)):
        places.give_back(held)
        await asyncio.sleep(0)
        held = order[-1][0]
    places.give_back(held)
    assert order == ["a1", "b1", "c1", "a2", "b2", "a3"]
    assert (places._held, places._lines, places._waiting, places._free) == ({}, {}, 0, 1)


async def test_one_principal_waits_while_there_are_places_for_others() -> None:
    """Beyond its share it has a place only when one of its own is given back."""
    places = some(3, each=2)
    assert [places.ask("a").done() for _ in range(3)] == [True, True, False]
    assert places.ask("b").done()
    [[waiting]] = places._lines.values()
    places.give_back("b")
    assert not waiting.done()
    places.give_back("a")
    assert waiting.result() == "a"


async def test_the_room_to_wait_has_bounds_for_one_and_for_all() -> None:
    """One principal fills half of it, two all of it; who is refused leaves no trace."""
    places = some(1, room=4)
    places.ask("x")
    for name, fits in (("a", 2), ("b", 2), ("c", 0)):
        for _ in range(fits):
            assert not places.ask(name).done()
        with pytest.raises(Unavailable):
            places.ask(name)
    assert places._waiting == 4
    with pytest.raises(Unavailable):
        some(0, room=0).ask("a")


async def test_who_has_waited_too_long_is_told_so_and_leaves_every_line() -> None:
    """Also the line of whoever joined."""
    places = some(1, patience=0.0)
    places.ask("x")
    turn = places.ask("a")
    for name in ("b", "b", "a"):
        places.join(turn, name)
    with pytest.raises(Unavailable) as caught:
        await places.wait(turn)
    assert caught.value.reason is Reason.OVERLOADED
    assert (places._lines, places._waiting) == ({}, 0)


async def test_a_turn_that_several_wait_for_comes_with_the_first_of_them_and_once() -> None:
    """It stands in the lines of all who joined it, and is held by the one whose turn it was."""
    places = some(1)
    places.ask("x")
    places.ask("a")
    shared = places.ask("a")
    places.join(shared, "b")
    last = places.ask("b")
    places.give_back("x")
    places.give_back("a")
    assert shared.result() == "b"
    places.join(shared, "c")  # too late: it has come
    assert list(places._lines) == ["b"]
    places.give_back("b")
    assert last.result() == "b"
    assert (places._lines, places._waiting) == ({}, 0)


@pytest.mark.parametrize("given", [False, True], ids=["before", "at the same moment"])
async def test_a_place_does_not_go_to_who_has_left(given: bool) -> None:
    """Whoever gives up before the turn comes, or just as it comes, leaves the place to the next."""
    places = some(1)
    places.ask("x")
    leaving = asyncio.ensure_future(places.wait(places.ask("a")))
    staying = asyncio.ensure_future(places.wait(places.ask("b")))
    await asyncio.sleep(0)
    if given:
        places.give_back("x")
        leaving.cancel()
    else:
        leaving.cancel()
        places.give_back("x")
    with pytest.raises(asyncio.CancelledError):
        await leaving
    assert await staying == "b"
    assert (places._held, places._lines, places._waiting) == ({"b": 1}, {}, 0)


@given(
    st.lists(
        st.tuples(
            st.sampled_from("abc"), st.sampled_from(["ask", "join", "leave", "give back", "turn"])
        ),
        max_size=60,
    )
)
def test_places_are_neither_lost_nor_doubled(steps: list[tuple[str, str]]) -> None:
    """Whatever happens in whatever order: all places are held or free, nobody has more than a
    share, and no free one is withheld.
    """

    async def main() -> None:
        places = some(3, each=2, room=6)
        calls: list[asyncio.Task[str]] = []
        turns = []
        held: list[str] = []
        for name, step in steps:
            if step == "ask":
                with contextlib.suppress(Unavailable):
                    turns.append(places.ask(name))
                    calls.append(asyncio.ensure_future(places.wait(turns[-1])))
                    await asyncio.sleep(0)  # it waits: nobody asks and does not
            elif step == "join" and turns:
                places.join(turns[-1], name)
            elif step == "leave" and calls:
                calls[-1].cancel()
            elif step == "give back" and name in held:
                held.remove(name)
                places.give_back(name)
            elif step == "turn":
                for _ in range(4):
                    await asyncio.sleep(0)
                for call in [call for call in calls if call.done()]:
                    calls.remove(call)
                    if not call.cancelled():
                        held.append(call.result())
                assert places._free == 3 - len(held)
                assert {name: held.count(name) for name in held} == places._held
                assert (
                    places._waiting
                    == len(calls)
                    == len({turn for line in places._lines.values() for turn in line})
                )
                if places._free:
                    assert all(held.count(name) == 2 for name in places._lines)
            assert places._free >= 0
            assert all(count <= 2 for count in places._held.values())
            assert len(held) <= 3
        for call in calls:
            call.cancel()
        for _ in range(4):
            await asyncio.sleep(0)

    asyncio.run(main())
