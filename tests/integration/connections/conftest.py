"""What the tests of connections share: an installation that may connect to loopback."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support.serving import MakeSettings

if TYPE_CHECKING:
    from beatline.installation import Installation


@pytest.fixture
def ours(make_settings: MakeSettings) -> Installation:
    """This test's installation, which may connect to loopback."""
    from beatline.installation import Installation

    return Installation(make_settings(allow_private_addresses=True))
