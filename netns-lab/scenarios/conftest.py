"""What several scenarios share and takes long to make."""

from __future__ import annotations

import pytest
from devices import People, make_people


@pytest.fixture(scope="session")
def people(tmp_path_factory: pytest.TempPathFactory) -> People:
    """Who is who in the scenarios of tunnels."""
    return make_people(tmp_path_factory.mktemp("people"))
