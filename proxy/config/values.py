"""The kinds of value a setting can have beyond text and numbers: paths, secrets, addresses,
prefixes, URLs.

Each validator takes what stood in the TOML file and returns the value or raises a
`PydanticCustomError` whose context holds the remedy. No message repeats the value it refuses: a
misplaced password must not end up in a log. Relative paths are relative to the directory of the
settings file, which arrives in the validation context with the environment.
"""

import ipaddress
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, TypedDict, cast
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, BeforeValidator, ValidationInfo
from pydantic_core import PydanticCustomError

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
_SEGMENT = re.compile(r"[A-Za-z0-9_~-][A-Za-z0-9._~-]*")
_HOST = re.compile(r"[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\]")


class Context(TypedDict):
    """What the validators are given: where relative paths start, and the environment."""

    base: Path
    environ: Mapping[str, str]


def _context(info: ValidationInfo) -> Context:
    assert info.context is not None, "load_settings gives it"
    return cast(Context, info.context)


def wrong(what: str, remedy: str) -> PydanticCustomError:
    """Build the error that becomes a `Problem`: `what` is wrong, and the `remedy`."""
    return PydanticCustomError("callgate", "{what}", {"what": what, "remedy": remedy})


class Secret:
    """A value that must not be printed: `reveal` gives it, everything else hides it.

    `file` is the path it was read from, or None when it came from the environment; certificates
    re-read by path need it.
    """

    __slots__ = ("_value", "file", "source")

    def __init__(self, value: str, source: str, file: Path | None = None) -> None:
        """Keep `value`; `source` says in words where it came from."""
        self._value = value
        self.source = source
        self.file = file

    def reveal(self) -> str:
        """Give the secret itself, without the line end that files close with."""
        return self._value

    def __repr__(self) -> str:
        return f"Secret(from {self.source})"


def _path(value: object, info: ValidationInfo) -> Path:
    if isinstance(value, Path):
        return value
    if not isinstance(value, str) or not value or "\0" in value:
        raise wrong(
            "must be the path of a file or directory, as text",
            "Write it in quotes; relative paths start at the settings file.",
        )
    return _context(info)["base"] / Path(value).expanduser()


def _existing_file(path: Path) -> Path:
    if not path.exists():
        raise wrong("the file does not exist", f"Create {path}, or correct the path.")
    if not path.is_file():
        raise wrong("is not a file", f"Name a regular file instead of {path}.")
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise wrong(
            f"the file cannot be read ({error.strerror})",
            f"Give the gate's user the right to read {path}.",
        ) from error
    return path


def _existing_directory(path: Path) -> Path:
    if not path.is_dir():
        raise wrong("the directory does not exist", f"Create {path}, or correct the path.")
    return path


def _directory_or_nothing(path: Path) -> Path:
    if path.exists() and not path.is_dir():
        raise wrong("is not a directory", f"Name a directory; {path} is something else.")
    return path


ExistingFile = Annotated[Path, BeforeValidator(_path), AfterValidator(_existing_file)]
ExistingDirectory = Annotated[Path, BeforeValidator(_path), AfterValidator(_existing_directory)]
Directory = Annotated[Path, BeforeValidator(_path), AfterValidator(_directory_or_nothing)]

_HOW_TO_NAME_IT = 'Write { file = "path" } or { env = "NAME" }.'


def _secret(value: object, info: ValidationInfo) -> Secret:
    if isinstance(value, Secret):
        return value
    if not isinstance(value, Mapping):
        raise wrong("a secret must not stand in the settings", _HOW_TO_NAME_IT)
    if len(value) != 1 or next(iter(value)) not in {"file", "env"}:
        raise wrong("a secret is named by exactly one of file and env", _HOW_TO_NAME_IT)
    (kind, name), *_ = value.items()
    if not isinstance(name, str) or not name:
        raise wrong(f"the secret's {kind} must be text", _HOW_TO_NAME_IT)
    if kind == "env":
        return _secret_of_environment(name, _context(info)["environ"])
    return _secret_of_file(_existing_file(_path(name, info)))


def _secret_of_environment(name: str, environ: Mapping[str, str]) -> Secret:
    found = environ.get(name, "")
    if not found:
        raise wrong(
            f"the environment variable {name} is not set",
            f"Set {name} for the gate's process, or use file.",
        )
    return Secret(found, f"the environment variable {name}")


def _secret_of_file(path: Path) -> Secret:
    mode = path.stat().st_mode
    if mode & 0o077:
        raise wrong(
            f"the file with the secret is open to other users (mode {mode & 0o777:04o})",
            f"Run: chmod 600 {path}",
        )
    try:
        text = path.read_text(encoding="utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise wrong(
            "the file with the secret is not UTF-8 text",
            "Write the secret as text (keys and certificates as PEM).",
        ) from error
    if not text:
        raise wrong("the file with the secret is empty", f"Write the secret into {path}.")
    return Secret(text, f"the file {path}", path)


SecretValue = Annotated[Secret, BeforeValidator(_secret)]


def _name(value: str) -> str:
    if not NAME.fullmatch(value):
        raise wrong(
            "is not a name: 1 to 32 of a-z, 0-9 and -, not starting with -",
            'Choose a short name such as "okta" or "luigi-prod".',
        )
    return value


def _address(value: str) -> str:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        if value != "localhost":
            raise wrong(
                "is not an IP address", 'Write an address such as "127.0.0.1", "0.0.0.0" or "::".'
            ) from None
    return value


def is_loopback(address: str) -> bool:
    """Say whether `address` (an IP address or ``localhost``) can only be reached from this machine."""
    return address == "localhost" or ipaddress.ip_address(address).is_loopback


def _prefix(value: str) -> str:
    segments = value.split("/")[1:]
    if value == "/":
        return value
    if not value.startswith("/") or not all(_SEGMENT.fullmatch(part) for part in segments):
        raise wrong(
            "is not a path prefix",
            'Write "/" or a path such as "/team-a": no / at the end, no %, nothing but letters, digits and ._~-',
        )
    if segments[0] == "-":
        raise wrong("is the gate's own place", "Choose a prefix that does not begin with /-.")
    return value


def split_url(value: str) -> SplitResult:
    """Split an absolute URL; raises `PydanticCustomError` for anything ambiguous in it: user info,
    odd hosts, bad ports.
    """
    remedy = 'Write it like "https://host.example:8082".'
    if not value.isascii() or any(char <= " " or char in '\\"<>^`{|}\x7f' for char in value):
        raise wrong("is not a URL: it holds blanks or characters that URLs cannot have", remedy)
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError:
        raise wrong("is not a URL", remedy) from None
    if "@" in parts.netloc:
        raise wrong(
            "holds a user name or password",
            'Take it out of the URL; an upstream\'s own password goes to basic_auth = { file = "path" }.',
        )
    host = parts.netloc.removesuffix(f":{port}") if port is not None else parts.netloc
    if parts.scheme not in {"http", "https"} or not _HOST.fullmatch(host) or port == 0:
        raise wrong("is not an http or https URL", remedy)
    if parts.query or parts.fragment or value.endswith(("?", "#")):
        raise wrong("must have no query and no fragment", "Cut the URL before the ? or #.")
    return parts


def _issuer_url(value: str) -> str:
    parts = split_url(value)
    if parts.scheme != "https":
        raise wrong(
            "must begin with https://",
            "Use the issuer's https URL, exactly as it stands in the iss of its tokens.",
        )
    return value


def _upstream_url(value: str) -> str:
    if value.startswith("unix:"):
        if not value.startswith("unix:/"):
            raise wrong(
                "is not the absolute path of a socket", 'Write it like "unix:/run/supervisor.sock".'
            )
        return value
    if split_url(value).path not in {"", "/"}:
        raise wrong(
            "must have no path",
            "Write scheme, host and port here, and the path in the upstream's key upstream_path.",
        )
    return value.rstrip("/")


def _request_path(value: str) -> str:
    if value and _prefix(value) == "/":
        return ""
    return value


def _metrics_address(value: str) -> str:
    if not is_loopback(_address(value)):
        raise wrong(
            "must be a loopback address",
            'Metrics have no access control: use "127.0.0.1" and let an agent on this machine collect them.',
        )
    return value


Name = Annotated[str, AfterValidator(_name)]
Address = Annotated[str, AfterValidator(_address)]
LoopbackAddress = Annotated[str, AfterValidator(_metrics_address)]
Prefix = Annotated[str, AfterValidator(_prefix)]
RequestPath = Annotated[str, AfterValidator(_request_path)]
IssuerUrl = Annotated[str, AfterValidator(_issuer_url)]
UpstreamUrl = Annotated[str, AfterValidator(_upstream_url)]
