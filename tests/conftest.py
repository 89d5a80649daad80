"""Every test runs with beartype watching the shapes and types that the package promises.

No example of Hypothesis has a deadline: a busy machine is no fault. They are the same in every run,
so that a test that fails was broken by a change.
"""

from collections.abc import Iterator

import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

settings.register_profile("unhurried", deadline=None, derandomize=True)
settings.load_profile("unhurried")
_hook = install_import_hook("crosscope", "beartype.beartype")
_hook.__enter__()


@pytest.fixture(scope="session", autouse=True)
def _engines_are_timed_once() -> Iterator[None]:
    """Engines are timed in one round: no test judges which is the fastest, and rounds take time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("crosscope.model.engine.ROUNDS", 1)
        yield


@pytest.fixture(scope="session", autouse=True)
def _no_memory_of_the_user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Engines are remembered in a temporary folder, for the session: not in the user's home."""
    folder = str(tmp_path_factory.mktemp("cache"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", folder)
        patch.setenv("LOCALAPPDATA", folder)
        yield
