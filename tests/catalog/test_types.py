import math

import pytest

from proxy.catalog.json_types import MAX_DEPTH
from proxy.catalog.types import TYPES
from proxy.model import DateTime, Value

NAN = math.nan
INF = math.inf


def deep(levels: int) -> Value:
    """Return a list nested `levels` deep."""
    value: Value = "x"
    for _ in range(levels):
        value = [value]
    return value


ACCEPTED: list[tuple[str, Value]] = [
    ("string", ""),
    ("string", "any text\nat all"),
    ("boolean", True),
    ("boolean", False),
    ("integer", 0),
    ("integer", -(1 << 63)),
    ("integer", (1 << 63) - 1),
    ("unsigned", 0),
    ("number", INF),
    ("number", 1),
    ("number", -0.5),
    ("finite", 2.5),
    ("positive", INF),
    ("positive", 1),
    ("string-list", []),
    ("string-list", ["a", "b"]),
    ("object", {}),
    ("json", {"a": [1, None, {"b": INF}]}),
    ("json", deep(MAX_DEPTH)),
    ("any", DateTime("20240101T00:00:00")),
    ("family", ""),
    ("family", "etl.Übersicht_2"),
    ("task-id", "etl.Fam__99914b932b"),
    ("task-id", "Fam(date=2024-01-01)"),
    ("task-id", "ключ_1"),
    ("task-ids", ["a_1", "b_2"]),
    ("module", "__main__"),
    ("module", "pipelines.etl_2.my-module"),
    ("worker-id", "Worker(salt=000000001, workers=1, host=db-1.example, username=ann, pid=4711)"),
    ("worker-id", "Worker(salt=1, workers=1, host=bücher, username=анна, pid=1)"),
    ("suffixed-worker-id", "Worker(salt=1) [local:" + "x" * 700 + "]"),
    ("one-line", "0cc175b9c0f1b6a831c399e269772661"),
    ("status", "PENDING"),
    ("status", "BATCH_RUNNING"),
    ("status-filter", ""),
    ("status-filter", "DONE"),
    ("upstream-status-filter", ""),
    ("upstream-status-filter", "UPSTREAM_FAILED"),
    ("url", ""),
    ("url", "https://spark.example:4040/jobs?id=1&x=%20#top"),
    ("url", "HTTP://example"),
    ("resource", "db.slots_2"),
    ("resources", {}),
    ("resources", {"db": 1, "disk_gb": 0.5}),
    ("params", {"date": "<b>2024</b>", "n": None, "x-y": 1}),
    ("visibilities", {"a": 0, "b": 2}),
    ("retry-policy", {"retry_count": 3, "disable_hard_timeout": None, "disable_window": 3600.0}),
    ("worker-info", {"workers": 4}),
    ("worker-info", [["salt", "1"], ["workers", 0], ["first_task", None], ["pid", 3]]),
    ("no-markup", "1 < 2 && a<3, <- <= 100% \u2264"),
    ("family", "a b"),
    ("task-id", 'a"b'),
    ("worker-id", "a\nb"),
    ("worker-id", "<img src=x>"),
    ("worker-id", "w[0]"),
    ("worker-id", " w"),
    ("worker-id", "w "),
    ("worker-id", "w\u00a0"),
    ("worker-id", "w \uff3blocal:ann\uff3d"),
    ("worker-id", "w \u27e6local:ann\u27e7"),
    ("worker-id", "w\u2236x"),
    ("suffixed-worker-id", "it's"),
    ("url", " https://x"),
    ("url", 'https://x/"onclick="y'),
    ("url", "https://x/\ny"),
    ("url", "https://"),
    ("resource", ""),
    ("resource", "a'b"),
    ("resources", {"a": True}),
    ("params", {"a": ["x"]}),
    ("params", {"<b>": "x"}),
    ("retry-policy", {"retry_count": True}),
    ("worker-info", {"workers": True}),
    ("worker-info", {"host": ["x"]}),
    ("search", {"date": "<b>"}),
    ("flag", True),
    ("priority", -(10**30)),
    ("priority", True),
    ("progress", "half"),
    ("any-number", NAN),
    ("any-number", -INF),
    ("no-markup", None),
    ("no-markup", {"a": ["x < y", 1, True]}),
]

REFUSED: list[tuple[str, Value]] = [
    ("string", 1),
    ("string", b"x"),
    ("boolean", 1),
    ("integer", True),
    ("integer", 1.0),
    ("integer", 1 << 63),
    ("unsigned", -1),
    ("unsigned", True),
    ("number", NAN),
    ("number", "1"),
    ("number", False),
    ("finite", INF),
    ("finite", NAN),
    ("finite", True),
    ("finite", "abc"),
    ("positive", 0),
    ("positive", True),
    ("positive", NAN),
    ("string-list", "ab"),
    ("string-list", ["a", None]),
    ("object", []),
    ("json", NAN),
    ("json", b"x"),
    ("json", [DateTime("20240101T00:00:00")]),
    ("json", deep(MAX_DEPTH + 1)),
    ("family", "<script>alert(1)</script>"),
    ("family", "a\n"),
    ("family", "x" * 1025),
    ("family", 5),
    ("task-id", ""),
    ("task-id", 5),
    ("task-id", "a<b"),
    ("task-id", "a\x00b"),
    ("task-id", "a\ud800"),
    ("task-id", "a\u202eb"),
    ("task-id", "x" * 2049),
    ("task-ids", ["a", 1]),
    ("task-ids", {"a": 1}),
    ("task-ids", [["a"]]),
    ("module", ""),
    ("module", "os; import x"),
    ("module", "..etc"),
    ("module", "a.b\n"),
    ("module", "a/b"),
    ("worker-id", ""),
    ("worker-id", "x" * 1025),
    ("worker-id", ["w"]),
    ("worker-id", "w [local:ann]"),
    ("one-line", "a\nb"),
    ("status", ""),
    ("status", "done"),
    ("status", ["DONE"]),
    ("status-filter", "UPSTREAM_FAILED"),
    ("upstream-status-filter", "DONE"),
    ("url", "javascript:alert(1)"),
    ("url", "data:text/html,x"),
    ("resources", {"a": "x"}),
    ("resources", {"a": -1}),
    ("resources", {"a": INF}),
    ("resources", {"<b>": 1}),
    ("resources", [["a", 1]]),
    ("params", {"a": INF}),
    ("params", "x"),
    ("visibilities", {"a": 3}),
    ("visibilities", {"a": True}),
    ("visibilities", {"a": "0"}),
    ("retry-policy", {"other": 1}),
    ("retry-policy", {"retry_count": "x"}),
    ("worker-info", {"name": "x"}),
    ("worker-info", {"task_id": "x"}),
    ("worker-info", {"assistant": True}),
    ("worker-info", {"workers": "many"}),
    ("worker-info", {"host": INF}),
    ("worker-info", [["a"]]),
    ("worker-info", [["a", 1, 2]]),
    ("worker-info", [[1, 2]]),
    ("worker-info", ["ab"]),
    ("worker-info", "x"),
    ("family", "<b>"),
    ("family", "a\u2028b"),
    ("suffixed-worker-id", "a\nb"),
    ("url", " java\nscript:x"),
    ("url", "VBScript:x"),
    ("url", 5),
    ("resource", "<b>"),
    ("resource", "\udcff"),
    ("resource", "x" * 1025),
    ("resources", {"a": NAN}),
    ("resources", {"a": 1 << 1001}),
    ("params", {"a": ["x", {"b": NAN}]}),
    ("retry-policy", {"retry_count": 10**400}),
    ("worker-info", {"host": ["x", INF]}),
    ("search", {"a": {"b": 1}}),
    ("search", {"<b>": 1}),
    ("flag", 1),
    ("priority", INF),
    ("priority", NAN),
    ("priority", "1"),
    ("progress", NAN),
    ("progress", [INF]),
    ("any-number", "1"),
    ("any-number", 10**400),
    ("no-markup", "<script>"),
    ("no-markup", "a</b"),
    ("no-markup", "<!--"),
    ("no-markup", "<?x"),
    ("no-markup", ["x", "<img src=x onerror=y>"]),
    ("no-markup", {"<b>": 1}),
    ("no-markup", {"a": {"b": "<b>"}}),
    ("no-markup", INF),
    ("no-markup", deep(MAX_DEPTH + 1)),
]


@pytest.mark.parametrize(("name", "value"), ACCEPTED)
def test_a_type_accepts_what_stock_clients_send(name: str, value: Value) -> None:
    """Each type accepts what an unmodified client sends in such an argument."""
    accepts = TYPES[name].accepts
    assert value is None or accepts(value)


@pytest.mark.parametrize(("name", "value"), REFUSED)
def test_a_type_refuses_values_that_break_a_scheduler(name: str, value: Value) -> None:
    """Each type refuses values that the scheduler fails on or shows to a browser as markup, and
    JSON true for a number.
    """
    assert not TYPES[name].accepts(value)


def test_every_type_has_rows_in_both_tables() -> None:
    """The two tables cover every type, so no new one goes untested."""
    assert {name for name, _ in ACCEPTED} == set(TYPES)
    assert {name for name, _ in REFUSED} == set(TYPES) - {"any"}


def test_phrases_are_one_ascii_line() -> None:
    """A phrase goes into the reason phrase of a response, which is one line of ASCII."""
    assert all(kind.phrase.isascii() and kind.phrase.isprintable() for kind in TYPES.values())
