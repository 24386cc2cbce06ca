"""The failures a user can meet. Each message is one sentence: what is wrong and what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

NOT_ENOUGH_MEMORY = "There is not enough memory for this image; choose a region of interest."
SIGNS_OF_IT = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "failed to allocate memory",
    "_status_alloc_failed",  # cuBLAS and cuDNN
    "cudnn_status_not_initialized",  # cuDNN, where its own memory does not fit
    "unable to find an engine",  # cuDNN, where no algorithm's workspace fits
    "invalid buffer size",  # MPS
    "could not create a primitive",  # oneDNN
)
NOT_A_SIGN_OF_IT = "could not create a primitive descriptor"  # oneDNN cannot do this at all

LONGEST_MESSAGE = 900  # characters: what others wrote, a model's card or a file's name, may be quoted in it


class UserError(Exception):
    """Base of every failure that is shown to the user as it stands; `code` identifies it for programs."""

    code = "error"

    def __str__(self) -> str:
        """Return the message; of one that quotes something very long, its start and its end."""
        text = super().__str__()
        if len(text) <= LONGEST_MESSAGE:
            return text
        half = LONGEST_MESSAGE // 2 - 3
        return f"{text[:half]} ... {text[-half:]}"


class ImageError(UserError):
    """The input image cannot be read or is not a single scalar 3D volume."""

    code = "image"


class ModelError(UserError):
    """The model folder is incomplete, altered, unsafe or does not fit its own plans."""

    code = "model"


class SettingsError(UserError):
    """A setting is outside what the model or the machine can do."""

    code = "settings"


class OutputError(UserError):
    """The results cannot be written."""

    code = "output"


class DiskError(OutputError):
    """Nothing can be written there for a reason that further results meet as well: the disk is full, say."""


class InstallationError(UserError):
    """Slicer, an extension or a Python package that is needed is missing or too old."""

    code = "installation"


class ReviewError(UserError):
    """A step of the review is not possible, or a stored review or decisions file does not fit."""

    code = "review"


class CatalogueError(UserError):
    """A catalogue of models cannot be read, or a model of it not be installed or removed."""

    code = "catalogue"


class LostReviewError(ReviewError):
    """The review that a scene holds cannot be read, but a new one can be begun of the same results."""


class CalibrationError(UserError):
    """The reviews do not suffice to calibrate a model, or would not make it better."""

    code = "calibration"


class Cancelled(UserError):  # noqa: N818 - not a fault: the user asked for it
    """The user cancelled; nothing was written."""

    code = "cancelled"


def require(condition: bool, problem: str) -> None:
    """Raise `ValueError` unless a condition holds."""
    if not condition:
        raise ValueError(problem)


@contextmanager
def reporting_out_of_memory() -> Iterator[None]:
    """Turn an out-of-memory error of any library into a `SettingsError`."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            raise SettingsError(NOT_ENOUGH_MEMORY) from error
        raise


def reason_of(error: Exception, limit: int = 120) -> str:
    """Quote an error of a library in a sentence: the system's reason, or the message's first line, or its kind."""
    missing = isinstance(error, KeyError) and error.args  # whose text is the bare key
    text = f"it lacks {error}" if missing else str(getattr(error, "strerror", None) or error)
    line = next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)
    line = line[:limit]
    return line if line.endswith("...") else line.rstrip(".")


def is_out_of_memory(error: Exception) -> bool:
    """Whether a device, or the computer, ran out of memory; of other libraries than NumPy only the message says so."""
    text = str(error).lower().replace(NOT_A_SIGN_OF_IT, "")
    return isinstance(error, MemoryError) or any(sign in text for sign in SIGNS_OF_IT)
