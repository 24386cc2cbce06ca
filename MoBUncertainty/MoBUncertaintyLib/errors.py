"""The failures a user can meet. Each message is one sentence: what is wrong and what to do."""

from __future__ import annotations


class UserError(Exception):
    """Base of every failure that is shown to the user as it stands.

    Attributes:
        code: Stable identifier for programs (the worker's `error` event, tests); the message is for people.
    """

    code = "error"


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


class InstallationError(UserError):
    """Slicer, an extension or a Python package that is needed is missing or too old."""

    code = "installation"


class ReviewError(UserError):
    """A step of the review is not possible, or a stored review or decisions file does not fit."""

    code = "review"


class Cancelled(UserError):  # noqa: N818 - not a fault: the user asked for it
    """The user cancelled; nothing was written."""

    code = "cancelled"
