"""Header fields decoded as far as they can be."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import formataddr, getaddresses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beatline_tasks.email.headers import addresses, date_of, header_text, message_id_of

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("plain", "plain"),
        ("=?utf-8?B?w7xi?= =?utf-8?B?ZXI=?= and =?iso-8859-1?Q?=E9t=E9_?= on", "über and été on"),
        ("=?utf-8?q?=C3?= =?utf-8?q?=BC?=", "ü"),  # one character in two words
        ("=?utf-8?Q?a?= =?iso-8859-1?Q?=E9?=", "aé"),
        ("=?gb2312?B?1tDOxA==?=", "中文"),
        ("=?bogus?Q?hi?=", "hi"),
        ("=?utf-8*en?Q?hi?=", "hi"),
        ("=?utf-8?B?w6", "=?utf-8?B?w6"),
        ("=?utf-8?B?A?= end", "=?utf-8?B?A?= end"),
        ("a\x00b\r\n  c", "ab c"),
        ("caf\udce9 \udce2\udc82\udcac", "caf\xe9 \xe2\u201a\xac"),
        ("\udce2\udc82\udcac", "€"),
    ],
)
def test_text(raw: str, text: str) -> None:
    assert header_text(raw) == text


@given(st.text(alphabet=st.characters(exclude_categories=())))
def test_any_text_can_be_stored(raw: str) -> None:
    for said in (header_text(raw), *addresses([raw]), message_id_of(raw) or ""):
        assert "\x00" not in said
        said.encode()


@pytest.mark.parametrize(
    ("raw", "found"),
    [
        (["Ann <a@x.y>, b@x.y"], ("Ann <a@x.y>", "b@x.y")),
        (["=?utf-8?B?w7xi?= <a@x.y>"], ("üb <a@x.y>",)),
        (['"broken <a@x.y>, b@x.y'], ("a@x.y", "b@x.y")),
        (["undisclosed-recipients:;"], ("undisclosed-recipients:;",)),
        (["(" * 60_000 + " a@x.y"], ("a@x.y",)),
        ([""], ()),
    ],
)
def test_addresses(raw: list[str], found: tuple[str, ...]) -> None:
    assert addresses(raw) == found


def test_a_list_of_thousands_is_cut() -> None:
    assert len(addresses([", ".join(f"u{n}@x.y" for n in range(3000))])) == 500


@pytest.mark.parametrize("raw", ["<a@b>", " <a@b> ", "a@b", "<a@\r\n b>"])
def test_a_message_id_has_no_brackets(raw: str) -> None:
    assert message_id_of(raw) == "a@b"


@pytest.mark.parametrize("raw", ["<" + "中" * 990 + "@b>", "中" * 990, "x" + "é" * 5000, "<" + "x" * 10_000 + ">"])
def test_a_message_id_is_cut_in_bytes_where_a_character_ends(raw: str) -> None:
    found = message_id_of(raw)
    assert found is not None
    assert 996 <= len(found.encode()) <= 998
    assert raw.strip("<>").startswith(found)


@pytest.mark.parametrize("raw", ["", "<>", " \r\n "])
def test_an_empty_message_id_is_none(raw: str) -> None:
    assert message_id_of(raw) is None


@pytest.mark.parametrize(
    "lie",
    [None, "", "soon", "Thu, 01 Jan 1970 00:00:00 +0000", "Thu, 01 Jan 2099 00:00:00 +0000", "1 Dec 99999 1:00 +9900"],
)
def test_a_date_that_is_missing_or_lies_is_when_it_arrived(lie: str | None) -> None:
    assert date_of(lie, NOW) == NOW


def test_a_date_that_can_be_believed_is_in_utc() -> None:
    said = "Mon, 1 Dec 2025 10:00:00 +0200"
    assert date_of(said, NOW) == datetime(2025, 12, 1, 8, tzinfo=UTC)
    assert date_of("1 Dec 2025 10:00:00 -0000", NOW) == datetime(2025, 12, 1, 10, tzinfo=UTC)


@given(
    st.from_regex(r"([A-Za-z0-9]{1,5}( [A-Za-z0-9]{1,5}){0,2} <)?[a-z0-9_+.-]{1,9}@[a-z0-9.-]{1,9}>?", fullmatch=True)
)
def test_a_plain_address_is_what_the_library_says_of_it(raw: str) -> None:
    pairs = [pair for pair in getaddresses([raw]) if pair[1].count("@") == 1]
    if [raw] == [formataddr(pair) for pair in pairs]:
        assert addresses([raw]) == (raw,)
    elif pairs:
        assert addresses([raw]) == tuple(f"{name} <{address}>" if name else address for name, address in pairs)
