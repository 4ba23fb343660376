import pytest

from proxy.common.durations import UNITS, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0s", 0),
        ("90s", 90),
        ("15m", 900),
        ("12h", 43_200),
        ("7d", 604_800),
        ("2w", 1_209_600),
        ("007d", 604_800),
    ],
)
def test_a_duration_is_a_number_and_a_unit(text: str, seconds: int) -> None:
    """The result is in seconds."""
    assert parse_duration(text) == seconds


def test_the_units_are_multiples_of_each_other() -> None:
    """A week is seven days, a day 24 hours, and so on."""
    assert parse_duration("7d") == parse_duration("1w")
    assert parse_duration("24h") == parse_duration("1d")
    assert parse_duration("60m") == parse_duration("1h")
    assert parse_duration("60s") == parse_duration("1m")
    assert set(UNITS) == set("smhdw")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "s",
        "60",
        "1.5h",
        "-1s",
        "+1s",
        "1 h",
        " 1h",
        "1h\n",
        "1H",
        "1y",
        "1h30m",
        "٣s",
        "1" * 10 + "s",
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    """No sign, fraction, space, second unit or digit of another script; at most nine digits. The
    error repeats the text and names the units.
    """
    with pytest.raises(ValueError, match="s, m, h, d or w") as caught:
        parse_duration(text)
    assert repr(text) in str(caught.value)
