"""What goes wrong in ways a user can mend: each message names the setting or file to change."""

from __future__ import annotations


class HeliostatError(Exception):
    """Base of the errors that are shown to the user as one sentence, without a traceback."""


class ConfigError(HeliostatError, ValueError):
    """A setting that is unknown, of the wrong type, or at odds with another or the server."""


class FileError(HeliostatError, ValueError):
    """A file that cannot be read, is not the text that it should be, or is damaged."""


class SecretError(HeliostatError, ValueError):
    """A token, key or password that is not there, or that cannot be sent."""


class AdapterError(HeliostatError, ValueError):
    """An adapter that cannot be read, does not fit the model, or would change nothing."""


class CheckpointError(HeliostatError, ValueError):
    """A model checkpoint that is missing, unreadable or of another layout."""


class ResolutionError(HeliostatError, ValueError):
    """A resolution that the model family does not draw."""


class UnknownFamilyError(HeliostatError, KeyError):
    """No model family goes by that name."""

    def __str__(self) -> str:
        return str(self.args[0])


class ExportError(HeliostatError, RuntimeError):
    """A model or a setting that cannot be exported to ONNX."""


class RuntimeMissingError(HeliostatError, ImportError):
    """A vendor library that is not installed, broken, or too old."""


class HardwareError(HeliostatError, RuntimeError):
    """This machine cannot do what was asked, or not the way it was asked."""


class BuildError(HeliostatError, RuntimeError):
    """An engine that cannot be built."""


class EngineFolderError(HeliostatError, ValueError):
    """A folder that holds no whole engine, or one for another machine."""


class EngineFaultError(HeliostatError, RuntimeError):
    """A compiled engine that refused a call, or is out of service."""


class FilesError(HeliostatError, ValueError):
    """A file or folder that cannot be written, or that is not ours to replace."""


class FolderBusyError(FilesError):
    """A folder that another process works in."""


def first_line(error: BaseException) -> str:
    """Of an error's text; the name of its kind if it has none."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__
