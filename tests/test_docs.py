"""The documents say what is so: verbs, options, files, settings, metrics and reasons exist."""

import re
import shlex
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from proxy.cli.demo.certificate import make_self_signed
from proxy.cli.main import VERBS, build
from proxy.config.loading import load_settings
from proxy.errors import REASONS
from tests.support.documents import DOCUMENTS, FILES, TEN_MINUTES, blocks
from tests.support.paths import ROOT

README = ROOT / "README.md"
DEPLOY = ROOT / "deploy"
GUIDE = DEPLOY / "guide"
MAX_README_LINES = 200
ALL = [*DOCUMENTS, *FILES]
NOW = 1_800_000_000.0
OPERATORS = {"|", "&&", ";", ">", "2>", "&"}


# -- the table of reasons


def test_the_table_of_reasons_is_the_codes_own() -> None:
    """Each row of `REASONS`, in its order, word for word: a refused caller reads it first."""
    text = (GUIDE / "refused.md").read_text(encoding="utf-8")
    [table] = re.findall(r"<!-- reasons -->\n(.*?)<!-- /reasons -->", text, re.DOTALL)
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in table.strip().splitlines()
    ]
    assert [len(row) for row in rows] == [4] * len(rows)
    assert set("".join(rows[1])) == {"-"}
    assert rows[2:] == [
        [f"`{reason}`", str(about.status), about.summary, about.hint]
        for reason, about in REASONS.items()
    ]


# -- commands


def commands(path: Path) -> Iterator[list[str]]:
    """Every ``callgate …`` in a document, in words without the name: in blocks, in inline code, and
    in unit and container files.
    """
    text = path.read_text(encoding="utf-8")
    lines = re.findall(r"^Exec\w+=(.*)$", text, re.MULTILINE) + re.findall(
        r"`(callgate [^`\n]+)`", text
    )
    for block in re.findall(r"^ *```sh\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL):
        lines += block.splitlines()
    if path.suffix == ".toml":
        lines += re.findall(r"^#.*: (callgate [^.]*)\.?$", text, re.MULTILINE)
    for array in re.findall(r"^CMD \[(.*)\]$", text, re.MULTILINE):
        lines.append("callgate " + array.replace(",", " "))
    for line in lines:
        words = shlex.split(line, comments=True)
        for at, word in enumerate(words):
            before = words[at - 1] if at else "|"
            if word.rpartition("/")[2] == "callgate" and (
                before in OPERATORS or re.fullmatch(r"[A-Z_]+=.*", before)
            ):
                rest = words[at + 1 :]
                end = next(
                    (place for place, word in enumerate(rest) if word in OPERATORS), len(rest)
                )
                if rest[:end]:
                    yield rest[:end]


def check(words: list[str]) -> None:
    """Walk down the verbs; every option has to be one that ``--help`` shows, and every further word
    has a place.
    """
    assert words[0] in VERBS, words
    command: Any = get_command(build(words[0]))
    rest = list(words)
    while hasattr(command, "commands"):
        if not rest:
            return  # a group by its name alone
        assert rest[0] in command.commands, (words, sorted(command.commands))
        command = command.commands[rest.pop(0)]
    options = {
        name: option
        for option in command.params
        for name in (*option.opts, *option.secondary_opts)
        if name.startswith("-")
    }
    places = sum(1 for one in command.params if not any(name.startswith("-") for name in one.opts))
    while rest:
        word = rest.pop(0)
        if not word.startswith("-"):
            places -= 1
            assert places >= 0, f"{words}: nothing takes {word}"
            continue
        name, _, value = word.partition("=")
        assert name in options, f"{words}: there is no {name}, but {sorted(options)}"
        if not value and not getattr(options[name], "is_flag", False):
            assert rest, f"{words}: {name} needs a value"
            rest.pop(0)


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_command_in_a_document_is_one(path: Path) -> None:
    """Verbs and options are those that ``--help`` knows: no document tells to type what is refused."""
    for words in commands(path):
        check(words)


def test_the_reader_of_commands_finds_them() -> None:
    """The test above would pass on anything if its reader found nothing, or took everything."""
    found = [words for path in ALL for words in commands(path)]
    assert len(found) >= 15
    assert ["serve", "--config", "/etc/callgate/callgate.toml"] in found
    assert [
        "token",
        "issue",
        "--config",
        ".demo/callgate.toml",
        "--subject",
        "etl-07",
        "--group",
        "worker",
        "--ttl",
        "1h",
    ] in found
    for wrong in (
        ["serve", "--port", "1"],
        ["serve", "x"],
        ["audit", "tale"],
        ["launch"],
        ["check", "--config"],
    ):
        with pytest.raises(AssertionError):
            check(wrong)


def test_every_verb_is_in_a_document() -> None:
    """A verb that no document names is not found."""
    told = {words[0] for path in ALL for words in commands(path)}
    # the demo is run by ``make run``, which the README begins with
    assert told | {"demo"} == set(VERBS)
    assert "callgate demo --dir .demo" in (ROOT / "Makefile").read_text(encoding="utf-8")


def test_the_make_commands_are_targets() -> None:
    """A document names targets of the Makefile only."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    for path in DOCUMENTS:
        text = path.read_text(encoding="utf-8")
        named = set(re.findall(r"(?m)`make ([a-z]+)|^make ([a-z]+)", text))
        assert {one or other for one, other in named} <= targets, path
    assert "make run" in README.read_text(encoding="utf-8")


def test_every_block_is_run_or_says_why_not() -> None:
    """A shell or Python block is run against the demo (tests/e2e/test_docs.py), or gives a reason."""
    offenders = [
        str(block)
        for path in DOCUMENTS
        for block in blocks(path)
        if block.language in ("sh", "python", "bash", "console")
        and block.not_run is None
        and ".demo" not in block.text
        and block.heading != TEN_MINUTES
        and not re.match(r"make (run|test|check|bench|soak|fuzz)\b", block.text)
    ]
    assert not offenders


def test_the_readme_is_short() -> None:
    """Everything that only one reader needs is in the guide."""
    assert len(README.read_text(encoding="utf-8").splitlines()) <= MAX_README_LINES


# -- files


def test_every_link_leads_somewhere() -> None:
    """Links are to files that exist, and to headings of them."""
    offenders = []
    for path in DOCUMENTS:
        text = path.read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            if re.match(r"https?:", target):
                continue
            name, _, anchor = target.partition("#")
            file = (path.parent / name) if name else path
            if not file.exists():
                offenders.append(f"{path.relative_to(ROOT)}: {target}")
            elif anchor:
                headings = re.findall(r"(?m)^#+ (.*)$", file.read_text(encoding="utf-8"))
                anchors = {re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings}
                if anchor not in anchors:
                    offenders.append(f"{path.relative_to(ROOT)}: {target}")
    assert not offenders


def test_every_file_that_a_document_names_is_there() -> None:
    """A folder or module in backticks exists."""
    offenders = []
    for path in DOCUMENTS:
        for name in re.findall(r"`([\w./*-]+)`", path.read_text(encoding="utf-8")):
            ours = re.match(r"(proxy|policies|deploy|tests)/", name) and "NAME" not in name
            if ours and not list(ROOT.glob(name.rstrip("/"))):
                offenders.append(f"{path.relative_to(ROOT)}: {name}")
    assert not offenders


def test_the_documents_name_the_paths_that_callgate_serves() -> None:
    """Probes and paths that are spelled otherwise in the code would be dead ends."""
    text = "".join(path.read_text(encoding="utf-8") for path in DOCUMENTS)
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "proxy").rglob("*.py"))
    for path in ("/-/healthz", "/-/readyz", "/RPC2", "/processes"):
        assert path in text
        assert path in sources


# -- settings


def deployed(tmp_path: Path, text: str) -> Path:
    """The example as an operator installs it, in a directory of the test's, with the files that it
    names.
    """
    etc, var = tmp_path / "etc", tmp_path / "var"
    etc.mkdir()
    var.mkdir(mode=0o700)
    made = make_self_signed(("localhost",), etc, now=NOW)
    for name in ("idp-ca.pem", "supervisor-ca.pem"):
        shutil.copy(made.ca, etc / name)
    shutil.copy(made.certificate, etc / "client.crt")
    shutil.copy(made.key, etc / "client.key")
    (etc / "okta-keys.json").write_text('{"keys": []}')
    (etc / "supervisor-password").write_text("gate:secret\n")
    for secret in ("client.key", "supervisor-password", "tls.key"):
        (etc / secret).chmod(0o600)
    shutil.copytree(ROOT / "policies", etc / "policies")
    path = etc / "callgate.toml"
    path.write_text(
        text.replace("/etc/callgate", str(etc)).replace("/var/lib/callgate", str(var)),
        encoding="utf-8",
    )
    return path


def test_the_example_settings_can_be_read(tmp_path: Path) -> None:
    """As it stands, with the files that it names in their places: no problem, and what it says is
    what is set.
    """
    settings = load_settings(
        deployed(tmp_path, (DEPLOY / "callgate.toml").read_text(encoding="utf-8")), environ={}
    )
    assert [(each.address, each.port) for each in settings.listeners] == [("0.0.0.0", 8443)]
    assert [issuer.name for issuer in settings.issuers] == ["okta"]
    assert [(upstream.name, upstream.protocol) for upstream in settings.upstreams] == [
        ("luigi", "luigi"),
        ("processes", "xmlrpc"),
    ]


def test_the_example_settings_with_every_default_written_out_are_the_same(tmp_path: Path) -> None:
    """Uncommenting a line changes nothing: each shows the value that holds without it."""
    text = (DEPLOY / "callgate.toml").read_text(encoding="utf-8")
    (tmp_path / "a").mkdir()
    plain = load_settings(deployed(tmp_path / "a", text), environ={})
    shutil.rmtree(tmp_path / "a")
    (tmp_path / "a").mkdir()
    # keys without a default: a signing key is made, the others mean "no such thing"
    bare = r"# (signing_key|public_url|\[state\]|directory = .*/state)"
    lines = [line for line in text.splitlines() if not re.match(bare, line)]
    full = re.sub(r"(?m)^# (?=\[[a-z]|[a-z_]+ = )", "", "\n".join(lines))
    assert len(tomllib.loads(full)["limits"]) > 5
    written = load_settings(deployed(tmp_path / "a", full), environ={})
    ignored = {"listeners", "upstreams"}
    assert written.model_dump(exclude=ignored) == plain.model_dump(exclude=ignored)
    for mine, yours in zip(written.listeners, plain.listeners, strict=True):
        assert mine.model_dump(exclude={"key"}) == yours.model_dump(exclude={"key"})
    for one, other in zip(written.upstreams, plain.upstreams, strict=True):
        secrets = {"client_key", "basic_auth"}
        assert one.model_dump(exclude=secrets) == other.model_dump(exclude=secrets)
