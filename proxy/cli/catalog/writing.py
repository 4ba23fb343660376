"""Writes the draft of a catalog as TOML.

Names and texts of the server are data of an untrusted party. A method's name is written if it is
one of XML-RPC's, of which no character needs an escape in TOML; types become those of the catalog;
of a help text one sentence of printable characters is kept, without markup, as a quoted string. The
result is parsed before it is returned. The same descriptions give the same text.
"""

import json
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence

from proxy.catalog.loading import parse_catalog
from proxy.cli.catalog.proposals import documented_arguments, propose_permission
from proxy.clients.introspection import MAX_TYPES, MethodDescription
from proxy.common.text import to_plain_ascii

MAX_HELP = 160  # characters of a help text that are kept
_MAX_ODD = 10  # names that are left out and shown
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_NO_HELP = "Not described by the server."
_TYPES: Mapping[str, tuple[str, str]] = {
    "string": ("string", "string"),
    "str": ("string", "string"),
    "int": ("integer", "integer"),
    "i4": ("integer", "integer"),
    "i8": ("integer", "integer"),
    "integer": ("integer", "integer"),
    "boolean": ("boolean", "boolean"),
    "bool": ("boolean", "boolean"),
    "double": ("number", "number"),
    "float": ("number", "number"),
    "struct": ("object", "object"),
    "dict": ("object", "object"),
    "array": ("any", "array"),
    "list": ("any", "array"),
    "nil": ("any", "null"),
}
"""Types of XML-RPC and of documentation: as an argument, and as what a method returns."""

_HEAD = """\
# A draft of a catalog: {count} that {source}.
#
# Each permission is "unclassified", which denies the method; callgate check counts these. Set it to
#   "view"      to read
#   "work"      for what a worker does for its own tasks
#   "trigger"   to cause work to run
#   "admin"     for everything else
# A proposal goes by the method's name and by nothing else. Read what the method does.
# Add required = true to arguments that the server requires, secret = true to passwords.
name = {name}
protocol = "xmlrpc"
"""


def write_catalog(
    name: str, methods: Sequence[MethodDescription], *, source: str, odd: Sequence[str] = ()
) -> str:
    """Return the text of a catalog called `name`.

    `source` says who lists the methods, as in "http://host:9000 lists". `odd` are names that a
    catalog cannot have; a comment says so.
    """
    count = f"the {len(methods)} methods" if len(methods) != 1 else "the one method"
    head = _HEAD.format(count=count, source=to_plain_ascii(source, 200), name=json.dumps(name))
    parts = [head, *_left_out(odd)]
    parts += ["\n" + "\n".join(_table(method)) + "\n" for method in methods]
    text = "".join(parts)
    # A draft that does not load would be ours to explain: nothing of the server can cause that.
    parse_catalog(text, f"{name}.toml")
    return text


def _left_out(odd: Sequence[str]) -> Iterator[str]:
    if not odd:
        return
    yield f"\n# Left out, since a catalog cannot name them: {len(odd)}\n"
    for name in odd[:_MAX_ODD]:
        yield f"#   {name[:60]!a}\n"


def _table(method: MethodDescription) -> Iterator[str]:
    """Yield the lines of one method."""
    key = method.name if _BARE_KEY.fullmatch(method.name) else f'"{method.name}"'
    proposal = propose_permission(method.name)
    note = "" if proposal is None else f'  # "{proposal[0]}"? Its name begins with {proposal[1]}.'
    yield f"[methods.{key}]"
    yield f'permission = "unclassified"{note}'
    yield f"help = {_quoted(_first_sentence(method.help) or _NO_HELP)}"
    returns = _returns(method)
    if returns != "any":
        yield f'returns = "{returns}"'
    arguments = _arguments(method)
    if arguments is None:
        yield "allow_extra = true  # The server does not say which arguments it takes."
    elif arguments:
        yield "arguments = ["
        yield from (f'    {{ name = "{name}", type = "{kind}" }},' for name, kind in arguments)
        yield "]"
    if len(method.signatures) > 1:
        yield "# The server has several signatures; these arguments cover all of them."


def _returns(method: MethodDescription) -> str:
    found = {_TYPES.get(signature[0].lower(), ("", "any"))[1] for signature in method.signatures}
    return found.pop() if len(found) == 1 else "any"


def _arguments(method: MethodDescription) -> list[tuple[str, str]] | None:
    """Return names and types of the arguments by position; None where the server says neither.

    At a place where signatures differ the type is "any".
    """
    documented = documented_arguments(method.help)[: MAX_TYPES - 1]
    if not method.signatures:
        if not documented:
            return None
        return [(name, _argument_type(kind)) for name, kind in documented]
    rows = [signature[1:] for signature in method.signatures]
    size = max(map(len, rows))
    names = [name for name, _ in documented]
    if len(names) != size:
        names = [f"arg{number}" for number in range(1, size + 1)]
    types: list[str] = []
    for place in range(size):
        found = {_argument_type(row[place]) for row in rows if place < len(row)}
        types.append(found.pop() if len(found) == 1 else "any")
    return list(zip(names, types, strict=True))


def _argument_type(kind: str) -> str:
    return _TYPES.get(kind.lower(), ("any", ""))[0]


def _first_sentence(text: str) -> str:
    """Return the first sentence of a help text, without what documents arguments, made harmless.

    Angle brackets become round ones, characters that do not print are left out.
    """
    lines: list[str] = []
    for line in text.translate(_BRACKETS).splitlines():
        kept = "".join(each for each in line if each.isprintable() or each == "\t").strip()
        if kept.startswith(("@", ":param", ":type", ":return")) or (lines and not kept):
            break
        if kept:
            lines.append(kept)
    words = unicodedata.normalize("NFC", " ".join(" ".join(lines).split()))
    sentence = words.partition(". ")[0]
    if len(sentence) < len(words) and not sentence.endswith("."):
        sentence += "."
    return sentence[:MAX_HELP]


_BRACKETS = str.maketrans("<>", "()")


def _quoted(text: str) -> str:
    """Return a basic string of TOML, of which JSON's strings of printable text are a subset."""
    return json.dumps(text, ensure_ascii=False)
