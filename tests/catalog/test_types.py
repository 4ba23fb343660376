import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.catalog.types import MAX_DEPTH, TYPES, without_markup
from proxy.model import DateTime, Value

NAN = math.nan
INF = math.inf


def deep(levels: int) -> Value:
    """Nest a list `levels` deep."""
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
    ("amount", 0),
    ("number", INF),
    ("number", 1),
    ("number", -0.5),
    ("finite", 2.5),
    ("positive", INF),
    ("positive", 1),
    ("strings", []),
    ("strings", ["a", "b"]),
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
    ("worker", "Worker(salt=000000001, workers=1, host=db-1.example, username=ann, pid=4711)"),
    ("worker", "Worker(salt=1, workers=1, host=bücher, username=анна, pid=1)"),
    ("listed-worker", "Worker(salt=1) [local:" + "x" * 700 + "]"),
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
    ("markup-free", "1 < 2 && a<3, <- <= 100% \u2264"),
    ("markup-free", None),
    ("markup-free", {"a": ["x < y", 1, True]}),
]

REFUSED: list[tuple[str, Value]] = [
    ("string", 1),
    ("string", b"x"),
    ("boolean", 1),
    ("integer", True),
    ("integer", 1.0),
    ("integer", 1 << 63),
    ("amount", -1),
    ("amount", True),
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
    ("strings", "ab"),
    ("strings", ["a", None]),
    ("object", []),
    ("json", NAN),
    ("json", b"x"),
    ("json", [DateTime("20240101T00:00:00")]),
    ("json", deep(MAX_DEPTH + 1)),
    ("family", "<script>alert(1)</script>"),
    ("family", "a b"),
    ("family", "a\n"),
    ("family", "x" * 257),
    ("family", 5),
    ("task-id", ""),
    ("task-id", 5),
    ("task-id", 'a"b'),
    ("task-id", "a<b"),
    ("task-id", "a\x00b"),
    ("task-id", "a\ud800"),
    ("task-id", "a\u202eb"),
    ("task-id", "x" * 1025),
    ("task-ids", ["a", 1]),
    ("task-ids", {"a": 1}),
    ("task-ids", [["a"]]),
    ("module", ""),
    ("module", "os; import x"),
    ("module", "..etc"),
    ("module", "a.b\n"),
    ("module", "a/b"),
    ("worker", ""),
    ("worker", "a\nb"),
    ("worker", "<img src=x>"),
    ("worker", "x" * 257),
    ("worker", ["w"]),
    ("worker", "w [local:ann]"),
    ("worker", "w[0]"),
    ("worker", " w"),
    ("worker", "w "),
    ("worker", "w\u00a0"),
    ("worker", "w \uff3blocal:ann\uff3d"),
    ("worker", "w \u27e6local:ann\u27e7"),
    ("worker", "w\u2236x"),
    ("listed-worker", "it's"),
    ("one-line", "a\nb"),
    ("status", ""),
    ("status", "done"),
    ("status", ["DONE"]),
    ("status-filter", "UPSTREAM_FAILED"),
    ("upstream-status-filter", "DONE"),
    ("url", "javascript:alert(1)"),
    ("url", " https://x"),
    ("url", 'https://x/"onclick="y'),
    ("url", "https://x/\ny"),
    ("url", "data:text/html,x"),
    ("url", "https://"),
    ("resource", ""),
    ("resource", "a'b"),
    ("resources", {"a": "x"}),
    ("resources", {"a": True}),
    ("resources", {"a": -1}),
    ("resources", {"a": INF}),
    ("resources", {"<b>": 1}),
    ("resources", [["a", 1]]),
    ("params", {"a": ["x"]}),
    ("params", {"a": INF}),
    ("params", {"<b>": "x"}),
    ("params", "x"),
    ("visibilities", {"a": 3}),
    ("visibilities", {"a": True}),
    ("visibilities", {"a": "0"}),
    ("retry-policy", {"other": 1}),
    ("retry-policy", {"retry_count": "x"}),
    ("retry-policy", {"retry_count": True}),
    ("worker-info", {"name": "x"}),
    ("worker-info", {"task_id": "x"}),
    ("worker-info", {"assistant": True}),
    ("worker-info", {"workers": "many"}),
    ("worker-info", {"workers": True}),
    ("worker-info", {"host": ["x"]}),
    ("worker-info", {"host": INF}),
    ("worker-info", [["a"]]),
    ("worker-info", [["a", 1, 2]]),
    ("worker-info", [[1, 2]]),
    ("worker-info", ["ab"]),
    ("worker-info", "x"),
    ("markup-free", "<script>"),
    ("markup-free", "a</b"),
    ("markup-free", "<!--"),
    ("markup-free", "<?x"),
    ("markup-free", ["x", "<img src=x onerror=y>"]),
    ("markup-free", {"<b>": 1}),
    ("markup-free", {"a": {"b": "<b>"}}),
    ("markup-free", INF),
    ("markup-free", deep(MAX_DEPTH + 1)),
]


@pytest.mark.parametrize(("name", "value"), ACCEPTED)
def test_a_type_accepts_what_stock_clients_send(name: str, value: Value) -> None:
    """Each type accepts what an unmodified client sends in such an argument."""
    accepts = TYPES[name].accepts
    assert value is None or accepts(value)


@pytest.mark.parametrize(("name", "value"), REFUSED)
def test_a_type_refuses_what_breaks_a_scheduler(name: str, value: Value) -> None:
    """Each type refuses values that the scheduler would fail on, or show to a browser as markup,
    and JSON true for a number.
    """
    assert not TYPES[name].accepts(value)


@pytest.mark.parametrize(
    ("name", "value"), [row for row in ACCEPTED + REFUSED if row[1] is not None]
)
def test_what_a_python_type_settles_is_accepted(name: str, value: Value) -> None:
    """`settled` saves a question only where the answer is always yes."""
    assert TYPES[name].accepts(value) or type(value) not in TYPES[name].settled


@pytest.mark.parametrize("name", TYPES)
@given(
    value=st.sampled_from([row[1] for row in ACCEPTED + REFUSED])
    | st.integers()
    | st.sampled_from([1 << 63, -1 << 63, (1 << 63) - 1])
)
def test_what_is_known_to_be_good_is_accepted(name: str, value: Value) -> None:
    """`known` saves a question only where the answer is yes, whatever was asked before, and only
    for the type that it is for.
    """
    kind = TYPES[name]
    kind.accepts(value)
    assert value not in kind.known.get(type(value), ()) or kind.accepts(value)
    assert kind.known.keys() <= {str, int, list, dict}


def test_every_sign_in_an_id_is_judged_alike_alone_and_among_thousands() -> None:
    """A sign is fine when it can be printed and HTML does not read it: of all signs, in one id and
    in a list of ids.
    """
    for number in range(0x3000):
        sign = chr(number)
        fine = sign.isprintable() and sign not in "<>\"'`&"
        assert TYPES["task-id"].accepts("a" + sign) == fine, hex(number)
        assert TYPES["task-ids"].accepts(["a" + sign]) == fine, hex(number)


IDS = st.one_of(
    st.sampled_from(
        [
            "",
            "a",
            "b" * 1023,
            "b" * 1024,
            "b" * 1025,
            "c" * 3000,
            "\n",
            "a\nb",
            "\u00e9",
            "a<b",
            "\ud800",
        ]
    ),
    st.sampled_from([1, None, True, b"a", ["a"], {"a": 1}]),
    st.integers(1, 1100).map("d".__mul__),
)


@given(st.lists(IDS, max_size=12) | st.lists(st.integers(1, 1025).map("d".__mul__), max_size=12))
def test_a_list_of_ids_is_fine_when_each_is(ids: list[Value]) -> None:
    """All of them are looked at together, and judged as each would be."""
    assert TYPES["task-ids"].accepts(ids) == all(map(TYPES["task-id"].accepts, ids))


@pytest.mark.parametrize("place", [0, 500, 999])
@pytest.mark.parametrize("odd", ["", "x" * 1024, "x" * 1025, "a\nb", "\n", "<", "\u00e9", 1])
def test_one_odd_id_among_a_thousand_decides(place: int, odd: Value) -> None:
    """Wherever it stands."""
    ids: list[Value] = [f"etl.A_{number}" for number in range(1000)]
    assert TYPES["task-ids"].accepts(ids)
    ids[place] = odd
    assert TYPES["task-ids"].accepts(ids) == TYPES["task-id"].accepts(odd)


def test_every_type_is_tried_both_ways() -> None:
    """The two tables above cover every type, so that a new one cannot go untested."""
    assert {name for name, _ in ACCEPTED} == set(TYPES)
    assert {name for name, _ in REFUSED} == set(TYPES) - {"any"}


def test_phrases_are_one_ascii_line() -> None:
    """A phrase goes into a reply's reason phrase, where only one line of ASCII fits."""
    assert all(kind.phrase.isascii() and kind.phrase.isprintable() for kind in TYPES.values())


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("<class 'x'>", "&lt;class 'x'>"),
        ("</pre><script>", "&lt;/pre>&lt;script>"),
        (["<b>", {"k": "<i>"}], ["&lt;b>", {"k": "&lt;i>"}]),
        ({"<b>": 1}, {"&lt;b>": 1}),
    ],
)
def test_markup_is_made_into_text(value: Value, shown: Value) -> None:
    """Text that would start a tag is escaped, at any depth, and is then accepted as free of markup."""
    assert without_markup(value) == shown
    assert TYPES["markup-free"].accepts(without_markup(value))


@pytest.mark.parametrize("value", ["a < b", None, 5, ["x"], {"a": "b"}, deep(MAX_DEPTH + 5)])
def test_values_without_markup_stay_the_same_object(value: Value) -> None:
    """Nothing is copied or changed where there is no markup, or where the type will refuse the
    depth anyway.
    """
    assert without_markup(value) is value or without_markup(value) == value
