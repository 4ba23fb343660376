"""The files of a new installation, made in a directory of their own and then put in place.

The directory gets its name last, by one rename, so that it is there completely or not at all, and
one with content is never touched. Secrets have mode 0600, the directory 0700.
"""

import grp
import json
import os
import pwd
import re
import secrets
import shutil
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from proxy.cli.demo.certificate import make_self_signed
from proxy.cli.init import texts
from proxy.cli.shipped import shipped_policies
from proxy.common.durable_files import replace_atomically, sync_directory
from proxy.identity.local_issuer import LocalIssuer

CERTIFICATE_VALID = timedelta(days=365)
"""The lifetime of the certificate; callgate check warns in its last two weeks."""
_HOMES = (Path("/home"), Path("/root"), Path("/run/user"))
_TEMPORARY = (Path("/tmp"), Path("/var/tmp"))  # noqa: S108  (named, since the unit has its own)
_UNIT_PATH = re.compile(r"/[^\x00-\x1f\x7f\"'\\%$]*")


@dataclass(frozen=True, slots=True)
class Plan:
    """What to write. Files that are given are named by their absolute paths.

    `catalog` is the name of the catalog, `catalog_text` its text if it is not a shipped one.
    `upstream_path` and `basic_auth` are empty where the upstream needs none. `issuer` and
    `audience` are those of an identity provider, or empty for a local issuer.
    """

    directory: Path
    protocol: str
    name: str
    url: str
    upstream_path: str
    basic_auth: str
    ca_file: Path | None
    catalog: str
    catalog_text: str
    address: str
    port: int
    certificate: Path | None
    key: Path | None
    issuer: str
    audience: str
    user: pwd.struct_passwd

    @property
    def settings(self) -> Path:
        """The settings file."""
        return self.directory / "callgate.toml"

    @property
    def unit(self) -> Path:
        """The systemd unit."""
        return self.directory / "callgate.service"


def has_unit_path(directory: Path) -> bool:
    """Return whether systemd and the settings can name `directory`."""
    text = str(directory)
    return _UNIT_PATH.fullmatch(text) is not None and text.isprintable()


def program() -> str:
    """Return the command of this installation: the script, or the interpreter and the package."""
    script = Path(sys.executable).parent / "callgate"
    return f'"{script}"' if script.exists() else f'"{sys.executable}" -m proxy'


def host_names() -> tuple[str, ...]:
    """Return the names that a certificate of this host has."""
    names = ["localhost", socket.gethostname(), socket.getfqdn()]
    valid = [name for name in names if re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,62})", name)]
    return (*dict.fromkeys(valid), "127.0.0.1", "::1")


def is_taken(directory: Path) -> bool:
    """Return whether something is at `directory` other than an empty directory."""
    if directory.is_symlink():
        return True
    return directory.exists() and (not directory.is_dir() or any(directory.iterdir()))


def write_all(plan: Plan, check: Callable[[Path], None], *, now: float) -> None:
    """Write everything; `now` is in Unix seconds.

    `check` gets the path of the settings before the directory has its name, and raises
    `ConfigError` for what could not be served.

    Raises:
        ConfigError: as `check` does. Nothing is left.
        FileExistsError: the directory exists and is not empty.
        OSError: it cannot be written.

    """
    target = plan.directory
    if is_taken(target):
        raise FileExistsError(target)
    partial = target.with_name(f".{target.name}.{secrets.token_hex(8)}.partial")
    partial.mkdir(mode=0o700)
    try:
        _write(plan, partial, now)
        check(partial / plan.settings.name)
        if os.geteuid() == 0:
            for path in (partial, *partial.rglob("*")):
                os.chown(path, plan.user.pw_uid, plan.user.pw_gid, follow_symlinks=False)
        # A directory replaces an empty one, and fails on any other.
        partial.rename(target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    sync_directory(target.parent)


def _write(plan: Plan, directory: Path, now: float) -> None:
    (directory / "audit").mkdir(mode=0o700)
    if plan.certificate is None:
        make_self_signed(host_names(), directory, now=now, valid=CERTIFICATE_VALID)
    if not plan.issuer:
        LocalIssuer(directory / "issuer").prepare(now)
    if plan.basic_auth:
        _file(directory / "upstream-password", plan.basic_auth + "\n", 0o600)
    _write_policies(plan, directory / "policies")
    _file(directory / "callgate.toml", _settings(plan))
    _file(directory / "callgate.service", _unit(plan))


def _write_policies(plan: Plan, directory: Path) -> None:
    """Copy the shipped roles and policies that the catalog needs, and the catalog."""
    shipped = shipped_policies()
    (directory / "catalogs").mkdir(parents=True)
    for path in (directory, directory / "catalogs"):
        path.chmod(0o755)
    roles = (shipped / "roles.toml").read_text(encoding="utf-8")
    if plan.issuer:
        roles = roles.replace('issuer = "local"', 'issuer = "idp"')
    _file(directory / "roles.toml", roles)
    for name in ("roles.cedar", f"{plan.catalog}.cedar"):
        if (shipped / name).is_file():
            _file(directory / name, (shipped / name).read_text(encoding="utf-8"))
    file = f"catalogs/{plan.catalog}.toml"
    text = plan.catalog_text or (shipped / file).read_text(encoding="utf-8")
    _file(directory / file, text)


def _settings(plan: Plan) -> str:
    issuer = texts.LOCAL_ISSUER
    if plan.issuer:
        issuer = texts.ISSUER.format(
            issuer=json.dumps(plan.issuer), audience=json.dumps(plan.audience)
        )
    more = ""
    if plan.upstream_path:
        more += f"upstream_path = {json.dumps(plan.upstream_path)}\n"
    if plan.basic_auth:
        more += 'basic_auth = { file = "upstream-password" }\n'
    if plan.ca_file is not None:
        more += f"ca_file = {_quoted(plan.ca_file, '')}\n"
    return texts.SETTINGS.format(
        address=json.dumps(plan.address),
        port=plan.port,
        certificate=_quoted(plan.certificate, "tls.crt"),
        key=_quoted(plan.key, "tls.key"),
        issuer=issuer,
        name=json.dumps(plan.name),
        protocol=json.dumps(plan.protocol),
        url=json.dumps(plan.url),
        more=more,
        catalog=json.dumps(plan.catalog),
    )


def _quoted(path: Path | None, made: str) -> str:
    return json.dumps(made if path is None else str(path), ensure_ascii=False)


def _unit(plan: Plan) -> str:
    used = (plan.directory, Path(sys.executable))
    return texts.UNIT.format(
        unit=plan.unit,
        user=plan.user.pw_name,
        group=grp.getgrgid(plan.user.pw_gid).gr_name,
        program=program(),
        config=f'"{plan.settings}"',
        directory=f'"{plan.directory}"',
        home="read-only" if _below(used, _HOMES) else "yes",
        private_tmp="no" if _below(used, _TEMPORARY) else "yes",
    )


def _below(paths: tuple[Path, ...], roots: tuple[Path, ...]) -> bool:
    return any(path.is_relative_to(root) for path in paths for root in roots)


def _file(path: Path, text: str, mode: int = 0o644) -> None:
    replace_atomically(path, text.encode(), mode)
