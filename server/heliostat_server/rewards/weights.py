"""Where rewards' weights are: the Hugging Face cache, or our own of converted ones. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import structlog
from platformdirs import user_cache_path

from heliostat_engines.errors import CheckpointError

TENSORS = "model.safetensors"
CONFIG = "config.json"


@dataclass(frozen=True)
class HubWeights:
    """Files of a repository on the Hugging Face hub, and their size there (0: not known)."""

    repo: str
    files: tuple[str, ...]
    bytes: int = 0

    @property
    def command(self) -> str:
        """What fetches them."""
        return f"hf download {self.repo} {' '.join(self.files)}"

    def find(self) -> Path | None:
        """The folder with all of them in the Hugging Face cache; None: some are not there."""
        from huggingface_hub import try_to_load_from_cache

        found = [try_to_load_from_cache(self.repo, file) for file in self.files]
        paths = [Path(path) for path in found if isinstance(path, str)]
        return paths[0].parent if len(paths) == len(self.files) else None

    def download(self) -> Path | None:
        """Fetch them to the Hugging Face cache; None: the hub cannot be reached, or may not be."""
        from huggingface_hub import hf_hub_download
        from huggingface_hub.constants import HF_HUB_OFFLINE
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

        if HF_HUB_OFFLINE:
            return None
        structlog.get_logger("rewards").info("downloading weights", repo=self.repo)
        try:
            paths = [Path(hf_hub_download(self.repo, file)) for file in self.files]
        except (HfHubHTTPError, LocalEntryNotFoundError):
            return None
        return paths[0].parent


@dataclass(frozen=True)
class ConvertedWeights:
    """Weights that are published as a pickle, which the server reads only once converted."""

    reward: str
    repo: str
    file: str
    bytes: int = 0
    files: tuple[str, ...] = (CONFIG, TENSORS)

    @property
    def command(self) -> str:
        """What fetches and converts them."""
        return f"heliostat rewards convert {self.reward}"

    def find(self) -> Path | None:
        """The folder with the converted weights; None: they are not converted."""
        folder = converted_folder(self.reward)
        return folder if all((folder / file).is_file() for file in self.files) else None

    def download(self) -> Path | None:
        """Nothing is converted unasked."""
        return None


Weights = HubWeights | ConvertedWeights


def converted_folder(reward: str) -> Path:
    """Where converted weights are kept: in the user's folder for caches, on Linux XDG_CACHE_HOME or ~/.cache."""
    return user_cache_path("heliostat") / "rewards" / reward


def locate(reward: str, published: Weights, checkpoint: str | None = None) -> Path:
    """The folder of a reward's weights: `checkpoint` if given, else the published ones.

    Looks at this machine first, then downloads what the hub has, if that may be (HF_HUB_OFFLINE).

    Raises:
        CheckpointError: they are not there; the sentence says what to run.
    """
    weights = published
    if checkpoint is not None:
        folder = Path(checkpoint)
        if folder.is_dir():
            return _whole(folder, reward, published.files)
        if folder.is_absolute():
            raise CheckpointError(f"the reward {reward}: there is no folder {checkpoint}")
        weights = HubWeights(checkpoint, published.files)
    found = weights.find() or weights.download()
    if found is None:
        raise CheckpointError(
            f"the reward {reward} needs weights that are not on this machine: run "
            f"`{weights.command}` where the server runs"
        )
    return found


def _whole(folder: Path, reward: str, files: tuple[str, ...]) -> Path:
    missing = [file for file in files if not (folder / file).is_file()]
    if missing:
        raise CheckpointError(f"the reward {reward}: {folder} has no {', '.join(missing)}")
    return folder
