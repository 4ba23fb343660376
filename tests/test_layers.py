"""The dependency rule, and which layer makes the four types that are proofs, read from the sources.

Each rule is one test that lists every offender.
"""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.support.paths import ROOT
from tests.support.sources import PROXY as SOURCES
from tests.support.sources import nodes

pytestmark = pytest.mark.interpreted  # read the sources

# Higher imports lower, never sideways: a layer may import those with a smaller number, and itself.
LEVELS = {
    "model": 0,
    "errors": 1,
    "common": 2,
    "catalog": 3,
    "config": 3,
    "state": 4,
    "audit": 5,
    "identity": 5,
    "policy": 5,
    "protocol": 5,
    "gate": 6,
    "edge": 7,
    "telemetry": 7,
    "web": 8,
    "runtime": 9,
    "clients": 10,
    "cli": 11,
}
# The settings are read where parts are wired, and by the commands.
READS_SETTINGS = ("proxy.runtime", "proxy.clients", "proxy.cli")

# What each room of `audit` may import of the others.
AUDIT_ROOMS: dict[str, set[str]] = {
    "redaction": set(),
    "format": {"redaction"},
    "reading": {"format", "redaction"},
    "writing": {"format", "redaction"},
    "checking": {"format", "redaction"},
    "reporting": {"checking", "reading", "format", "redaction"},
    "archive": {"writing", "checking", "reading", "format", "redaction"},
}

ONLY_IN: dict[str, tuple[str, ...]] = {
    "aiohttp": ("proxy.edge", "proxy.web", "proxy.clients", "proxy.runtime"),
    "uvloop": ("proxy.runtime", "proxy.cli"),
    "httptools": ("proxy.edge",),
    "jwt": ("proxy.identity",),
    "cedarpy": ("proxy.policy",),
    "xml": (),
    "defusedxml": (),
    "lxml": (),
    "xmlrpc": (),
    "luigi": ("proxy.cli.demo.child",),
    "supervisor": ("proxy.cli.demo.child",),
    "pydantic": ("proxy.config", "proxy.catalog.loading", "proxy.policy.roles", "proxy.common"),
    "typer": ("proxy.cli",),
    "rich": ("proxy.cli",),
}
MADE_BY = {
    "Principal": "proxy.identity",
    "Call": "proxy.protocol",
    "Decision": "proxy.policy",
    "Receipt": "proxy.audit",
}


def module_name(path: Path) -> str:
    """Return the dotted name of a source file."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def imports(path: Path) -> tuple[tuple[int, str], ...]:
    """Return every import of a file, inside functions too, as line and absolute name."""
    return tuple(_imports(path))


def _imports(path: Path) -> Iterator[tuple[int, str]]:
    for node in nodes(path):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            assert node.module is not None
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def within(name: str, *packages: str) -> bool:
    """Return whether the dotted `name` is one of `packages` or inside one."""
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def part(name: str, index: int) -> str:
    """Return the part of a dotted name at `index`, or an empty string."""
    parts = name.split(".")
    return parts[index] if len(parts) > index else ""


def test_higher_layers_import_lower_ones_and_never_sideways() -> None:
    """`LEVELS` is the dependency rule; a layer that it does not name is an offender too."""
    offenders = []
    for path in SOURCES:
        here = module_name(path)
        for line, name in imports(path):
            mine, other = part(here, 1), part(name, 1)
            if not within(name, "proxy") or not mine or not other or mine == other:
                continue
            if other.startswith("__") or mine == "__main__":
                continue  # `proxy.__version__`, and `python -m proxy` above all layers
            if LEVELS.get(other, 99) >= LEVELS.get(mine, -1):
                offenders.append(f"{here}:{line}: imports {name}")
    assert not offenders


def test_settings_stop_where_parts_are_wired() -> None:
    """Below the wiring, parts take plain arguments."""
    offenders = []
    for path in SOURCES:
        here = module_name(path)
        if within(here, "proxy.config", *READS_SETTINGS):
            continue
        offenders += [
            f"{here}:{line}: imports {name}"
            for line, name in imports(path)
            if within(name, "proxy.config")
        ]
    assert not offenders


def test_the_rooms_of_audit_import_what_their_rule_allows() -> None:
    """The writer and the checker of a log share the format and nothing else."""
    offenders = []
    for path in SOURCES:
        here = module_name(path)
        if not within(here, "proxy.audit") or here == "proxy.audit":
            continue
        for line, name in imports(path):
            mine, other = part(here, 2), part(name, 2)
            if not within(name, "proxy.audit") or mine == other:
                continue
            if other not in AUDIT_ROOMS[mine]:
                offenders.append(f"{here}:{line}: imports {name}")
    assert not offenders


def test_each_library_stays_in_its_layer() -> None:
    """A change of library is a change of one layer."""
    offenders = []
    for path in SOURCES:
        here = module_name(path)
        for line, name in imports(path):
            library = part(name, 0)
            if library in ONLY_IN and not within(here, *ONLY_IN[library]):
                offenders.append(f"{here}:{line}: imports {library}")
    assert not offenders


def test_only_its_own_layer_makes_a_proof() -> None:
    """A Principal proves identification, a Call decoding, a Decision deciding, a Receipt recording.

    Copies with changes, and objects made without their constructor, would be ways around.
    """
    offenders = []
    for path in SOURCES:
        here = module_name(path)
        for node in nodes(path):
            if not isinstance(node, ast.Call):
                continue
            function = node.func
            name = function.id if isinstance(function, ast.Name) else ""
            name = function.attr if isinstance(function, ast.Attribute) else name
            if name in MADE_BY and not within(here, MADE_BY[name]):
                offenders.append(f"{here}:{node.lineno}: makes a {name}")
            first = node.args[0] if node.args else None
            if name in ("replace", "__new__", "copy") and isinstance(first, ast.Name):
                proof = first.id.capitalize()
                if first.id in MADE_BY:
                    offenders.append(f"{here}:{node.lineno}: makes a {first.id}")
                elif proof in MADE_BY and not within(here, MADE_BY[proof]):
                    offenders.append(f"{here}:{node.lineno}: copies a {proof} with changes")
    assert not offenders


def test_the_proofs_are_not_imported_under_another_name() -> None:
    """The rule above goes by name, so the names must not change."""
    offenders = []
    for path in SOURCES:
        for node in nodes(path):
            if isinstance(node, ast.ImportFrom):
                offenders += [
                    f"{module_name(path)}:{node.lineno}: renames {alias.name}"
                    for alias in node.names
                    if alias.asname and alias.asname != alias.name and alias.name in MADE_BY
                ]
    assert not offenders


def test_no_module_imports_itself_in_a_circle() -> None:
    """Imports inside functions count too."""
    names = {module_name(path) for path in SOURCES}
    graph = {
        module_name(path): {
            name if name in names else name.rpartition(".")[0] for _, name in imports(path)
        }
        & names
        for path in SOURCES
    }
    done: set[str] = set()

    def visit(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, " > ".join([*above[above.index(name) :], name])
        if name not in done:
            for other in sorted(graph[name] - {name}):
                visit(other, (*above, name))
            done.add(name)

    for name in sorted(graph):
        visit(name, ())


def test_the_reader_of_imports_sees_them_in_functions_too() -> None:
    """The tests above would pass on anything if their reader found nothing."""
    found = {name for _, name in imports(ROOT / "proxy" / "cli" / "serve.py")}
    assert "proxy.config.loading.load_settings" in found
    assert len(SOURCES) > 30
