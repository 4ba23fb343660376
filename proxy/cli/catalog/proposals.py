"""Guesses at permissions and arguments of a method, from its name and its help text.

A guess stands in a comment, or names and types an argument. No guess grants anything.
"""

import re
from collections.abc import Mapping

from proxy.catalog.model import ARGUMENT_NAME
from proxy.model import Permission

_FIRST_WORDS: Mapping[Permission, str] = {
    "view": (
        "get list is has can find search show query read fetch lookup describe count check status "
        "state info version help exists tail view export dump browse stat stats"
    ),
    "work": "ping heartbeat",
    "trigger": (
        "start run launch trigger submit restart retry rerun execute schedule queue enqueue sync "
        "build resume"
    ),
    "admin": (
        "set add create new make write put update modify edit change rename move copy save upload "
        "import delete remove clear purge drop reset kill stop cancel shutdown reload pause "
        "enable disable grant revoke install uninstall signal login logout"
    ),
}
_PERMISSION_OF: Mapping[str, Permission] = {
    word: permission for permission, words in _FIRST_WORDS.items() for word in words.split()
}
_CAMEL = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
# Documentation of arguments: epydoc's (supervisord) and Sphinx's.
_EPYDOC = re.compile(
    r"^[ \t]*@param[ \t]+([A-Za-z]\w{0,39})[ \t]+([A-Za-z_]\w{0,63})", re.MULTILINE
)
_SPHINX = re.compile(
    r"^[ \t]*:param[ \t]+(?:([A-Za-z]\w{0,39})[ \t]+)?([A-Za-z_]\w{0,63})[ \t]*:", re.MULTILINE
)


def propose_permission(name: str) -> tuple[Permission, str] | None:
    """Return a permission and the word of `name` that it goes by; None if no word says anything.

    The first word after the last dot, colon or slash decides: ``get_users``, ``getUsers``.
    """
    last = re.split(r"[.:/]", name)[-1]
    words = _CAMEL.findall(last)
    if not words:
        return None
    permission = _PERMISSION_OF.get(words[0].lower())
    return None if permission is None else (permission, words[0])


def documented_arguments(help_text: str) -> list[tuple[str, str]]:
    """Return the names of arguments and their types, empty if not given, as `help_text` has them.

    Empty if one stands there twice: the text then documents something else.
    """
    found = [(name, kind) for kind, name in _EPYDOC.findall(help_text)]
    found = found or [(name, kind) for kind, name in _SPHINX.findall(help_text)]
    names = [name for name, _ in found]
    if len(set(names)) != len(names) or not all(map(ARGUMENT_NAME.fullmatch, names)):
        return []
    return found
