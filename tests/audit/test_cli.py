"""The verbs of ``callgate audit``, run as a user runs them."""

import asyncio
import csv
import importlib.util
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import orjson
import pytest
from typer.testing import CliRunner, Result

from proxy.audit.writing.keys import PUBLIC_KEYS
from proxy.cli.audit import app
from proxy.cli.audit.common import table
from proxy.model import Peer, Reason
from tests.support.audit import ALICE, DENY, HASH, Clock, call, one, open_journal
from tests.support.paths import ROOT

EVIL = Peer("10.9.9.9", 1, None, "\x1b[31mred\nforged line")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An audit directory with calls of every sort."""
    directory = tmp_path_factory.mktemp("made")

    async def fill() -> None:
        clock = Clock()
        journal = open_journal(directory, clock=clock)
        journal.policy_in_force(
            HASH, {"base.cedar": '@id("etl-workers-work") permit (principal, action, resource);'}
        )
        for n in range(3):
            await one(journal, n, lambda: call(task="etl.Load_1", password="hunter2"))
        clock.now += 24 * 3600 * 10**9
        await journal.decide("denied", ALICE, EVIL, [(call("pause\x1b]0;x", "admin"), DENY)], 0)
        for n in range(15):
            journal.rejected(f"R{n}", EVIL, Reason.NO_CREDENTIAL, "\x9b31m")
        await journal.close()

    asyncio.run(fill())
    return directory


@pytest.fixture
def audit(made: Path, tmp_path: Path) -> Path:
    """A copy to work on."""
    subprocess.run(["cp", "-a", str(made), str(tmp_path / "audit")], check=True)
    return tmp_path / "audit"


def run(*words: object, stdin: str | None = None) -> Result:
    """Run a verb."""
    return CliRunner().invoke(app, [str(word) for word in words], input=stdin)


READING = [
    ["tail"],
    ["tail", "--json"],
    ["query"],
    ["query", "--json"],
    ["query", "--csv"],
    ["stats"],
    ["stats", "--json"],
    ["show", "denied"],
    ["show", "call-1"],
    ["match", "--value", "hunter2"],
    ["prove", "call-1"],
    ["export"],
    ["export", "--form", "csv"],
    ["report", "changes"],
    ["report", "refusals"],
    ["report", "refusals", "--form", "html"],
    ["report", "refusals", "--form", "csv"],
    ["report", "completeness"],
]


@pytest.mark.parametrize("words", READING, ids=" ".join)
def test_reading_verbs_work_and_print_nothing_raw(audit: Path, words: list[str]) -> None:
    """Each verb succeeds, and whatever callers put into names and headers, no control character
    reaches the terminal.
    """
    result = run(*words, "--dir", audit)
    assert result.exit_code == 0, result.output
    assert result.stdout and not re.search(
        "[\x00-\x08\x0b-\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029]", result.stdout
    )
    assert not re.search("^forged line", result.stdout, re.MULTILINE) and (
        words[0] == "match" or "hunter2" not in result.stdout
    )


@pytest.mark.parametrize(
    "words",
    [
        *READING,
        ["verify"],
        ["archive"],
        ["key", "make"],
        ["key", "show"],
        ["verify-proof"],
        ["report", "access"],
    ],
    ids=" ".join,
)
def test_help_has_an_example(words: list[str]) -> None:
    """Every verb's help shows an example of itself."""
    verb = [
        word
        for word in words[: 2 if words[0] in ("report", "key") else 1]
        if not word.startswith("-")
    ]
    result = run(*verb, "--help")
    assert result.exit_code == 0 and f"Example: callgate audit {' '.join(verb)}" in re.sub(
        r"\s+", " ", result.stdout
    )


@pytest.mark.parametrize(
    "words",
    [
        ["tail"],
        ["query"],
        ["stats"],
        ["show", "x"],
        ["verify", "/none"],
        ["export"],
        ["report", "refusals"],
        ["query", "--since", "yesterday"],
        ["verify-proof", "/none", "--key", "/none"],
        ["match", "--value", "x"],
    ],
    ids=" ".join,
)
def test_what_cannot_be_told_is_2(tmp_path: Path, words: list[str]) -> None:
    """A directory, file or time that is not there or makes no sense is exit code 2, with a message,
    not a stack trace.
    """
    result = run(*words, *([] if words[0].startswith("verify") else ["--dir", tmp_path / "none"]))
    assert (
        result.exit_code == 2
        and result.stderr
        and not isinstance(result.exception, AttributeError | KeyError | TypeError)
    )


def test_the_answer_no_is_1(audit: Path) -> None:
    """Nothing found is exit code 1."""
    assert run("query", "--dir", audit, "--method", "none").exit_code == 1
    assert run("show", "none", "--dir", audit).exit_code == 1
    assert run("match", "--value", "hunter3", "--dir", audit).exit_code == 1
    assert run("prove", "none", "--dir", audit).exit_code == 1


def test_query_csv_is_whole(audit: Path) -> None:
    """Every row of the CSV has the header's columns."""
    rows = list(csv.reader(io.StringIO(run("query", "--csv", "--dir", audit).stdout)))
    assert len(rows) == 1 + 3 + 1 + 11 and {len(row) for row in rows} == {8}


def test_show_has_the_policy(audit: Path) -> None:
    """A call is shown with who, what came of it, and the text of the policy that decided."""
    shown = run("show", "call-1", "--dir", audit).stdout
    for part in (
        "okta|etl-07",
        "ok, status 200",
        '@id("etl-workers-work") permit',
        "After it",
        "hmac-sha256",
    ):
        assert part in shown


def test_match_reads_standard_input(audit: Path) -> None:
    """A suspected value need not stand on the command line, where others see it."""
    result = run("match", "--value", "-", "--dir", audit, stdin="hunter2\n")
    assert result.exit_code == 0 and result.stdout.count("password") == 3


def test_verify_and_keep_and_verify_from(audit: Path, tmp_path: Path) -> None:
    """Intact is 0, the kept checkpoint serves the next check, damage is 1 and named, another key is
    1.
    """
    key, kept = audit / PUBLIC_KEYS, tmp_path / "kept"
    first = run("verify", audit, "--key", key, "--keep", kept)
    assert first.exit_code == 0 and "INTACT" in first.stdout
    assert run("verify", audit, "--key", key, "--from", kept).exit_code == 0
    assert run("verify", audit / "gate" / "00000002.jsonl", "--key", key).exit_code == 0
    beside = run("verify", audit)
    assert beside.exit_code == 0 and "Whoever could alter the log" in beside.stderr
    segment = audit / "gate" / "00000001.jsonl"
    segment.write_bytes(segment.read_bytes().replace(b"call-1", b"call-9", 1))
    damaged = run("verify", audit, "--key", key, "--json")
    document = orjson.loads(damaged.stdout)
    assert damaged.exit_code == 1 and (
        document["intact"],
        document["wrong"],
        document["segment"],
    ) == (False, "altered", 1)
    assert f"record {document['record']}" in run("verify", audit, "--key", key).stdout


def test_checkpoints_of_all_logs_are_kept_in_one_file(audit: Path, tmp_path: Path) -> None:
    """A gate that was reloaded has several logs: --keep and --from take all of them, and a log that
    is gone or shortened shows.
    """
    asyncio.run(open_journal(audit, "gate-2").close())
    kept = tmp_path / "kept"
    assert run("verify", audit, "--keep", kept).exit_code == 0
    assert (
        run("verify", audit, "--from", kept).exit_code == 0
        and run("verify", audit / "gate-2", "--from", kept).exit_code == 0
    )
    assert run("report", "changes", "--dir", audit, "--at", kept).exit_code == 0
    away = (audit / "gate-2").rename(tmp_path / "away")
    gone = run("verify", audit, "--from", kept)
    assert (
        gone.exit_code == 1
        and "the log is not here" in gone.stdout
        and run("verify", audit).exit_code == 0
    )
    away.rename(audit / "gate-2")
    for path in (audit / "gate").glob("00000002.*"):
        path.unlink()
    assert (
        run("verify", audit).exit_code == 0
        and "does not end in order" in run("verify", audit).stdout
    )
    assert run("verify", audit, "--from", kept).exit_code == 1
    assert run("verify", audit, "--keep", tmp_path / "none" / "kept").exit_code == 2


def test_a_key_is_a_file_or_the_key(audit: Path) -> None:
    """What key show prints can be given as it is; what is neither is refused in words."""
    key = run("key", "show", "--dir", audit).stdout.strip()
    assert run("verify", audit, "--key", key).exit_code == 0
    for wrong in ("none.pub", "a+b+c"):
        result = run("verify", audit, "--key", wrong)
        assert result.exit_code == 2 and wrong in result.stderr and "Error" not in result.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("--class", "admn"),
        ("--decision", "denied"),
        ("--reason", "norole"),
        ("--address", "10.0.0.0/8"),
    ],
    ids=" ".join,
)
def test_a_mistyped_filter_is_no_answer(audit: Path, words: tuple[str, str]) -> None:
    """A word that no record can hold is refused: none found would read as none happened."""
    result = run("query", *words, "--dir", audit)
    assert result.exit_code == 2 and words[1] in result.stderr


def test_no_call_is_said(audit: Path) -> None:
    """Nothing found is said; and what the table calls rejected is found by that name."""
    assert "no call matches" in run("query", "--method", "none", "--dir", audit).stderr
    assert (
        run("query", "--decision", "rejected", "--dir", audit).stdout
        == run("query", "--decision", "reject", "--dir", audit).stdout
        != ""
    )


@pytest.mark.parametrize(
    "words",
    [["tail"], ["query"], ["stats"], ["report", "refusals"], ["report", "access"]],
    ids=" ".join,
)
def test_a_directory_without_logs_is_refused(tmp_path: Path, words: list[str]) -> None:
    """Where there is no log there is no answer, least of all that nothing was refused."""
    result = run(*words, "--dir", tmp_path)
    assert result.exit_code == 2 and "there is no log in" in result.stderr


def test_rows_are_not_folded_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """However narrow the terminal, a row is one line with the id in one piece."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "40")
    table([("2026-01-01T00:00:00.000000Z", "x" * 60, "7Q2M4K1X")], ("time", "who", "id"))
    header, row = re.sub("\x1b\\[[0-9;]*m", "", capsys.readouterr().out).splitlines()
    assert header.split() == ["time", "who", "id"] and row.split() == [
        "2026-01-01T00:00:00.000000Z",
        "x" * 60,
        "7Q2M4K1X",
    ]


def test_prove_and_verify_proof(audit: Path, tmp_path: Path) -> None:
    """A proof holds with the public key alone, and a changed one does not."""
    proof = tmp_path / "proof"
    proof.write_text(run("prove", "call-2", "--dir", audit).stdout)
    good = run("verify-proof", proof, "--key", audit / PUBLIC_KEYS)
    assert good.exit_code == 0 and good.stdout.count("PROVED") == 2
    proof.write_text(proof.read_text().replace("etl-07", "etl-08"))
    assert run("verify-proof", proof, "--key", audit / PUBLIC_KEYS).exit_code == 1


def test_archive(audit: Path, tmp_path: Path) -> None:
    """Old segments move, on record; what is left and what was moved verify; a dry run moves
    nothing.
    """
    words = ("archive", "--before", "2026-01-02", "--to", tmp_path / "old", "--dir", audit)
    assert run(*words, "--dry-run").exit_code == 0 and not (tmp_path / "old").exists()
    result = run(*words)
    assert result.exit_code == 0 and "moved 1 segment" in result.stdout
    assert run("verify", audit).exit_code == 0 and run("verify", tmp_path / "old").exit_code == 0
    assert "archived to" in run("verify", audit).stdout
    assert "nothing is that old" in run(*words).stdout
    assert run("verify", audit / "gate").exit_code == 0


def test_keys(audit: Path, tmp_path: Path) -> None:
    """A key is made once and private; the public keys are shown, also under a log's own name."""
    made = tmp_path / "signing.key"
    assert run("key", "make", made).exit_code == 0 and made.stat().st_mode & 0o777 == 0o600
    assert run("key", "make", made).exit_code == 2
    assert run("key", "show", "--dir", audit).stdout.startswith("callgate+")
    assert run("key", "show", "--dir", audit, "--log", "gate").stdout.startswith("callgate/gate+")


def test_export_is_json_lines(audit: Path, tmp_path: Path) -> None:
    """Each line is an event; Parquet needs a file to go to."""
    lines = run("export", "--dir", audit).stdout.splitlines()
    assert len(lines) == 15 and all(orjson.loads(line)["class_uid"] == 6003 for line in lines)
    assert run("export", "--form", "parquet", "--dir", audit).exit_code == 2


def test_parquet_with_and_without_the_extra(audit: Path, tmp_path: Path) -> None:
    """With pyarrow, an extra, the file has all rows and columns; without it the refusal says what
    to install.
    """
    result = run("export", "--form", "parquet", "--out", tmp_path / "x.parquet", "--dir", audit)
    if importlib.util.find_spec("pyarrow") is None:
        assert result.exit_code == 2 and "pip install" in result.stderr
    else:
        table = importlib.import_module("pyarrow.parquet").read_table(tmp_path / "x.parquet")
        assert result.exit_code == 0 and table.num_rows == 15 and "subject" in table.column_names


def test_following_prints_what_comes(audit: Path) -> None:
    """tail -f shows a record of a process that began after it did, and ends quietly when
    interrupted.
    """
    code = "from proxy.cli.audit import app; app()"
    command = [sys.executable, "-c", code, "tail", "-f", "-n", "1", "--json", "--dir", str(audit)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)}
    ) as process:
        assert process.stdout is not None
        assert orjson.loads(process.stdout.readline())["stage"] == "closed"

        async def later() -> None:
            await open_journal(audit, "late").close()

        asyncio.run(later())
        assert [orjson.loads(process.stdout.readline())["stage"] for _ in range(3)] == [
            "segment",
            "opened",
            "closed",
        ]
        process.terminate()
