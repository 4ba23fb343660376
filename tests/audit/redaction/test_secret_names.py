import pytest

from proxy.audit.redaction.secret_names import is_secret_name


@pytest.mark.parametrize(
    "name",
    [
        "password",
        "dbPassword",
        "db_password",
        "API-KEY",
        "apiKey",
        "APIKey",
        "x.auth.token",
        "secret2",
        "Pin",
        "userCredentials",
    ],
)
def test_names_of_secrets(name: str) -> None:
    """A name with one of the words in it, in any usual spelling, is a secret's."""
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name",
    ["task_id", "keyboard", "tokenizer", "authors", "compass", "spin", "monkey", "", "params"],
)
def test_other_names(name: str) -> None:
    """A word that only contains one of the words does not count."""
    assert not is_secret_name(name)
