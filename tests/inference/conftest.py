"""The phantom, made once."""

import pytest

from inference.scene import Phantom


@pytest.fixture(scope="session")
def phantom() -> Phantom:
    return Phantom.create()
