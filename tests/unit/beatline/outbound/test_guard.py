"""Addresses that a source may not have."""

from __future__ import annotations

import pytest

from beatline.errors import AddressRefusedError, TransientError
from beatline.outbound.guard import refusal, resolve


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("127.0.0.1", "loopback"),
        ("127.9.9.9", "loopback"),
        ("::1", "loopback"),
        ("::ffff:127.0.0.1", "loopback"),
        ("64:ff9b::7f00:1", "loopback"),
        ("2002:7f00:1::", "loopback"),
        ("0.0.0.0", "unspecified"),  # noqa: S104  # nothing is bound
        ("::", "unspecified"),
        ("10.1.2.3", "private"),
        ("172.31.255.255", "private"),
        ("192.168.0.1", "private"),
        ("100.64.0.1", "private"),
        ("fd12:3456::1", "private"),
        ("fec0::1", "private"),
        ("feff:ffff::1", "private"),
        ("64:ff9b:1::7f00:1", "private"),
        ("64:ff9b:1:ffff:ffff:ffff:808:808", "private"),
        ("::ffff:10.0.0.1", "private"),
        ("169.254.1.1", "link-local"),
        ("fe80::1%eth0", "link-local"),
        ("169.254.169.254", "metadata"),
        ("::ffff:169.254.169.254", "metadata"),
        ("100.100.100.200", "metadata"),
        ("fd00:ec2::254", "metadata"),
        ("224.0.0.1", "multicast"),
        ("ff02::1", "multicast"),
        ("240.0.0.1", "reserved"),
        ("255.255.255.255", "reserved"),
    ],
)
def test_what_is_not_public_is_refused(address: str, words: str) -> None:
    assert words in str(refusal(address))


@pytest.mark.parametrize("address", ["93.184.216.34", "8.8.8.8", "2606:2800:220:1::1", "64:ff9b::808:808"])
def test_what_is_public_is_not(address: str) -> None:
    assert refusal(address) is None


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "::1"])
def test_the_resolved_address_counts_not_the_name(host: str) -> None:
    assert resolve(host, 80, allow_private=True)
    with pytest.raises(AddressRefusedError, match="BEATLINE_ALLOW_PRIVATE_ADDRESSES=true"):
        resolve(host, 80, allow_private=False)


def test_an_unknown_name_may_pass() -> None:
    with pytest.raises(TransientError, match=r"'nowhere\.invalid' cannot be resolved"):
        resolve("nowhere.invalid", 80, allow_private=True)


@pytest.mark.parametrize("host", ["a" * 70 + ".com", "x..y"])
def test_a_name_that_is_none_is_told_in_words(host: str) -> None:
    with pytest.raises(TransientError, match="cannot be resolved"):
        resolve(host, 80, allow_private=True)
