"""What the verbs of ``callgate catalog`` have in common: the server to ask, and how it is named.

A password is read from a file or the environment. One on the command line would be in the list of
processes and in the history of the shell, so a URL with one is refused, and is not repeated.
"""

import asyncio
import os
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, NoReturn, TypeVar

import typer

from proxy.clients.introspection import IntrospectionError, MethodNames, Server, sort_names
from proxy.common.durable_files import read_private
from proxy.common.text import escape_controls
from proxy.config.values import split_url
from proxy.errors import ConfigError

BASIC_AUTH = "CALLGATE_UPSTREAM_BASIC_AUTH"
DEFAULT_PATH = "/RPC2"
_MAX_NAMES_BYTES = 1 << 20

T = TypeVar("T")

Url = Annotated[
    str | None,
    typer.Argument(
        help="The server: http://host:port/RPC2, https://… or unix:/path/of.sock.",
        show_default=False,
    ),
]
Names = Annotated[
    Path | None,
    typer.Option("--names", help="Read the methods' names from this file, one a line, instead."),
]
BasicAuthFile = Annotated[
    Path | None,
    typer.Option(
        "--basic-auth-file",
        help=f"A file with user:password for the server (mode 0600). Or set {BASIC_AUTH}.",
    ),
]
CaFile = Annotated[
    Path | None, typer.Option("--ca-file", help="The CAs to trust, instead of the system's.")
]


def fail(text: str) -> NoReturn:
    """End with 2 and one line."""
    sys.stderr.write(f"callgate catalog: {escape_controls(text)}\n")
    raise typer.Exit(2)


def make_server(url: str, basic_auth_file: Path | None, ca_file: Path | None) -> Server:
    """Return the server that the options name."""
    basic_auth = _basic_auth(basic_auth_file)
    if url.startswith("unix:"):
        if not url.startswith("unix:/"):
            fail("the URL names no absolute path of a socket. Write it like unix:/run/server.sock.")
        return Server("", DEFAULT_PATH, url.removeprefix("unix:"), basic_auth)
    try:
        parts = split_url(url)
    except ValueError as error:
        if "@" in url:
            fail(f"the URL has a password in it. Pass it with --basic-auth-file or {BASIC_AUTH}.")
        fail(f"the URL {error}. Write it like http://localhost:9000/RPC2.")
    path = DEFAULT_PATH if parts.path in ("", "/") else parts.path
    origin = f"{parts.scheme}://{parts.netloc}"
    return Server(origin, path, basic_auth=basic_auth, ca_file=ca_file)


def show_server(server: Server) -> str:
    """Return the server's URL."""
    return f"unix:{server.socket}" if server.socket else server.origin + server.path


def ask(question: Coroutine[object, object, T]) -> T:
    """Return what a server answers; end with 2 when it does not."""
    try:
        return asyncio.run(question)
    except IntrospectionError as error:
        fail(str(error))
    except ConfigError as error:
        fail("; ".join(f"{each.location} {each.message}. {each.hint}" for each in error.problems))


def read_names(path: Path) -> MethodNames:
    """Return the names in a file, one a line; blank lines and comments (#) are skipped."""
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_NAMES_BYTES + 1)
        if len(data) > _MAX_NAMES_BYTES:
            fail(f"{path} is over {_MAX_NAMES_BYTES} bytes. Expected a name a line.")
        lines = [line.partition("#")[0].strip() for line in data.decode().splitlines()]
        return sort_names([line for line in lines if line])
    except OSError as error:
        fail(f"{path}: {error.strerror}. Name a file that can be read.")
    except UnicodeDecodeError:
        fail(f"{path} is not UTF-8. Save the file as UTF-8.")
    except IntrospectionError as error:
        fail(f"{path}: {error}")


def one_source(url: str | None, names: Path | None) -> None:
    """End with 2 unless exactly one of the two is given."""
    if (url is None) == (names is None):
        fail("expected a URL, or --names with a file. Pass one of them.")


def _basic_auth(file: Path | None) -> str:
    """Return ``user:password``, or an empty string."""
    if file is None:
        text, source = os.environ.get(BASIC_AUTH, ""), BASIC_AUTH
    else:
        source = str(file)
        try:
            text = read_private(file).decode()
        except OSError as error:
            fail(f"{file}: {error.strerror}. Name a file with user:password.")
        except UnicodeDecodeError:
            fail(f"{file} is not UTF-8. Save the file as UTF-8.")
        except ConfigError as error:
            fail(f"{file} can be read by other users. {error.problems[0].hint}.")
    text = text.strip()
    if text and (":" not in text or not text.isprintable()):
        fail(f"{source} holds no user:password. Write both on one line.")
    return text
