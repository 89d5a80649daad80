"""Every test runs with beartype watching the shapes and types that the package promises."""

from jaxtyping import install_import_hook

_hook = install_import_hook("crosscope", "beartype.beartype")
_hook.__enter__()
