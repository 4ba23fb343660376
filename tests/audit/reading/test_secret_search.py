from pathlib import Path

from proxy.audit.reading.records import members_of
from proxy.audit.reading.secret_search import find_secret
from proxy.audit.writing.keys import load_hmac_key
from tests.support.audit import call, one, open_journal, raw_lines


async def test_a_suspected_value_is_found_where_it_is(tmp_path: Path) -> None:
    """The records that hold a withheld value are found, with the argument's place, though the log
    does not hold it.
    """
    journal = open_journal(tmp_path)
    await one(
        journal,
        1,
        lambda: call(password="hunter2", params={"api_key": "x", "list": [{"token": "hunter2"}]}),
    )
    await one(journal, 2, lambda: call(password="other", pin=1234))
    await journal.close()
    key = load_hmac_key(tmp_path)
    assert b"hunter2" not in b"".join(raw_lines(tmp_path / "gate"))
    assert [(members_of(item.raw)["id"], place) for item, place in find_secret(tmp_path, key, "hunter2")] == [
        ("call-1", "password"), ("call-1", "params.list[0].token"),
    ]  # fmt: skip
    assert [members_of(item.raw)["id"] for item, _ in find_secret(tmp_path, key, "1234")] == [
        "call-2"
    ]
    assert not list(find_secret(tmp_path, key, "hunter"))
    assert not list(find_secret(tmp_path, b"other key", "hunter2"))
