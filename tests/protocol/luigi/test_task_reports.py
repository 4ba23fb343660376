"""What is asked of luigid before a report on a running task, and what is left of the report."""

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs

import pytest

from proxy.catalog.loading import load_catalog
from proxy.errors import Unavailable
from proxy.model import Call, Principal, Question, Reason, UpstreamResponse
from proxy.protocol.luigi.batch_ids import BatchIdSigner
from proxy.protocol.luigi.calls import make_call
from proxy.protocol.luigi.task_reports import (
    MAX_ANSWER_BYTES,
    REMEMBERED_SECONDS,
    TaskReports,
)
from tests.support.stage import POLICIES

CATALOG = load_catalog(POLICIES / "catalogs" / "luigi.toml")
ALICE = Principal("https://idp.example", "okta", "alice", ("worker",))
SIGNER = BatchIdSigner(b"k" * 32, "luigi")
MINE = "w [okta:alice]"
THEIRS = "w [okta:bob]"
BATCH = SIGNER.sign(ALICE, "A", "0cc175b9", "A_7")


class Clock:
    """A clock that is set by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    """Time stands still."""
    return Clock()


@pytest.fixture
def reports(clock: Clock) -> TaskReports:
    """Nothing is remembered yet."""
    return TaskReports("/luigid", clock)


def call(method: str = "add_task", **args: Any) -> Call:
    """A call by Alice about the task ``A_1``."""
    given = {"task_id": "A_1", **args}
    if method == "add_task":
        given = {"worker": "w", "family": "A", **given}
    return make_call("luigi", CATALOG, method, given, ALICE, SIGNER)


def asked(question: Question | None) -> tuple[str, dict[str, Any]] | None:
    """Return the method and the arguments of a question, which are also what is recorded."""
    if question is None:
        return None
    request = question.request
    assert (request.kind, request.max_buffered) == ("question", MAX_ANSWER_BYTES)
    path = request.path.decode()
    assert path.startswith("/luigid/api/")
    args = json.loads(parse_qs(request.body.decode())["data"][0])
    method = path.rpartition("/")[2]
    recorded = question.call
    assert (recorded.method, dict(recorded.args), recorded.permission) == (method, args, "work")
    return method, args


def answer(worker: str | None, status: str = "RUNNING", task: str = "A_1") -> UpstreamResponse:
    """Return luigid's answer about a task."""
    entry = {"status": status, "worker_running": worker}
    return UpstreamResponse(200, {}, json.dumps({"response": {task: entry}}).encode())


def raw(response: Any) -> UpstreamResponse:
    """Return any answer."""
    return UpstreamResponse(200, {}, json.dumps({"response": response}).encode())


UNASKED = [
    call(),
    call(status="DONE"),
    call(status="RUNNING", runnable=True, deps=["A_2"], priority=3, batchable=True, new_deps=[]),
    call(new_deps=None, expl=None, tracking_url=None, batch_id=None),
    call(status="DONE", expl='""', new_deps=[]),
    call(status="DONE", expl="null", new_deps=[]),
]


@pytest.mark.parametrize("ordinary", UNASKED)
def test_what_luigid_checks_itself_is_not_asked(reports: TaskReports, ordinary: Call) -> None:
    """An announcement costs no question, nor does a status without a text."""
    assert reports.question(ordinary, ALICE, ()) is None


UNCHECKED = {
    "new-dependencies": call(new_deps=["A_2"]),
    "batch": call(status="RUNNING", batch_id=BATCH),
    "error": call(status="FAILED", expl="x"),
    "url": call(status="RUNNING", tracking_url="https://x.example"),
    "message": call("set_task_status_message", status_message="x"),
    "progress": call("set_task_progress_percentage", progress_percentage=1),
    "resources": call("decrease_running_task_resources", decrease_resources={"r": 1}),
    "statistics": call("report_task_statistics", statistics={}),
    "response": call("add_scheduler_message_response", message_id="m", response="x"),
}
ALWAYS = {"new-dependencies", "batch", "resources"}


@pytest.mark.parametrize("name", UNCHECKED)
def test_what_luigid_does_not_check_is_asked(reports: TaskReports, clock: Clock, name: str) -> None:
    """Of texts once a minute, and not at all while get_work has just said it."""
    given = UNCHECKED[name]
    question = ("dep_graph", {"task_id": "A_1", "include_done": False})
    assert asked(reports.question(given, ALICE, ())) == question
    reports.remember("A_1", THEIRS)
    assert asked(reports.question(given, ALICE, ())) == question
    reports.remember("A_1", MINE)
    expected = question if name in ALWAYS else None
    assert asked(reports.question(given, ALICE, ())) == expected
    reports.remember("A_1", MINE)
    clock.now = REMEMBERED_SECONDS
    assert asked(reports.question(given, ALICE, ())) == question


def test_a_task_that_ended_is_nobodys(reports: TaskReports) -> None:
    """The end of a task ends what is remembered of it."""
    reports.remember("A_1", MINE)
    assert reports.question(call(status="DONE", expl='""'), ALICE, ()) is None
    assert reports.question(UNCHECKED["message"], ALICE, ()) is not None


NOT_MINE = [
    pytest.param([answer(THEIRS)], id="another's"),
    pytest.param([answer("w [okta:alice2]")], id="nearly-mine"),
    pytest.param([answer(THEIRS, "BATCH_RUNNING")], id="in-another's-batch"),
    pytest.param([raw({"A_1": {}}), raw({"RUNNING": {"A_1": {}}})], id="never-said"),
]


@pytest.mark.parametrize("answers", NOT_MINE)
@pytest.mark.parametrize("name", UNCHECKED)
def test_what_is_anothers_to_say_is_left_out(
    reports: TaskReports, name: str, answers: list[UpstreamResponse]
) -> None:
    """luigid's own check holds for the rest of an add_task; a bare report is not sent at all."""
    given = UNCHECKED[name]
    if name == "batch":
        answers = [*answers, answer(MINE, "BATCH_RUNNING", "A_7")]
    assert reports.question(given, ALICE, answers) is None
    amended = reports.amend(given, ALICE, answers)
    if given.method == "add_task":
        assert isinstance(amended, Call)
        left_out = {"new_deps", "batch_id", "expl", "tracking_url"}
        assert dict(amended.args) == {
            key: value for key, value in given.args.items() if key not in left_out
        }
    else:
        assert isinstance(amended, UpstreamResponse)
        assert (amended.status, amended.body) == (200, b'{"response": null}')


MINE_TO_SAY = [
    pytest.param([answer(MINE)], id="mine"),
    pytest.param([answer(MINE, "BATCH_RUNNING")], id="in-my-batch"),
    pytest.param([answer(THEIRS, "DONE")], id="ended"),
    pytest.param([answer(None, "PENDING")], id="pending"),
    pytest.param([raw({})], id="unknown-to-luigid"),
    pytest.param(
        [
            raw({"A_1": {"status": "UNKNOWN"}}),
            raw({"RUNNING": {"A_1": {"status": "RUNNING", "worker_running": MINE}}}),
        ],
        id="without-a-family",
    ),
]


@pytest.mark.parametrize("answers", MINE_TO_SAY)
@pytest.mark.parametrize("name", UNCHECKED)
def test_the_rest_is_sent_whole(
    reports: TaskReports, name: str, answers: list[UpstreamResponse]
) -> None:
    """The runner's own reports, and what is said of a task that nothing runs."""
    given = UNCHECKED[name]
    if name == "batch":
        answers = [*answers, answer(MINE, "BATCH_RUNNING", "A_7")]
    assert reports.question(given, ALICE, answers) is None
    assert reports.amend(given, ALICE, answers) is given


@pytest.mark.parametrize(
    "member",
    [answer(THEIRS, "BATCH_RUNNING", "A_7"), answer(None, "PENDING", "A_7"), raw({})],
    ids=["another's", "pending", "gone"],
)
def test_a_batch_is_taken_up_only_while_it_is_the_callers(
    reports: TaskReports, member: UpstreamResponse
) -> None:
    """The id of an earlier batch of the same tasks is the same; one of its tasks is asked about."""
    given = UNCHECKED["batch"]
    answers = [raw({})]
    question = ("dep_graph", {"task_id": "A_7", "include_done": False})
    assert asked(reports.question(given, ALICE, answers)) == question
    amended = reports.amend(given, ALICE, [*answers, member])
    assert isinstance(amended, Call)
    assert "batch_id" not in amended.args


@pytest.mark.parametrize("name", UNCHECKED)
def test_a_worker_that_came_past_the_gate_has_no_identity(reports: TaskReports, name: str) -> None:
    """Its run is its own all the same; what pages show of it is anybody's who may report at all."""
    given, answers = UNCHECKED[name], [answer("w")]
    if name == "batch":
        answers.append(answer("w", "BATCH_RUNNING", "A_7"))
    sent = reports.amend(given, ALICE, answers) is given
    assert sent == (name in {"message", "progress", "statistics", "response"})


def test_the_end_of_a_batch_is_its_workers(reports: TaskReports) -> None:
    """luigid may have given the batch to another while the task that ran it went on."""
    taken_up = [raw({}), answer(MINE, "BATCH_RUNNING", "A_7")]
    end = call(status="DONE")
    for worker, is_sent in ((THEIRS, False), (MINE, True), (None, True)):
        assert reports.question(end, ALICE, ()) is None
        reports.amend(UNCHECKED["batch"], ALICE, taken_up)
        assert reports.question(call(status="RUNNING"), ALICE, ()) is None
        assert reports.question(end, ALICE, ()) is not None
        answers = [answer(MINE), answer(worker, "BATCH_RUNNING" if worker else "DONE", "A_7")]
        assert reports.question(end, ALICE, answers) is None
        assert (reports.amend(end, ALICE, answers) is end) is is_sent
        reports.amend(end, ALICE, [answer(MINE), raw({})])


def test_a_task_without_a_family_is_searched_for(reports: TaskReports) -> None:
    """luigid's graph has no worker for it."""
    question = reports.question(UNCHECKED["error"], ALICE, [raw({"A_1": {"status": "UNKNOWN"}})])
    assert asked(question) == ("task_search", {"task_str": "A_1"})


class Endless:
    """A body that is too long to be buffered."""

    def __aiter__(self) -> Iterator[bytes]:
        raise AssertionError("nothing reads it")

    async def __anext__(self) -> bytes:
        raise AssertionError("nothing reads it")

    async def aclose(self) -> None:
        """Do nothing."""


def test_an_answer_too_large_to_read_says_nothing(reports: TaskReports) -> None:
    """What is not known is not the caller's to say."""
    endless: Any = Endless()
    answers = [UpstreamResponse(200, {}, stream=endless)] * 2
    given = UNCHECKED["new-dependencies"]
    assert reports.question(given, ALICE, answers) is None
    amended = reports.amend(given, ALICE, answers)
    assert isinstance(amended, Call)
    assert "new_deps" not in amended.args


@pytest.mark.parametrize(
    "odd",
    [
        UpstreamResponse(500, {}, b"<html>"),
        UpstreamResponse(200, {}, b"<html>"),
        UpstreamResponse(200, {}, b"[]"),
        UpstreamResponse(200, {}, b"[" * 100_000),
        UpstreamResponse(500, {}, b'{"response": {}}'),
        raw(None),
        raw([]),
    ],
)
def test_an_answer_that_is_none_fails_the_call(reports: TaskReports, odd: UpstreamResponse) -> None:
    """Nothing was sent, so the caller may try again."""
    with pytest.raises(Unavailable) as error:
        reports.question(UNCHECKED["new-dependencies"], ALICE, [odd])
    assert (error.value.reason, error.value.sent) == (Reason.UPSTREAM_INVALID, False)


def test_an_answer_is_remembered(reports: TaskReports) -> None:
    """A task that goes on reporting costs a question a minute."""
    reports.amend(UNCHECKED["url"], ALICE, [answer(MINE)])
    assert reports.question(UNCHECKED["message"], ALICE, ()) is None
