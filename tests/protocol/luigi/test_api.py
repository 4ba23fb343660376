import contextlib
import gzip
import json
import math
import re
import string
from typing import Any
from urllib.parse import unquote_to_bytes, urlencode

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tornado.escape import json_decode
from tornado.httputil import parse_body_arguments

from proxy.catalog.checking import check_arguments, make_harmless
from proxy.catalog.loading import load_catalog
from proxy.errors import REASONS, Rejected, Unavailable
from proxy.model import Call, Peer, Principal, Reason, Request, UpstreamResponse
from proxy.protocol.catalog_call import MAX_RELATED_TASKS, bind_worker, worker_suffix
from proxy.protocol.luigi.api import LuigiApi, accepts_gzip
from proxy.protocol.luigi.batch_ids import (
    BatchIdSigner,
    batch_member,
    derive_batch_key,
    luigid_batch_id,
)
from proxy.protocol.luigi.calls import WORKER_SHUTDOWN, encode, make_call
from proxy.protocol.luigi.worker_identity import rewrite_worker_answer
from proxy.protocol.refusal import Refusal
from proxy.protocol.strict_json import parse_strict
from tests.bench.calls import MEDIUM, PING
from tests.bench.calls import make as bench_call
from tests.support.paths import ROOT

CATALOG = load_catalog(ROOT / "policies" / "catalogs" / "luigi.toml")
BATCHES = BatchIdSigner(b"k" * 32, "luigi")
API = LuigiApi("luigi", CATALOG, batch_ids=BATCHES)
FORM = b"application/x-www-form-urlencoded"
ALICE = Principal("https://idp.example", "okta", "alice", ("worker",))
MARK = " [okta:alice]"
WORKER = "Worker(salt=123, workers=1, host=h, username=u, pid=7)"
JSON = {b"content-type": b"application/json; charset=UTF-8"}


def request(
    path: str = "/api/task_list",
    query: str | None = None,
    body: bytes = b"",
    verb: str = "POST",
    kind: bytes | None = FORM,
    headers: dict[bytes, bytes] | None = None,
) -> Request:
    """One request as the edge hands it over."""
    sent = {b"host": b"localhost", **(headers or {})}
    if body and kind is not None:
        sent[b"content-type"] = kind
    return Request("ID", verb, path, query, sent, body, Peer("127.0.0.1", 1, "TLSv1.3", ""))


def form(**args: Any) -> bytes:
    """The body of a stock worker's call."""
    return urlencode({"data": json.dumps(args)}).encode()


def decode(sent: Request) -> Call:
    """The call in a request at an upstream without a prefix."""
    (call,) = API.decode(sent, sent.path, ALICE).calls
    return call


@pytest.mark.parametrize("query", ["data=%7B%7D&_=1700000000000", "_=1700000000000"])
def test_a_view_may_have_a_cache_buster(query: str) -> None:
    """jQuery's ``cache: false``, and its kin; on what acts it stays refused."""
    sent = request("/api/task_list", verb="GET", query=query)
    assert decode(sent).args == {}
    assert refused(request("/api/pause", query=query)) in (
        Reason.AMBIGUOUS_CALL,
        Reason.MALFORMED_CALL,
    )


def refused(sent: Request) -> Reason:
    """Why a request is no call."""
    with pytest.raises(Rejected) as error:
        decode(sent)
    return error.value.reason


# -- reading


def test_a_worker_and_a_dashboard_are_read_alike() -> None:
    """The form of a POST and the query of a GET give the same call."""
    worker = decode(request("/api/dep_graph", body=form(task_id="A_1", include_done=True)))
    page = decode(
        request("/api/dep_graph", query=form(task_id="A_1", include_done=True).decode(), verb="GET")
    )
    assert worker == page
    assert (worker.method, worker.permission, worker.task, dict(worker.args)) == (
        "dep_graph",
        "view",
        "A_1",
        {"task_id": "A_1", "include_done": True},
    )


def test_a_call_without_data_has_no_arguments() -> None:
    """The visualiser pauses without any data; an empty query is none."""
    page = {b"x-requested-with": b"XMLHttpRequest"}
    assert decode(request("/api/pause", verb="GET", headers=page)).args == {}
    assert decode(request("/api/pause", query="", verb="GET", headers=page)).args == {}


OPENED = {
    b"sec-fetch-site": b"none",
    b"sec-fetch-mode": b"navigate",
    b"sec-fetch-dest": b"document",
}


@pytest.mark.parametrize("name", sorted(n for n in CATALOG.methods if not n.startswith("page.")))
def test_only_views_are_opened_like_a_page(name: str) -> None:
    """Every method of the catalog: an address that is typed, or comes in a mail, does what a view
    does, and nothing else. A method that the catalog does not have counts as one that acts.
    """
    for path, view in (
        (f"/api/{name}", CATALOG.methods[name].permission == "view"),
        (f"/api/{name}_"[:69], False),
    ):
        opened = request(path, query="data=%7B%7D", verb="GET", headers=OPENED)
        try:
            decode(opened)
        except Rejected as error:
            assert (error.reason is Reason.CROSS_SITE) is not view, path
        else:
            assert view, path


@pytest.mark.parametrize(
    "path",
    [
        *(
            "/api",
            "/api/",
            "/api//pause",
            "/api/pause/",
            "/api/x/../pause",
            "/api/%70ause",
            "/api/%2570ause",
            "/%61pi/pause",
            "/API/pause",
        ),
        *(
            "/api/pause;a=b",
            "/api/pause%00",
            "/api/pause%20",
            "/api/Pause",
            "/api/pa.use",
            "/api/" + "a" * 65,
            "/api/page.root",
            "//api/pause",
        ),
        *("/api/paus\u00e9", "/api/pause\n"),
    ],
)
def test_one_spelling_of_a_path_is_read(path: str) -> None:
    """Whatever luigid, or a proxy in between, would turn into another path is refused."""
    wrong = Reason.MALFORMED_CALL if "%" in path else Reason.NOT_FOUND
    assert refused(request(path)) is wrong


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (request(verb="PUT"), Reason.METHOD_NOT_ALLOWED),
        (request(verb="HEAD"), Reason.METHOD_NOT_ALLOWED),
        (request(verb="OPTIONS"), Reason.METHOD_NOT_ALLOWED),
        (request(body=form(), headers={b"content-encoding": b"gzip"}), Reason.AMBIGUOUS_CALL),
        (request(body=form(), headers={b"content-encoding": b"identity"}), Reason.AMBIGUOUS_CALL),
        (request(body=form(), verb="GET"), Reason.AMBIGUOUS_CALL),
        (request(body=form(), kind=b"multipart/form-data; boundary=x"), Reason.MALFORMED_CALL),
        (request(body=form(), kind=b"application/json"), Reason.MALFORMED_CALL),
        (request(body=form(), kind=None), Reason.MALFORMED_CALL),
        (request(body=form(), query=form().decode()), Reason.AMBIGUOUS_CALL),
        (request(body=form(), query="data="), Reason.AMBIGUOUS_CALL),
        (request(query="data=%7B%7D&data=%7B%7D"), Reason.AMBIGUOUS_CALL),
        (request(body=b"data="), Reason.MALFORMED_CALL),
        (request("/api/dep_graph"), Reason.BAD_ARGUMENTS),
        (request("/api/dep_graph", body=form(task_id=5)), Reason.BAD_ARGUMENTS),
        (request("/api/get_work", body=form()), Reason.BAD_ARGUMENTS),
        (request("/api/get_work", body=form(worker=None)), Reason.BAD_ARGUMENTS),
        (request("/api/get_work", body=form(worker="")), Reason.BAD_ARGUMENTS),
        (request("/api/get_work", body=form(worker=WORKER + MARK)), Reason.NOT_YOUR_WORKER),
        (request("/api/get_work", body=form(worker="w [local:eve]")), Reason.NOT_YOUR_WORKER),
        (
            request("/api/pause", verb="GET", headers={b"sec-fetch-site": b"cross-site"}),
            Reason.CROSS_SITE,
        ),
        (request("/api/pause", headers={b"origin": b"https://evil.example"}), Reason.CROSS_SITE),
        (request("/api/pause", verb="GET"), Reason.CROSS_SITE),
    ],
)
def test_what_could_be_read_in_two_ways_is_refused(sent: Request, reason: Reason) -> None:
    """Each row is a request that luigid and another parser read differently, or that luigid would
    half carry out.
    """
    assert refused(sent) is reason


def test_an_unknown_method_is_a_call_to_deny() -> None:
    """It has to be recorded with its arguments, so it becomes a call; its class is the highest."""
    call = decode(request("/api/drop_everything", body=form(x=1)))
    assert (call.in_catalog, call.permission, call.args) == (False, "admin", {"x": 1})


def test_parameters_that_luigi_hides_are_withheld_from_the_record() -> None:
    """Parameters of visibility 1 and 2 are secrets of the record; luigid still gets them."""
    args: dict[str, Any] = {
        "task_id": "A_1",
        "worker": WORKER,
        "family": "A",
        "params": {"user": "u", "password": "hunter2", "token": "t"},
        "param_visibilities": {"user": 0, "password": 2, "token": 1},
    }
    call = make_call("luigi", CATALOG, "add_task", args, ALICE, BATCHES)
    assert call.secret_paths == (("params", "password"), ("params", "token"))
    assert "hunter2" in encode(call, CATALOG, ALICE, "").body.decode()


PATHS = st.sampled_from(
    ["/api/task_list", "/api/get_work", "/api/add_task", "/api/nonsense"]
) | st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=30).map("/api/".__add__)


@given(
    PATHS,
    st.none()
    | st.text(string.printable[:95], max_size=30)
    | st.text(string.printable[:95], max_size=30).map("data=".__add__),
    st.binary(max_size=60)
    | st.binary(max_size=60).map(b"data=".__add__)
    | st.binary(max_size=60).map(b'data={"worker": '.__add__),
    st.sampled_from(["GET", "POST", "HEAD", "PATCH"]),
    st.sampled_from([FORM, b"", b"multipart/form-data", b"application/json"])
    | st.binary(max_size=20),
)
def test_any_request_is_a_call_or_one_rejection(
    path: str, query: str | None, body: bytes, verb: str, kind: bytes
) -> None:
    """No bytes that the edge admits raise anything but `Rejected`, whose detail is one line of
    ASCII.
    """
    try:
        call = decode(request(path, query, body, verb, kind))
    except Rejected as error:
        assert error.detail.isascii()
        assert error.detail.isprintable()
    else:
        assert isinstance(call, Call)


def slowly(body: bytes, method: str) -> Call:
    """The plain road: escapes one by one, JSON by the standard library, arguments one after the
    other.
    """
    value = body.removeprefix(b"data=").replace(b"+", b" ")
    if not body.startswith(b"data=") or b"&" in body:
        raise Rejected(Reason.AMBIGUOUS_CALL if b"&" in body else Reason.MALFORMED_CALL)
    if re.search(rb"%(?![0-9A-Fa-f]{2})", value):
        raise Rejected(Reason.MALFORMED_CALL)
    args = parse_strict(unquote_to_bytes(value))
    worker = args.get("worker")
    if not isinstance(worker, str) or not worker:
        raise Rejected(Reason.BAD_ARGUMENTS)
    if ":" in worker.rpartition(" [")[2] and " [" in worker:
        raise Rejected(Reason.NOT_YOUR_WORKER)
    check_arguments(CATALOG.methods[method], make_harmless(CATALOG.methods[method], args))
    return make_call("luigi", CATALOG, method, args, ALICE, BATCHES)


@pytest.mark.parametrize("name", [PING, MEDIUM])
@pytest.mark.parametrize("mangle", ["lost", "twice", "bit", "percent", "quote"])
def test_a_real_call_with_one_byte_wrong_is_read_as_on_the_plain_road(
    name: str, mangle: str
) -> None:
    """Every byte of a worker's body in its turn: the same call in every part, or refused for the
    same reason.
    """
    whole = bench_call("luigi", name)
    method = whole.path.removeprefix("/api/")
    for at in range(len(whole.body) + 1):
        byte = whole.body[at : at + 1]
        put = {
            "lost": b"",
            "twice": byte * 2,
            "bit": bytes([byte[0] ^ 1]) if byte else b"1",
            "percent": b"%",
            "quote": b"%22",
        }[mangle]
        sent = request(whole.path, body=whole.body[:at] + put + whole.body[at + 1 :])
        try:
            expected = slowly(sent.body, method)
        except Rejected as error:
            assert refused(sent) is error.reason, sent.body
        else:
            call = decode(sent)
            assert (call, json.dumps(call.args)) == (expected, json.dumps(expected.args)), sent.body
            assert json.dumps(as_luigid_reads(API.encode(call, ALICE, sent).body)) == json.dumps(
                {**expected.args, "worker": bind_worker(expected.args["worker"], ALICE)}
            )


# -- writing

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=3)
    ),
    max_leaves=10,
)


def as_luigid_reads(body: bytes) -> Any:
    """What luigi/server.py makes of a body: Tornado's form parser, its last ``data``, stripped, and
    ``json.loads``.
    """
    found: dict[str, list[bytes]] = {}
    parse_body_arguments(FORM.decode(), body, found, {})
    assert list(found) == ["data"]
    assert len(found["data"]) == 1
    return json_decode(found["data"][0].decode("utf-8").strip())


@given(st.dictionaries(st.text(st.characters(codec="utf-8")), values))
def test_luigid_reads_what_was_decided(args: dict[str, Any]) -> None:
    """Decode, decide, re-encode: the arguments that luigid's own parser finds are those of the
    call.
    """
    call = Call("luigi", "luigi", "prune", "admin", args)
    assert json.dumps(as_luigid_reads(encode(call, CATALOG, ALICE, "").body)) == json.dumps(args)


@given(
    st.dictionaries(
        st.sampled_from(["future_argument", "another"]),
        values.filter(lambda v: "-Infinity" not in json.dumps(v)),
    )
)
def test_a_round_trip_changes_nothing_but_the_worker(extra: dict[str, Any]) -> None:
    """From a stock client's form to luigid's parser: the same arguments, with the mark on the
    worker's id.
    """
    args = {"worker": WORKER, "host": "é & % + ; # =", **extra}
    call = decode(request("/api/get_work", body=form(**args)))
    read = as_luigid_reads(API.encode(call, ALICE, request()).body)
    assert json.dumps(read) == json.dumps({**args, "worker": WORKER + MARK})


def test_what_goes_out_is_always_the_same_kind_of_request() -> None:
    """A GET becomes a POST; nothing of the caller's bytes or headers is in it; views alone may be
    sent twice or compressed.
    """
    view = API.encode(
        decode(request(query="data=%7B%7D", verb="GET")),
        ALICE,
        request(headers={b"accept-encoding": b"gzip, deflate"}),
    )
    assert (view.http_method, view.path, view.content_type, view.body) == (
        "POST",
        b"/api/task_list",
        FORM,
        b"data={}",
    )
    assert (view.idempotent, view.accept_gzip) == (True, True)
    work = API.encode(
        decode(request("/api/ping", body=form(worker="w"))),
        ALICE,
        request(headers={b"accept-encoding": b"gzip"}),
    )
    assert (work.idempotent, work.accept_gzip) == (False, False)
    assert (
        encode(decode(request("/api/pause")), CATALOG, ALICE, "/luigi").path == b"/luigi/api/pause"
    )


def test_infinity_reaches_luigid() -> None:
    """Every batchable family's worker sends ``"max_batch_size": Infinity``."""
    call = decode(
        request(
            "/api/add_task_batcher",
            body=form(worker="w", task_family="A", batched_args=["x"], max_batch_size=math.inf),
        )
    )
    assert as_luigid_reads(encode(call, CATALOG, ALICE, "").body)["max_batch_size"] == math.inf


@pytest.mark.parametrize(
    ("accepted", "gzip"),
    [
        (b"gzip, deflate", True),
        (b"gzip", True),
        (b"identity", False),
        (b"", False),
        (b"gzip;q=0", False),
        (b"br, gzip;q=0.5", False),
    ],
)
def test_an_answer_is_compressed_only_for_who_plainly_takes_it(accepted: bytes, gzip: bool) -> None:
    """``gzip;q=0`` says no; whoever weighs encodings gets the plain answer."""
    assert accepts_gzip({b"accept-encoding": accepted}) is gzip


# -- the worker mark

subjects = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12) | st.text(
    "a]%[: |", min_size=1, max_size=5
)
issuers = st.sampled_from(["okta", "local", "a", "a-b"])
ids = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20) | st.tuples(
    st.text("w] [:a", max_size=5), issuers, subjects
).map(lambda t: f"{t[0]} [{t[1]}:{t[2]}]")


def principal(issuer: str, subject: str) -> Principal:
    """Someone without roles."""
    return Principal(f"https://{issuer}.example", issuer, subject, ())


def owner(marked: str) -> tuple[str, str]:
    """Split an upstream id where anyone can: at its last blank and bracket."""
    own, _, mark = marked.rpartition(" [")
    return own, mark


@given(ids, issuers, subjects, ids, issuers, subjects)
@example("w", "a", "b", "w [a:b]", "a", "b")
@example("w", "a", "b]", "w", "a", "b%5D")
@example("w", "a", "b c", "w", "a", "b%20c")
def test_no_two_identities_meet_in_one_worker(
    id1: str, issuer1: str, subject1: str, id2: str, issuer2: str, subject2: str
) -> None:
    """The marked id gives back id, issuer and subject, so that equal ones come from equal callers."""
    one, other = (
        id1 + worker_suffix(principal(issuer1, subject1)),
        id2 + worker_suffix(principal(issuer2, subject2)),
    )
    assert (one == other) == ((id1, issuer1, subject1) == (id2, issuer2, subject2))
    assert owner(one)[0] == id1
    assert " " not in owner(one)[1]


@given(ids, issuers, subjects)
def test_whoever_sends_a_marked_id_is_refused(own: str, issuer: str, subject: str) -> None:
    """An id that ends in what could be a mark, anybody's, never becomes a call; so one mark is all
    an id ever has.
    """
    marked = own + worker_suffix(principal(issuer, subject))
    with pytest.raises(Rejected):
        make_call("luigi", CATALOG, "ping", {"worker": marked}, ALICE, BATCHES)


def test_every_method_that_names_the_caller_is_marked() -> None:
    """luigid has seven methods in which a worker says who it is; an eighth in the catalog without
    `worker` would be a hole.
    """
    named = {name for name, method in CATALOG.methods.items() if method.worker_arg is not None}
    assert named == {
        "add_task",
        "add_task_batcher",
        "add_worker",
        "get_work",
        "count_pending",
        "ping",
        "announce_scheduling_failure",
    }


@pytest.mark.parametrize(
    ("own", "bound"),
    [
        ("job[3]", "job%5B3%5D"),
        (WORKER + "[okta:eve]", WORKER + "%5Bokta:eve%5D"),
        ("job[3] [x]", "job%5B3%5D %5Bx%5D"),
        ("[", "%5B"),
        ("w\u3164[okta:eve]", "w\u3164%5Bokta:eve%5D"),
        ("w\uff3bokta:eve\uff3d", "w%EF%BC%BBokta:eve%EF%BC%BD"),
        ("w\u00a0", "w%C2%A0"),
        (" w ", "%20w%20"),
        ("a%5Bb", "a%255Bb"),
        ("100%", "100%"),
        ("<b>", "%3Cb%3E"),
        ("a\nb", "a%0Ab"),
        ("ann's-mac & b\u00fccher", "ann's-mac & b\u00fccher"),
    ],
)
def test_what_looks_like_a_mark_in_a_workers_own_id_is_encoded(own: str, bound: str) -> None:
    """A dashboard collapses blanks, and a person reads over the rest: luigid gets no bracket, no
    markup and no sign of another script in a worker's own id. Letters of every script stay.
    """
    call = decode(request("/api/get_work", body=form(worker=own)))
    assert call.args["worker"] == own, "policies and the record have it as it came"
    body = API.encode(call, ALICE, request()).body
    assert as_luigid_reads(body)["worker"] == bound + MARK
    ping = decode(request("/api/ping", body=form(worker=own)))
    assert as_luigid_reads(API.encode(ping, ALICE, request()).body)["worker"] == bound + MARK
    given = running(bound + MARK)
    answer = json.loads(rewrite_worker_answer(call, ALICE, given, BATCHES))
    assert answer["response"]["running_tasks"][0]["worker"] == own, "a worker finds its own id"


@pytest.mark.parametrize("end", [" [okta:eve] ", " [okta:eve", "  [okta:eve]", " [okta:eve] (2)"])
def test_what_looks_like_a_mark_to_a_person_is_refused(end: str) -> None:
    """A dashboard collapses blanks, and a person reads over the rest."""
    sent = request("/api/ping", body=form(worker=WORKER + end))
    assert refused(sent) is Reason.NOT_YOUR_WORKER


@given(
    st.text("%25BbC[ <\u00a0\u3010a", min_size=1, max_size=6),
    st.text("%25BbC[ <\u00a0\u3010a", min_size=1, max_size=6),
)
@example("[", "%5B")
@example("%[", "%%5B")
@example("%5[", "%5%5B")
def test_no_two_ids_of_one_identity_become_the_same(one: str, other: str) -> None:
    """The encoding can be undone."""
    assert (bind_worker(one, ALICE) == bind_worker(other, ALICE)) == (one == other)
    assert owner(bind_worker(one, ALICE))[1] == MARK[2:]
    assert "[" not in owner(bind_worker(one, ALICE))[0]


def test_blanks_within_an_id_are_read_once() -> None:
    """With the square of their number this would take minutes, on the event loop."""
    blanks = " " * 200_000
    assert bind_worker(f" a{blanks}[b ", ALICE) == f"%20a{blanks}%5Bb%20" + MARK


def test_a_heartbeat_is_the_worker_and_nothing_else() -> None:
    """What rides along with a ping would reach luigid without a record of its own, so it makes the
    ping a call like any other.
    """
    ping = decode(request("/api/ping", body=form(worker=WORKER)))
    more = decode(request("/api/ping", body=form(worker=WORKER, note="x")))
    assert (ping.heartbeat, API.encode(ping, ALICE, request()).kind) == (WORKER, "heartbeat")
    assert (more.heartbeat, API.encode(more, ALICE, request()).kind) == (None, "write")


def test_a_heartbeat_that_is_remembered_is_still_its_callers_own() -> None:
    """Two identities that send the same bytes mean the same call, and each speaks upstream under
    its own mark only.
    """
    sent, bob = (
        request("/api/ping", body=form(worker=WORKER)),
        Principal("https://idp.example", "okta", "bob", ("worker",)),
    )
    for _ in range(2):
        for by, mark in ((ALICE, MARK), (bob, " [okta:bob]")):
            (call,) = API.decode(sent, sent.path, by).calls
            assert (call.method, call.args, call.heartbeat) == ("ping", {"worker": WORKER}, WORKER)
            assert as_luigid_reads(API.encode(call, by, sent).body) == {"worker": WORKER + mark}


@pytest.mark.parametrize(
    "change",
    [
        {"verb": "GET"},
        {"query": "data=%7B%7D"},
        {"kind": b"multipart/form-data; boundary=x"},
        {"headers": {b"content-encoding": b"gzip"}},
        {"headers": {b"sec-fetch-site": b"cross-site"}},
    ],
)
def test_what_is_wrong_around_a_remembered_heartbeat_is_refused(change: dict[str, Any]) -> None:
    """The bytes of the body are remembered, never what came with them."""
    body = form(worker=WORKER)
    assert decode(request("/api/ping", body=body)).heartbeat == WORKER
    plain = refused(request("/api/ping", **change, body=form(worker="never seen")))
    assert refused(request("/api/ping", **change, body=body)) is plain


def test_the_bytes_of_a_heartbeat_mean_another_call_elsewhere() -> None:
    """What is remembered of ``ping`` says nothing about a method that takes the same argument."""
    body = form(worker=WORKER)
    assert [
        decode(request(f"/api/{name}", body=body)).method
        for name in ("ping", "count_pending", "ping")
    ] == [
        "ping",
        "count_pending",
        "ping",
    ]


def test_only_so_many_heartbeats_are_remembered() -> None:
    """Ever new worker ids, and long bodies, do not fill the memory; all of them are read."""
    api = LuigiApi("luigi", CATALOG, batch_ids=BATCHES)
    for number in range(5000):
        sent = request("/api/ping", body=b'data={"worker":"w%d"}' % number)
        assert api.decode(sent, sent.path, ALICE).calls[0].heartbeat == f"w{number}"
    kept = api._heartbeats
    assert 0 < len(kept) <= 4096
    before = len(kept)
    for odd in (
        b'data={"worker":"long"}' + b" " * 600,
        b'data={"worker":"w","batch_id":null}',
        b'data={"worker":"w","note":1}',
    ):
        sent = request("/api/ping", body=odd)
        assert api.decode(sent, sent.path, ALICE).calls[0].method == "ping"
    assert len(kept) == before


def test_a_task_that_fails_to_schedule_leaves_none_of_its_parameters_in_the_record() -> None:
    """luigi prints all parameters of such a task, private ones too, into its name and its error,
    and says not which are private.
    """
    told: dict[str, Any] = {
        "task_name": "A(p=hunter2)",
        "family": "A",
        "params": {"p": "hunter2"},
        "expl": "hunter2",
        "owners": [],
    }
    call = decode(request("/api/announce_scheduling_failure", body=form(worker=WORKER, **told)))
    assert set(call.secret_paths) == {("task_name",), ("params",), ("expl",)}


# -- the other tasks of a call


def test_every_dependency_is_one_of_the_other_tasks() -> None:
    """Both lists, each task once and in order, the call's own left out; a call without them has
    none.
    """
    call = decode(
        request(
            "/api/add_task",
            body=form(
                worker=WORKER, task_id="A_1", deps=["C_1", "A_1", "B_1"], new_deps=["B_1", "D_1"]
            ),
        )
    )
    assert (call.task, call.related_tasks) == ("A_1", ("C_1", "B_1", "D_1"))
    nones: list[dict[str, Any]] = [{}, {"deps": None}, {"deps": [], "new_deps": None}]
    for none in nones:
        assert (
            decode(
                request("/api/add_task", body=form(worker=WORKER, task_id="A_1", **none))
            ).related_tasks
            == ()
        )


def test_a_call_names_a_bounded_number_of_tasks() -> None:
    """Each costs a decision, and luigid some work under its one lock."""
    args: dict[str, Any] = {
        "worker": WORKER,
        "task_id": "A_1",
        "deps": ["B_1"] * (MAX_RELATED_TASKS - 1),
    }
    assert make_call(
        "luigi", CATALOG, "add_task", {**args, "new_deps": ["B_2"]}, ALICE, BATCHES
    ).related_tasks == ("B_1", "B_2")
    with pytest.raises(Rejected) as error:
        make_call(
            "luigi", CATALOG, "add_task", {**args, "new_deps": ["B_2", "B_3"]}, ALICE, BATCHES
        )
    assert error.value.reason is Reason.BAD_ARGUMENTS


# -- batches


def batched(
    family: str = "A",
    batch_id: str = "0cc175b9",
    by: Principal = ALICE,
    batches: BatchIdSigner = BATCHES,
) -> str:
    """The batch id that a worker is told."""
    call = decode(request("/api/get_work", body=form(worker=WORKER)))
    response = {
        "running_tasks": [],
        "task_id": None,
        "task_family": family,
        "batch_id": batch_id,
        "batch_task_ids": ["A_1", "A_2"],
    }
    told: str = json.loads(
        rewrite_worker_answer(call, by, json.dumps({"response": response}).encode(), batches)
    )["response"]["batch_id"]
    return told


def claim(batch_id: object, family: str = "A", method: str = "add_task") -> Request:
    """The call in which a worker takes up a batch."""
    return request(
        f"/api/{method}",
        body=form(worker=WORKER, task_id="A_3", family=family, status="RUNNING", batch_id=batch_id),
    )


def test_a_worker_takes_up_the_batch_it_was_given() -> None:
    """What get_work said, sent back, reaches luigid as luigid's own id."""
    call = decode(claim(batched()))
    assert call.args["batch_id"] == batched()
    assert as_luigid_reads(API.encode(call, ALICE, request()).body)["batch_id"] == "0cc175b9"
    assert decode(claim(None)).args["batch_id"] is None


BOB = Principal("https://idp.example", "okta", "bob", ("worker",))
OTHERS_IDS = {
    "luigid's own": "0cc175b9",
    "empty": "",
    "nobody's": "0cc175b9." + "0" * 32,
    "no ascii": "0cc175b9.\u0660",
    "another caller's": batched(by=BOB),
    "another issuer's": batched(by=Principal("https://idp.example", "local", "alice", ())),
    "another family's": batched("B"),
    "another upstream's": batched(batches=BatchIdSigner(b"k" * 32, "other")),
    "another gate's": batched(batches=BatchIdSigner(b"K" * 32, "luigi")),
    "of another batch": "1" + batched()[1:],
    "cut": batched()[:-1],
    "longer": batched() + "0",
}


@pytest.mark.parametrize("batch_id", OTHERS_IDS.values(), ids=OTHERS_IDS.keys())
def test_a_batch_that_the_caller_was_not_given_is_refused(batch_id: object) -> None:
    """Whoever states a batch ends it: each of these reaches nobody, and is no error of ours."""
    assert refused(claim(batch_id)) is Reason.NOT_YOUR_WORKER


def test_a_batch_goes_with_its_family_alone() -> None:
    """So that the task id, which goes on after the family, and with it every policy on tasks,
    covers the batch.
    """
    sealed = batched("A")
    for family in ("", "A_3"):
        assert refused(claim(sealed, family)) is Reason.NOT_YOUR_WORKER
    assert (
        refused(request("/api/add_task", body=form(worker=WORKER, task_id="A_3", batch_id=sealed)))
        is Reason.NOT_YOUR_WORKER
    )


def test_no_work_call_carries_a_foreign_batch() -> None:
    """luigid ignores a batch id elsewhere; a newer one might not."""
    for method in ("get_work", "ping"):
        for batch_id in ("0cc175b9", 5, ["b"]):
            assert refused(claim(batch_id, method=method)) is Reason.NOT_YOUR_WORKER


def test_the_key_of_batches_is_the_same_whenever_it_is_derived_and_is_not_the_secret() -> None:
    """A batch outlives the process that named it; and nothing that is sealed says anything about
    hashes in the record.
    """
    assert derive_batch_key(b"s" * 32) == derive_batch_key(b"s" * 32)
    assert len({derive_batch_key(b"s" * 32), derive_batch_key(b"t" * 32), b"s" * 32}) == 3
    signed = BatchIdSigner(derive_batch_key(b"s"), "luigi").sign(ALICE, "A", "bc", "A_1.5")
    BatchIdSigner(derive_batch_key(b"s"), "luigi").verify(ALICE, "A", signed)
    assert (luigid_batch_id(signed), batch_member(signed)) == ("bc", "A_1.5")


# -- answers


def running(*workers: str) -> bytes:
    """An answer to get_work that lists one running task of each worker."""
    return json.dumps(
        {
            "response": {
                "task_id": None,
                "running_tasks": [{"task_id": f"T{n}", "worker": w} for n, w in enumerate(workers)],
            }
        }
    ).encode()


def test_a_worker_finds_its_own_id_in_the_answer() -> None:
    """Its own mark comes off, others' stay: the summary tells the worker's own running tasks from
    those of "other workers".
    """
    call = decode(request("/api/get_work", body=form(worker=WORKER)))
    body = rewrite_worker_answer(
        call, ALICE, running(WORKER + MARK, "w [okta:bob]", WORKER + MARK + MARK), BATCHES
    )
    assert [task["worker"] for task in json.loads(body)["response"]["running_tasks"]] == [
        WORKER,
        "w [okta:bob]",
        WORKER + MARK,
    ]


def test_an_answer_without_the_mark_is_passed_on_untouched() -> None:
    """Nothing is parsed that need not be."""
    call = decode(request("/api/get_work", body=form(worker=WORKER)))
    body = running("w [okta:bob]")
    assert rewrite_worker_answer(call, ALICE, body, BATCHES) is body
    view = decode(request("/api/task_list"))
    assert rewrite_worker_answer(view, ALICE, running(WORKER + MARK), BATCHES) == running(
        WORKER + MARK
    )


@pytest.mark.parametrize(
    "odd",
    [
        "1",
        "1.50",
        "1e16",
        "1e999",
        "-Infinity",
        "NaN",
        "12345678901234567890123",
        "-0.0",
        '"x  y"',
        '"\\u00e9"',
        '"\u00e9"',
        '"\\ud800"',
        '"\\/"',
    ],
)
@pytest.mark.parametrize("space", ["", " ", "  "])
def test_the_rest_of_a_rewritten_answer_is_as_luigid_wrote_it(odd: str, space: str) -> None:
    """Whatever numbers and texts stand in it, however it is spaced: only the caller's mark is gone."""
    call = make_call("luigi", CATALOG, "get_work", {"worker": WORKER}, ALICE, BATCHES)
    text = f'{{"response":{space}{{"running_tasks":{space}[{{"worker":{space}"{WORKER}{MARK}","x":{space}{odd}}}],{space}"y":{odd}}}}}'
    expected = json.loads(text.replace(MARK, ""))
    assert repr(json.loads(rewrite_worker_answer(call, ALICE, text.encode(), BATCHES))) == repr(
        expected
    )


@pytest.mark.parametrize(("assistant", "module"), [(False, None), (None, None), (True, "planted")])
@pytest.mark.parametrize(
    "batch", [{}, {"batch_id": "b", "batch_task_ids": ["A_1", "A_2"]}], ids=["task", "batch"]
)
def test_only_an_assistant_is_told_what_to_import(
    assistant: bool | None, module: str | None, batch: dict[str, Any]
) -> None:
    """The module in luigid's answer is whoever announced the task first's choice; the rest of the
    answer stays.
    """
    call = decode(request("/api/get_work", body=form(worker=WORKER, assistant=assistant)))
    response = {
        "task_id": None,
        "running_tasks": [],
        "task_family": "A",
        "task_module": "planted",
        "task_params": {"x": "1"},
        **batch,
    }
    answered = json.loads(
        rewrite_worker_answer(call, ALICE, json.dumps({"response": response}).encode(), BATCHES)
    )["response"]
    sealed = {"batch_id": BATCHES.sign(ALICE, "A", "b", "A_1")} if batch else {}
    assert answered == {**response, "task_module": module, **sealed}


def test_an_answer_too_large_to_be_mended_is_not_passed_on() -> None:
    """A get_work whose answer came as a stream could name a module: it fails instead."""

    class Endless:
        def __aiter__(self) -> "Endless":
            return self

        async def __anext__(self) -> bytes:
            return b" "

        async def aclose(self) -> None:
            """Nothing to give up."""

    call = decode(request("/api/get_work", body=form(worker=WORKER)))
    with pytest.raises(Unavailable) as error:
        API.answer(call, ALICE, UpstreamResponse(200, JSON, stream=Endless()))
    assert error.value.reason is Reason.UPSTREAM_INVALID


@pytest.mark.parametrize(
    "body",
    [
        b"[okta:alice]",
        b'{"response": " [okta:alice]"}',
        b'{"response": {"running_tasks": [" [okta:alice]"]}}',
    ],
)
def test_an_answer_to_get_work_that_is_none_is_the_upstreams_fault(body: bytes) -> None:
    """A mark in a place that luigid does not put it in is an invalid answer, not an error of ours."""
    call = decode(request("/api/get_work", body=form(worker=WORKER)))
    with pytest.raises(Unavailable) as error:
        rewrite_worker_answer(call, ALICE, b" [okta:alice]" + body, BATCHES)
    assert error.value.reason is Reason.UPSTREAM_INVALID


def test_an_answer_to_work_that_is_encoded_unasked_is_not_passed_on() -> None:
    """Nobody could have looked into it: not for the worker's own id, nor for a module that it is to
    import.
    """
    call = decode(request("/api/get_work", body=form(worker=WORKER)))
    with pytest.raises(Unavailable) as error:
        API.answer(
            call,
            ALICE,
            UpstreamResponse(
                200,
                {**JSON, b"content-encoding": b"gzip"},
                gzip.compress(b'{"response": {"task_module": "evil"}}'),
            ),
        )
    assert error.value.reason is Reason.UPSTREAM_INVALID


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (UpstreamResponse(500, {b"content-type": b"text/html"}, b"<html>"), Reason.UPSTREAM_ERROR),
        (
            UpstreamResponse(404, {b"content-type": b"text/html"}, b"<html>"),
            Reason.UPSTREAM_INVALID,
        ),
        (UpstreamResponse(302, {b"location": b"/login"}), Reason.UPSTREAM_INVALID),
        (UpstreamResponse(304, JSON), Reason.UPSTREAM_INVALID),
        (
            UpstreamResponse(200, {b"content-type": b"text/html"}, b"<html>"),
            Reason.UPSTREAM_INVALID,
        ),
        (UpstreamResponse(200, {}, b""), Reason.UPSTREAM_INVALID),
        (UpstreamResponse(200, JSON, b'{"error": "x"}'), Reason.UPSTREAM_INVALID),
        (UpstreamResponse(200, JSON, b""), Reason.UPSTREAM_INVALID),
        (UpstreamResponse(200, JSON, b'{"response": [1, 2'), Reason.UPSTREAM_INVALID),
        (UpstreamResponse(200, JSON, b'{"response": nil}'), Reason.UPSTREAM_INVALID),
        (
            UpstreamResponse(200, JSON, b'{"response": null}{"response": null}'),
            Reason.UPSTREAM_INVALID,
        ),
        (UpstreamResponse(200, JSON, b'{"response":' + b"[" * 16_000), Reason.UPSTREAM_INVALID),
        (UpstreamResponse(200, JSON, b'{"response": "\xff"}'), Reason.UPSTREAM_INVALID),
    ],
)
def test_what_is_no_answer_of_luigid_reaches_nobody(
    answer: UpstreamResponse, reason: Reason
) -> None:
    """HTML and redirects make a worker fail without a word; they become a refusal with a reason."""
    with pytest.raises(Unavailable) as error:
        API.answer(decode(request()), ALICE, answer)
    assert error.value.reason is reason
    assert error.value.sent


@pytest.mark.parametrize(
    "response",
    [
        "Infinity",
        "NaN",
        "1" * 400,
        "1e400",
        '"\\ud800"',
        "[" * 900 + "]" * 900,
        "{}",
        f'"{"x" * 100_000}"',
    ],
)
def test_what_python_writes_is_an_answer(response: str) -> None:
    """luigid writes with Python's own encoder, which knows more numbers than JSON does."""
    body = f'{{"response": {response}}}'.encode()
    assert API.answer(decode(request()), ALICE, UpstreamResponse(200, JSON, body)).body == body


@pytest.mark.parametrize(
    ("method", "passed"), [("task_list", True), ("get_work", False), ("add_task", False)]
)
def test_only_of_a_large_view_the_end_is_not_read(method: str, passed: bool) -> None:
    """A page of tasks has many readers, and each would pay; what a worker is answered is JSON at
    any size.
    """
    args = {
        "task_list": {},
        "get_work": {"worker": WORKER},
        "add_task": {"worker": WORKER, "task_id": "A"},
    }[method]
    call = decode(request(f"/api/{method}", body=form(**args)))
    answer = UpstreamResponse(200, JSON, b'{"response": {"a": "' + b"x" * 20_000)
    with (
        contextlib.nullcontext()
        if passed
        else pytest.raises(Unavailable, match="not an answer of luigid")
    ):
        API.answer(call, ALICE, answer)


def test_an_answer_keeps_none_of_luigids_headers() -> None:
    """Only what says how to read the body is passed on; nothing is stored, nothing is sniffed."""
    headers = {
        **JSON,
        b"server": b"TornadoServer",
        b"etag": b'"x"',
        b"access-control-allow-origin": b"*",
        b"set-cookie": b"a=b",
    }
    reply = API.answer(
        decode(request()), ALICE, UpstreamResponse(200, headers, b'{"response": []}')
    )
    assert (reply.status, reply.body, reply.content_type) == (
        200,
        b'{"response": []}',
        b"application/json",
    )
    assert dict(reply.headers) == {
        b"cache-control": b"no-store",
        b"x-content-type-options": b"nosniff",
    }
    reply = API.answer(
        decode(request()),
        ALICE,
        UpstreamResponse(200, {**headers, b"content-encoding": b"gzip"}, b"\x1f\x8b"),
    )
    assert dict(reply.headers)[b"content-encoding"] == b"gzip"


# -- refusals


def refusal(reason: Reason, method: str = "") -> Refusal:
    """A refusal of a call, or of a request that became none."""
    about = REASONS[reason]
    return Refusal(
        reason, about.status, f"callgate: no [{reason}, ref X]", about.hint, "X", None, method
    )


@pytest.mark.parametrize(
    "reason",
    [
        Reason.NO_ROLE,
        Reason.NO_POLICY_ALLOWS,
        Reason.POLICY_FORBIDS,
        Reason.POLICY_ERROR,
        Reason.DRAINING,
    ],
)
def test_a_denied_get_work_ends_the_worker_in_order(reason: Reason) -> None:
    """It is luigid's own answer to a worker it has disabled: no retries, exit code 0."""
    reply = API.render(refusal(reason, "get_work"))
    assert (reply.status, json.loads(reply.body)) == (200, {"response": WORKER_SHUTDOWN})


@pytest.mark.parametrize("reason", [reason for reason in Reason if reason is not Reason.ALLOWED])
def test_every_other_refusal_is_a_status_a_phrase_and_json(reason: Reason) -> None:
    """The reason phrase is all that a worker's user sees; the body says the same, for programs."""
    reply = API.render(refusal(reason, "pause"))
    assert reply.status == REASONS[reason].status
    assert reply.phrase == f"callgate: no [{reason}, ref X]".encode()
    error = json.loads(reply.body)["error"]
    assert (error["reason"], error["message"], error["ref"]) == (
        reason.value,
        reply.phrase.decode(),
        "X",
    )
    assert (b"www-authenticate" in dict(reply.headers)) == (reply.status == 401)


def test_an_upstream_that_fails_get_work_does_not_disable_the_worker() -> None:
    """A scheduler that restarts is worth the retry: only denials and a draining gate end the
    worker.
    """
    assert API.render(refusal(Reason.UPSTREAM_UNREACHABLE, "get_work")).status == 502
