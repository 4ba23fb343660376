"""Names of arguments whose values are secrets, recognised by their words."""

import re
from typing import Final

SECRET_WORDS: Final = frozenset(
    {
        "password", "passwords", "passwd", "passphrase", "passcode", "pass", "pwd", "pw", "pin",
        "otp", "secret", "secrets", "token", "tokens", "key", "keys", "apikey", "accesskey",
        "privatekey", "secretkey", "credential", "credentials", "creds", "auth", "authorization",
        "bearer", "cookie", "cookies",
    }
)  # fmt: skip
"""Words, in lower case, that mark a name as a secret's."""

_WORDS: Final = re.compile(r"[a-z]+|[A-Z]+(?![a-z])|[A-Z][a-z]+")


def is_secret_name(name: str) -> bool:
    """Return whether one of the words of `name` is in `SECRET_WORDS`.

    Words end at anything that is not a letter, and before a capital after a small letter.
    ``dbPassword``, ``api_key`` and ``X-Auth-Token`` are secrets' names; ``keyboard``, ``tokenizer``
    and ``authors`` are not.
    """
    return any(word.lower() in SECRET_WORDS for word in _WORDS.findall(name))
