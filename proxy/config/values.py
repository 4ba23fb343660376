"""The kinds of value a setting can have beyond text and numbers: paths, secrets, addresses, URLs.

Each validator takes what TOML gave and returns the value, or raises an error that holds a hint. No
message repeats the value that it refuses: a misplaced password must not end up in a log. Relative
paths start at the directory of the settings file, which arrives in the validation context together
with the environment.
"""

import ipaddress
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, TypedDict, cast
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, BeforeValidator, ValidationInfo

from proxy.common.address import is_loopback
from proxy.common.validation import invalid

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
_SEGMENT = re.compile(r"[A-Za-z0-9_~-][A-Za-z0-9._~-]*")
_HOST = re.compile(r"[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\]")


class Context(TypedDict):
    """The validation context: the settings file and the environment."""

    file: Path
    environ: Mapping[str, str]


def _context(info: ValidationInfo) -> Context:
    assert info.context is not None, "load_settings passes it"
    return cast(Context, info.context)


class Secret:
    """A value that must not be printed: only `reveal` returns it.

    `file` is the path it was read from, or None if it came from the environment. Certificates that
    are read again by path need it.
    """

    __slots__ = ("_value", "file", "source")

    def __init__(self, value: str, source: str, file: Path | None = None) -> None:
        """`source` says in words where `value` came from."""
        self._value = value
        self.source = source
        self.file = file

    def reveal(self) -> str:
        """Return the secret, without the line end that files close with."""
        return self._value

    def __repr__(self) -> str:
        return f"Secret(from {self.source})"


def _path(value: object, info: ValidationInfo) -> Path:
    if isinstance(value, Path):
        return value
    if not isinstance(value, str) or not value or "\0" in value:
        raise invalid(
            "must be the path of a file or directory, as text",
            "Write it in quotes; relative paths start at the settings file.",
        )
    return _context(info)["file"].parent / Path(value).expanduser()


def _existing_file(path: Path) -> Path:
    if not path.exists():
        raise invalid("the file does not exist", f"Create {path}, or correct the path.")
    if not path.is_file():
        raise invalid("is not a file", f"Name a regular file instead of {path}.")
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise invalid(
            f"the file cannot be read ({error.strerror})",
            f"Give the user of Callgate the right to read {path}.",
        ) from error
    return path


def _existing_directory(path: Path) -> Path:
    if not path.is_dir():
        raise invalid("the directory does not exist", f"Create {path}, or correct the path.")
    return path


def _directory_or_nothing(path: Path) -> Path:
    if path.exists() and not path.is_dir():
        raise invalid("is not a directory", f"Name a directory instead of {path}.")
    return path


ExistingFile = Annotated[Path, BeforeValidator(_path), AfterValidator(_existing_file)]
ExistingDirectory = Annotated[Path, BeforeValidator(_path), AfterValidator(_existing_directory)]
Directory = Annotated[Path, BeforeValidator(_path), AfterValidator(_directory_or_nothing)]

_NAMING_HINT = 'Write { file = "path" } or { env = "NAME" }.'


def _secret(value: object, info: ValidationInfo) -> Secret:
    if isinstance(value, Secret):
        return value
    if not isinstance(value, Mapping):
        raise invalid("is a literal secret, which settings must not hold", _NAMING_HINT)
    if len(value) != 1 or next(iter(value)) not in {"file", "env"}:
        raise invalid("a secret has exactly one of file and env", _NAMING_HINT)
    (kind, name), *_ = value.items()
    if not isinstance(name, str) or not name:
        raise invalid(f"the {kind} of a secret must be text", _NAMING_HINT)
    if kind == "env":
        return _secret_of_environment(name, _context(info)["environ"])
    return _secret_of_file(_existing_file(_path(name, info)))


def _secret_of_environment(name: str, environ: Mapping[str, str]) -> Secret:
    found = environ.get(name, "")
    if not found:
        raise invalid(
            f"the environment variable {name} is not set",
            f"Set {name} for the process of Callgate, or use file.",
        )
    return Secret(found, f"the environment variable {name}")


def _secret_of_file(path: Path) -> Secret:
    mode = path.stat().st_mode
    if mode & 0o037:  # `proxy.cli.file_modes` knows which group may read it
        raise invalid(
            f"the file with the secret is open to other users (mode {mode & 0o777:04o})",
            f"Run: chmod 600 {path}",
        )
    try:
        text = path.read_text(encoding="utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise invalid(
            "the file with the secret is not UTF-8 text",
            "Write the secret as text (keys and certificates as PEM).",
        ) from error
    if not text:
        raise invalid("the file with the secret is empty", f"Write the secret into {path}.")
    return Secret(text, f"the file {path}", path)


SecretValue = Annotated[Secret, BeforeValidator(_secret)]


def _name(value: str) -> str:
    if not NAME.fullmatch(value):
        raise invalid(
            "is not a name: 1 to 32 of a-z, 0-9 and -, the first no -",
            'Choose a short name such as "okta" or "luigi-prod".',
        )
    return value


def _address(value: str) -> str:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        if value != "localhost":
            raise invalid(
                "is not an IP address", 'Write an address such as "127.0.0.1", "0.0.0.0" or "::".'
            ) from None
    return value


def _network(value: str) -> str:
    try:
        network = ipaddress.ip_network(value)
    except ValueError:
        hint = 'Write an address or a network such as "10.0.0.7" or "10.0.0.0/24".'
        raise invalid("is not a network", hint) from None
    if value.lower().startswith("::ffff:") or "%" in value:
        raise invalid("would match no peer", "Write the IPv4 network, or the address without zone.")
    if not network.prefixlen:
        hint = "List the addresses of the balancers."
        raise invalid("lets every address say which client it is", hint)
    return value


def _prefix(value: str) -> str:
    segments = value.split("/")[1:]
    if value == "/":
        return value
    if not value.startswith("/") or not all(_SEGMENT.fullmatch(part) for part in segments):
        raise invalid(
            "is not a path prefix",
            'Write "/" or a path such as "/team-a": letters, digits and ._~-, no / at the end.',
        )
    if segments[0] == "-":
        raise invalid("is reserved", "Choose a prefix that does not begin with /-.")
    return value


def split_url(value: str) -> SplitResult:
    """Split an absolute URL, and refuse what is ambiguous: user info, odd hosts, bad ports."""
    hint = 'Write it like "https://host.example:8082".'
    if not value.isascii() or any(char <= " " or char in '\\"<>^`{|}\x7f' for char in value):
        raise invalid("is not a URL: it has blanks or characters that URLs cannot have", hint)
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError:
        raise invalid("is not a URL", hint) from None
    if "@" in parts.netloc:
        raise invalid(
            "has a user name or password in it",
            'Remove it. Set the password of an upstream by basic_auth = { file = "path" }.',
        )
    host = parts.netloc.removesuffix(f":{port}") if port is not None else parts.netloc
    if parts.scheme not in {"http", "https"} or not _HOST.fullmatch(host) or port == 0:
        raise invalid("is not an http or https URL", hint)
    if parts.query or parts.fragment or value.endswith(("?", "#")):
        raise invalid("must have no query and no fragment", "End the URL before the ? or #.")
    return parts


def _issuer_url(value: str) -> str:
    parts = split_url(value)
    if parts.scheme != "https":
        raise invalid(
            "must begin with https://",
            "Use the issuer's https URL, exactly as in the iss of its tokens.",
        )
    return value


def _upstream_url(value: str) -> str:
    if value.startswith("unix:"):
        if not value.startswith("unix:/"):
            raise invalid(
                "is not the absolute path of a socket", 'Write it like "unix:/run/supervisor.sock".'
            )
        return value
    if split_url(value).path not in {"", "/"}:
        raise invalid(
            "must have no path",
            "Write scheme, host and port here, and the path in upstream_path.",
        )
    return value.rstrip("/")


def _public_url(value: str) -> str:
    parts = split_url(value)
    if parts.scheme != "https":
        raise invalid("must begin with https://", "Write the URL that users have in their browser.")
    if parts.path not in {"", "/"}:
        raise invalid("must have no path", "Write scheme, host and port only.")
    return value.rstrip("/")


def _request_path(value: str, info: ValidationInfo) -> str:
    if value and _prefix(value) == "/":
        return "/" if info.data.get("protocol") == "xmlrpc" else ""
    return value


def _metrics_address(value: str) -> str:
    if not is_loopback(_address(value)):
        raise invalid(
            "must be a loopback address",
            'Use "127.0.0.1" and an agent on this machine: metrics have no access control.',
        )
    return value


Name = Annotated[str, AfterValidator(_name)]
Address = Annotated[str, AfterValidator(_address)]
Network = Annotated[str, AfterValidator(_network)]
LoopbackAddress = Annotated[str, AfterValidator(_metrics_address)]
Prefix = Annotated[str, AfterValidator(_prefix)]
RequestPath = Annotated[str, AfterValidator(_request_path)]
PublicUrl = Annotated[str, AfterValidator(_public_url)]
IssuerUrl = Annotated[str, AfterValidator(_issuer_url)]
UpstreamUrl = Annotated[str, AfterValidator(_upstream_url)]
