"""Every test runs with beartype watching the shapes and types that the package promises.

No example of Hypothesis has a deadline: a busy machine is no fault.
"""

from hypothesis import settings
from jaxtyping import install_import_hook

settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")
_hook = install_import_hook("crosscope", "beartype.beartype")
_hook.__enter__()
