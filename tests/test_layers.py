"""The dependency rule, and who may make the four types that are proofs, read from the sources."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.paths import ROOT

pytestmark = pytest.mark.interpreted  # read the sources

SOURCES = sorted((ROOT / "proxy").rglob("*.py"))

# Higher imports lower, never sideways: a layer may import what has a smaller number, and itself.
LEVELS = {
    "model": 0,
    "errors": 1,
    "audit": 2, "identity": 2, "policy": 2, "protocol": 2,
    "recorded": 3, "routes": 3, "views": 3,  # what the gate is made of
    "gate": 4,
    "edge": 5,
    "cli": 6,
}  # fmt: skip
# The settings stand beside the layers: read where things are wired, and nowhere below.
SETTINGS = ("config", "config_checks", "config_model", "config_values")
WIRING = ("proxy.runtime.process", "proxy.edge.wiring", "proxy.runtime.connectivity")

ONLY_IN = {
    "aiohttp": ("proxy.edge",),
    "uvloop": ("proxy.edge", "proxy.cli"),
    "httptools": ("proxy.edge",),
    "jwt": ("proxy.identity",),
    "cedarpy": ("proxy.policy",),
    "xml": ("proxy.protocol",),
    "defusedxml": ("proxy.protocol",),
    "lxml": (),
    "xmlrpc": (),
    "luigi": ("proxy.cli.demo.child",),
    "supervisor": ("proxy.cli.demo.child",),
    "pydantic": tuple(f"proxy.{name}" for name in SETTINGS),
    "typer": ("proxy.cli",),
    "rich": ("proxy.cli",),
}
MADE_BY = {
    "Principal": "proxy.identity",
    "Call": "proxy.protocol",
    "Decision": "proxy.policy",
    "Receipt": "proxy.audit",
}

# What `audit verify` is made of: its own two modules, and the format, which it has in common with
# the writer. Of the modules of the
# format that hold more than that, it takes these names alone: no file is made, no record written,
# no checkpoint signed with them.
CHECKER = {"proxy.audit.checking.verify", "proxy.audit.checking.chain"}
FORMAT = {
    "proxy.audit.format.merkle": {"Tree", "leaf_hash"},
    # also the writer's Signer
    "proxy.audit.format.checkpoint": {"BadCheckpointError", "Checkpoint", "check", "split"},
    # also the writer's I/O
    "proxy.audit.writing.disk": {
        "CHECKPOINT_SUFFIX",
        "OPERATOR",
        "SEALED_SUFFIX",
        "SEGMENT_SUFFIX",
        "logs",
        "segment_name",
        "segments",
    },
    "proxy.audit.reading.reader": {"DAMAGED", "open_segment"},
}


def module_name(path: Path) -> str:
    """Give the dotted name of a source file."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Give every import of a file, those within functions too, as line and absolute name."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            assert node.module is not None
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def within(name: str, *packages: str) -> bool:
    """Say whether the dotted `name` is one of `packages` or in one."""
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def layer(name: str) -> str:
    """Give the layer of a module below ``proxy``, or nothing for the package itself."""
    return name.split(".")[1] if "." in name else ""


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_higher_layers_import_lower_ones_and_never_sideways(path: Path) -> None:
    """cli > edge > gate > identity | protocol | policy | audit > errors > model; settings stop at
    the wiring.
    """
    here = module_name(path)
    for line, name in imports(path):
        if not within(name, "proxy") or name.startswith("proxy.__") or layer(here) == layer(name):
            continue
        place = f"{here}:{line}: imports {name}"
        if layer(here) in SETTINGS:
            assert layer(name) in ("errors", "model", *SETTINGS), place
        elif layer(name) in SETTINGS:
            assert within(here, "proxy.cli", *WIRING), (
                f"{place}: settings stop where things are wired"
            )
        elif layer(here) == "model":
            raise AssertionError(f"{place}: the nouns know nobody")
        elif layer(name):
            assert LEVELS[layer(name)] < LEVELS[layer(here)], place


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_each_library_stays_in_its_layer(path: Path) -> None:
    """Sockets are at the edge, tokens in identity, XML in protocol, Cedar in policy: a change of
    library is a change of one layer.
    """
    here = module_name(path)
    for line, name in imports(path):
        library = name.split(".")[0]
        if library in ONLY_IN:
            assert within(here, *ONLY_IN[library]), (
                f"{here}:{line}: imports {library}, which belongs to {ONLY_IN[library] or 'nobody'}"
            )


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_only_its_own_layer_makes_a_proof(path: Path) -> None:
    """A Principal proves identification, a Call decoding, a Decision deciding, a Receipt recording:
    nobody else may make one.
    """
    here = module_name(path)
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = (
            node.func.id
            if isinstance(node.func, ast.Name)
            else node.func.attr
            if isinstance(node.func, ast.Attribute)
            else ""
        )
        if name in MADE_BY:
            assert within(here, MADE_BY[name]), f"{here}:{node.lineno}: makes a {name}"
        # Copies with changes, and objects made without their constructor, would be ways around.
        first = node.args[0] if node.args else None
        if name in ("replace", "__new__", "copy") and isinstance(first, ast.Name):
            assert first.id not in MADE_BY, f"{here}:{node.lineno}: makes a {first.id}"
            proof = first.id.capitalize()
            assert proof not in MADE_BY or within(here, MADE_BY[proof]), (
                f"{here}:{node.lineno}: copies a {proof} with changes"
            )


def test_the_proofs_are_not_imported_under_another_name() -> None:
    """The rule above goes by name, so the names must not change."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                renamed = [
                    alias.name
                    for alias in node.names
                    if alias.asname and alias.asname != alias.name and alias.name in MADE_BY
                ]
                assert not renamed, f"{module_name(path)}:{node.lineno}: renames {renamed}"


def audit_imports(module: str) -> set[tuple[str, str]]:
    """Give what a module takes of the audit package, as module and name in it."""
    path = ROOT.joinpath(*module.split(".")).with_suffix(".py")
    return {
        (name.rpartition(".")[0], name.rpartition(".")[2])
        for _, name in imports(path)
        if within(name, "proxy.audit")
    }


def audit_closure(*modules: str) -> set[str]:
    """Give the modules of the audit package that `modules` are made of, themselves included."""
    found: set[str] = set()
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        if module not in found:
            found.add(module)
            waiting += [other for other, _ in audit_imports(module)]
    return found


def test_the_checker_of_logs_shares_the_format_with_their_writer_and_nothing_else() -> None:
    """A mistake of the writer must not hide itself: what checks a log knows the format alone, and
    the writer does not know the checker.
    """
    checker, writer = (
        audit_closure("proxy.audit.checking.verify"),
        audit_closure("proxy.audit.writing.journal"),
    )
    assert checker == CHECKER | FORMAT.keys()
    assert checker & writer == FORMAT.keys()
    for module in sorted(checker):
        for other, name in audit_imports(module):
            assert other in CHECKER or name in FORMAT[other], f"{module} takes {name} of {other}"
    assert {
        "proxy.audit.writing.writer",
        "proxy.audit.format.record",
        "proxy.audit.writing.group_commit",
        "proxy.audit.writing.recovery",
    } <= writer


def test_the_reader_of_imports_sees_them_in_functions_too() -> None:
    """The tests above would pass on anything if their reader found nothing."""
    found = {name for _, name in imports(ROOT / "proxy" / "cli" / "serve.py")}
    assert "proxy.config.loading.load_settings" in found
    assert "uvloop" in found
    assert len(SOURCES) > 30
