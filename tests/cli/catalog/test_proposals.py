import pytest

from proxy.cli.catalog.proposals import documented_arguments, propose_permission


@pytest.mark.parametrize(
    ("name", "proposal"),
    [
        ("get_users", ("view", "get")), ("list_jobs", ("view", "list")), ("is_up", ("view", "is")), ("getUsers", ("view", "get")),
        ("IsAlive", ("view", "Is")), ("supervisor.getState", ("view", "get")), ("a/b:status", ("view", "status")),
        ("ping", ("work", "ping")), ("start_job", ("trigger", "start")), ("aria2.addUri", ("admin", "add")),
        ("delete_job", ("admin", "delete")), ("frobnicate", None), ("_", None), ("...", None), ("getter", None), ("island", None),
        ("RPCVersion", None), ("xapi_object_edit", None),
    ],
)  # fmt: skip
def test_a_permission_goes_by_the_first_word(name: str, proposal: tuple[str, str] | None) -> None:
    """Of the last part of the name; a word that only begins like one is another word."""
    assert propose_permission(name) == proposal


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Start.\n\n@param string name  the job\n@param int   tries\n@return boolean", [("name", "string"), ("tries", "int")]),
        (":param str name: the job\n:param tries: how often", [("name", "str"), ("tries", "")]),
        ("@param string a\n@param string a", []), ("no arguments", []), ("", []), ("@param string 1x", []),
    ],
)  # fmt: skip
def test_documented_arguments_are_read(text: str, expected: list[tuple[str, str]]) -> None:
    """As supervisord and Sphinx write them."""
    assert documented_arguments(text) == expected
