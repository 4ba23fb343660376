"""Ids that are unique and follow the order of arrival."""

import re

from proxy.edge.server.request_ids import new_request_id_source


def test_ids_are_sixteen_characters_of_base32() -> None:
    """A user can read an id out; it has no 0, 1, 8 or 9."""
    assert re.fullmatch(r"[A-Z2-7]{16}", new_request_id_source()())


def test_ids_of_a_process_share_their_start_and_are_ordered() -> None:
    """The order is that of the base32 alphabet, in which letters come before digits."""
    next_id = new_request_id_source()
    ids = [next_id() for _ in range(3000)]
    assert len({name[:8] for name in ids}) == 1
    digits_last = str.maketrans("234567", "[\\]^_`")
    assert sorted(ids, key=lambda name: name.translate(digits_last)) == ids
    assert len(set(ids)) == 3000


def test_two_processes_share_no_ids() -> None:
    """The random start of an id tells them apart."""
    first, second = new_request_id_source(), new_request_id_source()
    assert first()[:8] != second()[:8]
