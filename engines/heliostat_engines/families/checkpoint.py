"""Reads parts of a diffusers checkpoint, from a local folder or the Hugging Face hub."""

from __future__ import annotations

import logging
import socket
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from heliostat_engines.errors import CheckpointError
from heliostat_engines.files.text import content_of, read_json
from heliostat_engines.files.weights import DIFFUSERS, TRANSFORMERS, refuse, tensor_files
from heliostat_engines.machine.network import http_detour

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import torch
    from torch import nn

CONFIG = "config.json"
POSITIONS = "position_ids"
"""0, 1, 2, ...: in checkpoints of older releases of transformers, whose models now make them."""
_ADVICE = "point the checkpoint at a folder in diffusers' layout, or leave it out for the family's default"


def require_place(checkpoint: str) -> None:
    """Refuse at once a local folder that is not there; what it has to hold is its family's to say.

    Raises:
        CheckpointError: it is not there, and no name on the hub either.
    """
    if not _is_on_hub(checkpoint) and not Path(checkpoint).is_dir():
        raise CheckpointError(f"{checkpoint} is not there: {_ADVICE}")


def load_part(
    model_class: type[Any], checkpoint: str, part: str | None, dtype: torch.dtype
) -> nn.Module:
    """One model of a pipeline, from the subfolder of its name, in eval mode without gradients.

    `model_class` is one of diffusers or transformers. `part` None is a checkpoint of that model
    alone. Only safetensors are read.

    Raises:
        CheckpointError: it is missing, of another class, out of reach, or its weights are not
            exactly the model's, tensor by tensor; says what to do.
    """
    of_transformers = model_class.__module__.startswith("transformers.")
    source = checkpoint if part is None else f"{checkpoint}/{part}"
    if not of_transformers:
        check_part(model_class.__name__, checkpoint, part)
    if not _is_on_hub(checkpoint):
        tensor_files(Path(source), TRANSFORMERS if of_transformers else DIFFUSERS)
    with hub_errors_explained(checkpoint), _silent_warnings():
        # Without complaint about other shapes: what is loaded is compared as a whole below.
        loaded, found = model_class.from_pretrained(
            checkpoint,
            subfolder=part or "",
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **{"dtype" if of_transformers else "torch_dtype": dtype},
        )
    refuse(
        source,
        missing=set(found["missing_keys"]),
        unexpected={name for name in found["unexpected_keys"] if not name.endswith(POSITIONS)},
        misshapen={
            name: (tuple(given), tuple(wanted)) for name, given, wanted in found["mismatched_keys"]
        },
    )
    module: nn.Module = loaded
    return module.eval().requires_grad_(False)


def check_part(class_name: str, checkpoint: str, part: str | None) -> Mapping[str, Any]:
    """The part's configuration.

    Raises:
        CheckpointError: the checkpoint has no such part, or another class's.
    """
    return _check(checkpoint, str(Path(part or "") / CONFIG), class_name)


def check_pipeline(class_name: str, checkpoint: str) -> Mapping[str, Any]:
    """The pipeline's index: its parts, each with library and class.

    Raises:
        CheckpointError: the checkpoint is no pipeline, or another class's.
    """
    return _check(checkpoint, "model_index.json", class_name)


def optional_config(checkpoint: str, file: str) -> Mapping[str, Any] | None:
    """A configuration file of a checkpoint; None if it has none, or none is on this machine.

    Raises:
        CheckpointError: it is no JSON object.
    """
    if not _is_on_hub(checkpoint):
        path = Path(checkpoint) / file
        return _read_json(path) if path.is_file() else None
    from huggingface_hub import errors, hf_hub_download

    try:
        return _read_json(Path(hf_hub_download(checkpoint, file)))
    except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, OSError):
        return None


@contextmanager
def hub_errors_explained(checkpoint: str) -> Iterator[None]:
    """Turn what diffusers and the hub raise into one sentence that says what to do."""
    try:
        yield
    except (OSError, ValueError, SafetensorError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(_explanation(checkpoint, error)) from error


@contextmanager
def _silent_warnings() -> Iterator[None]:
    """Within: neither library warns of weights that differ, since they are refused in one sentence."""
    loggers = [logging.getLogger(name) for name in ("diffusers", "transformers")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _check(checkpoint: str, config: str, class_name: str) -> Mapping[str, Any]:
    if _is_on_hub(checkpoint):
        from huggingface_hub import hf_hub_download

        with hub_errors_explained(checkpoint):
            content = _read_json(Path(hf_hub_download(checkpoint, config)))
    else:
        path = Path(checkpoint) / config
        if not path.is_file():
            raise CheckpointError(f"{checkpoint} has no {config}: {_ADVICE}")
        content = _read_json(path)
    found = content.get("_class_name")
    if found != class_name:
        raise CheckpointError(
            f"{checkpoint}/{config} is of {found}, this family needs {class_name}: choose the family "
            "that the checkpoint belongs to, or another checkpoint"
        )
    return content


def _read_json(path: Path) -> Mapping[str, Any]:
    with content_of(path, "download it again", CheckpointError):
        content = read_json(path)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is no JSON object: download it again")
    return content


def _is_on_hub(checkpoint: str) -> bool:
    path = Path(checkpoint)
    return not path.exists() and not path.is_absolute() and len(path.parts) == 2


def _explanation(checkpoint: str, error: Exception) -> str:
    from huggingface_hub import constants, errors

    causes = list(_chain(error))
    if any(isinstance(cause, errors.GatedRepoError) for cause in causes):
        return (
            f"{checkpoint} is gated: accept its licence on https://huggingface.co/{checkpoint}, "
            "then run `hf auth login`"
        )
    if any(isinstance(cause, errors.RepositoryNotFoundError) for cause in causes):
        return (
            f"the Hugging Face hub knows no {checkpoint}: check the name, run `hf auth login` if "
            "it is private, or give a local folder"
        )
    unreachable = (errors.LocalEntryNotFoundError, ConnectionError, TimeoutError, socket.gaierror)
    if any(isinstance(cause, unreachable) for cause in causes):
        return (
            f"{checkpoint} is not in the local cache and the Hugging Face hub is out of reach"
            f"{http_detour(constants.ENDPOINT)}: connect to it, or give a local folder"
        )
    first = str(error).strip().splitlines()
    return f"cannot load {checkpoint}: {first[0] if first else type(error).__name__}"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and all that led to it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
