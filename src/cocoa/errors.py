"""What goes wrong for a user: typed errors with a stable code and a place (file, row or option)."""

from __future__ import annotations


class CocoaError(ValueError):
    """A failure that its message explains: `code` is stable, `where` names file, row or option.

    `exit_code` is what the command line returns for it: 1 a failure, 2 wrong use.
    """

    exit_code = 1

    def __init__(self, code: str, message: str, *, where: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.where = where

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        return f"{place}{self.message} [{self.code}]"

    def at(self, where: str) -> CocoaError:
        """Returns the same error, said of a more precise place."""
        return type(self)(self.code, self.message, where=where)


class UsageError(CocoaError):
    """The command or call itself is wrong (`E_USAGE_*`)."""

    exit_code = 2


class RecipeError(CocoaError):
    """A recipe has a wrong key, type, range or combination (`E_RECIPE_*`)."""

    exit_code = 2


class ImageError(CocoaError):
    """A picture cannot be used (`E_IMAGE_*`)."""


class DataError(CocoaError):
    """A file, column or row of data cannot be used (`E_DATA_*`)."""


class ModelError(CocoaError):
    """A model folder or backbone cannot be used (`E_MODEL_*`)."""


class TrainingError(CocoaError):
    """A run cannot go on (`E_TRAINING_*`)."""


class TrainingStoppedError(TrainingError):
    """A run was asked to stop and has left a checkpoint (`E_TRAINING_STOPPED`); nothing is wrong."""

    exit_code = 0


class TrainingInterruptedError(TrainingStoppedError):
    """A run was asked to stop at the keyboard: what was to come after it, in a script, must not."""

    exit_code = 130


class IndexingError(CocoaError):
    """An index cannot be used, or refuses what it is given (`E_INDEX_*`)."""
