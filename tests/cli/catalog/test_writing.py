import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.catalog.loading import parse_catalog
from proxy.cli.catalog.writing import write_catalog
from proxy.clients.introspection import MethodDescription, sort_names


def written(*methods: MethodDescription) -> str:
    """The draft of these methods."""
    return write_catalog("draft", methods, source="http://localhost:9000/RPC2 lists")


def test_a_draft_has_what_the_server_says_and_denies_everything() -> None:
    """Types and names of arguments, what comes back, one line of help; a proposal is a comment."""
    text = written(
        MethodDescription(
            "jobs.start",
            (("boolean", "string", "int"),),
            "Start a job.\n\n@param string name  the job\n@param int tries  how often",
        ),
        MethodDescription("get_state", (("string", "string"), ("string", "int")), ""),
        MethodDescription("ping", (("int",),), "Return 1."),
        MethodDescription("frobnicate"),
    )
    assert text.endswith(
        """
[methods."jobs.start"]
permission = "unclassified"  # "trigger"? Its name begins with start.
help = "Start a job."
returns = "boolean"
arguments = [
    { name = "name", type = "string" },
    { name = "tries", type = "integer" },
]

[methods.get_state]
permission = "unclassified"  # "view"? Its name begins with get.
help = "Not described by the server."
returns = "string"
arguments = [
    { name = "arg1", type = "any" },
]
# The server has several signatures; these arguments cover all of them.

[methods.ping]
permission = "unclassified"  # "work"? Its name begins with ping.
help = "Return 1."
returns = "integer"

[methods.frobnicate]
permission = "unclassified"
help = "Not described by the server."
allow_extra = true  # The server does not say which arguments it takes.
"""
    )
    catalog = parse_catalog(text, "draft.toml")
    assert not catalog.methods
    assert catalog.unclassified == {"jobs.start", "get_state", "ping", "frobnicate"}


def test_a_classified_draft_loads() -> None:
    """What a person does next is all there is to do."""
    text = written(MethodDescription("get_state", (("string", "string"),)), MethodDescription("go"))
    catalog = parse_catalog(text.replace("unclassified", "view"), "draft.toml")
    assert catalog.methods["get_state"].names == ("arg1",)
    assert catalog.methods["go"].allow_extra


@pytest.mark.parametrize(
    ("hostile", "kept"),
    [
        ('"\n[methods.evil]\npermission = "view"', '\\" [methods.evil] permission = \\"view\\"'), ("''' \"\"\" \\", "''' \\\"\\\"\\\" \\\\"), ("a\x00\x1b[31m\x7fb", "a[31mb"),
        ("<script>alert(1)</script>", "(script)alert(1)(/script)"), ("a\u202eb\u2066c\ud800d", "abcd"), ("\n\n  x\ty  \n", "x y"),
        ("# comment", "# comment"), ("Wrapped\nover two lines. And more.", "Wrapped over two lines."), ("One.\n\nTwo.", "One."), ("é" * 500, "é" * 160), ("@return x", "Not described by the server."),
    ],
)  # fmt: skip
def test_help_texts_are_made_harmless(hostile: str, kept: str) -> None:
    """One line that prints, in a string that nothing ends; no table of the server's own."""
    text = written(MethodDescription("m", (), hostile))
    assert f'help = "{kept}"\n' in text
    assert tomllib.loads(text)["methods"].keys() == {"m"}


def test_names_that_a_catalog_cannot_have_stand_in_a_comment() -> None:
    """Escaped, cut, and the first ten of them."""
    odd = ["x y", "\n[methods.evil]", "\u202e", "z" * 300, *(f"n {number}" for number in range(50))]
    text = write_catalog("draft", [MethodDescription("m")], source="\nx = 1 lists", odd=odd)
    assert "# Left out, since a catalog cannot name them: 54\n" in text
    assert "#   '\\n[methods.evil]'\n" in text
    assert "#   '" + "z" * 60 + "'\n" in text
    assert text.count("#   '") == 10
    assert tomllib.loads(text).keys() == {"name", "protocol", "methods"}


NAMES = st.lists(st.text() | st.from_regex(r"[A-Za-z0-9_.:/]{1,40}", fullmatch=True), max_size=8)
TYPES = st.sampled_from(["int", "string", "struct", "Array", "undef", "boolean"])
SIGNATURES = st.lists(st.lists(TYPES, min_size=1, max_size=5).map(tuple), max_size=3).map(tuple)


@given(NAMES, SIGNATURES, st.text() | st.from_regex(r"(@param \w+ \w+\n){0,4}", fullmatch=True))
def test_any_description_gives_a_catalog_that_loads(
    names: list[str], signatures: tuple[tuple[str, ...], ...], help_text: str
) -> None:
    """Nothing that a server says breaks out of its place, and the text is the same every time."""
    listed = sort_names(names)
    methods = [MethodDescription(name, signatures, help_text) for name in listed.names]
    if not methods:
        return
    text = write_catalog("draft", methods, source="x lists", odd=listed.odd)
    assert text == write_catalog("draft", methods, source="x lists", odd=listed.odd)
    assert parse_catalog(text, "draft.toml").unclassified == set(listed.names)
    assert tomllib.loads(text).keys() == {"name", "protocol", "methods"}
