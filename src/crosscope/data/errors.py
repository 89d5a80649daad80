"""What is said when something cannot be done: the thing, the reason, the remedy, in one line.

CrosscopeError
├── InputError              the user's input cannot be used             exit code 2
│   ├── ImageError          a file is not an image that can be used
│   ├── PairError           images do not form pairs
│   ├── RegistrationError   a pair cannot be registered
│   ├── ModelError          a file is not a model, or not one of this version
│   └── OutputError         a result cannot be written where it should go
└── DomainError             the model was not made for this image       exit code 3
"""

from pathlib import Path


class CrosscopeError(Exception):
    """The root of all errors meant for the user.

    Parameters
    ----------
    where : Path or str
        The file or the thing that is at fault.
    reason : str
        What is wrong with it, with the values that show it; no full stop at the end.
    remedy : str
        What the user can do; no full stop at the end.
    """

    exit_code = 2

    def __init__(self, where: Path | str, reason: str, remedy: str) -> None:
        super().__init__(where, reason, remedy)
        self.where, self.reason, self.remedy = str(where), reason, remedy

    def __str__(self) -> str:
        return " ".join(f"{self.where}: {self.reason}. {self.remedy}.".split())


class InputError(CrosscopeError):
    """The user's input cannot be used."""


class ImageError(InputError):
    """A file is not an image that can be used."""


class PairError(InputError):
    """Images do not form pairs."""


class RegistrationError(InputError):
    """A pair cannot be registered."""


class ModelError(InputError):
    """A file is not a model, or not one of this version."""


class OutputError(InputError):
    """A result cannot be written where it should go."""


class DomainError(CrosscopeError):
    """The model was not made for this image."""

    exit_code = 3
