"""Where prompts come from: files and data sets."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from heliostat_trainer.errors import ConfigError
from heliostat_trainer.prompts.sets import read_prompt_sets
from heliostat_trainer.prompts.sources import read_prompts
from heliostat_trainer.settings.config import TrainConfig
from heliostat_trainer.settings.load import load_config
from heliostat_trainer.settings.prompts import HubPrompts

if TYPE_CHECKING:
    from collections.abc import Callable


def write_jsonl(path: Path, *objects: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(one) + "\n" for one in objects))
    return path


def test_jsonl_gives_its_prompts(tmp_path: Path) -> None:
    lines = [{"prompt": " a cat ", "metadata": {"n": 1}}, {"prompt": "# 1"}, {"prompt": "a cat"}]
    assert read_prompts(write_jsonl(tmp_path / "p.jsonl", *lines), "x") == ("a cat", "# 1")


@pytest.mark.parametrize("line", ["{", '{"text": "a"}', '{"prompt": 3}', "[]", '"a cat"'])
def test_a_line_that_is_no_prompt_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(f'{{"prompt": "a"}}\n\n{line}\n')
    with pytest.raises(ConfigError, match=r"prompts.train: .*p.jsonl, line 3: write an object"):
        read_prompts(path, "prompts.train")


LINE_ENDS_ELSEWHERE = "\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e"
"""Where `str.splitlines` splits too."""


@pytest.mark.parametrize("character", LINE_ENDS_ELSEWHERE)
def test_lines_end_at_line_feeds_alone(tmp_path: Path, character: str) -> None:
    prompt = f"a cat{character}and a dog"
    text, lines = tmp_path / "p.txt", tmp_path / "p.jsonl"
    text.write_bytes(f"{prompt}\r\n# a comment\r\na bird\n".encode())
    escaped = character if ord(character) > 31 else f"\\u{ord(character):04x}"
    lines.write_bytes(f'{{"prompt": "a cat{escaped}and a dog"}}\r\n{{"prompt": "a bird"}}'.encode())
    assert read_prompts(text, "x") == read_prompts(lines, "x") == (prompt, "a bird")


@pytest.mark.parametrize("name", ["P.TXT", "P.JSONL", "prompts"])
def test_a_byte_order_mark_is_no_prompt(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    content = '{"prompt": "a cat"}\n' if name == "P.JSONL" else "# a comment\na cat\n"
    path.write_bytes(b"\xef\xbb\xbf" + content.encode())
    assert read_prompts(path, "x") == ("a cat",)


@pytest.mark.parametrize("half", [r"\ud83d", r"\ude00", r"\ude00\ud83d"])
def test_half_of_a_character_is_refused_with_its_line(
    toml: Path, tmp_path: Path, half: str
) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(f'{{"prompt": "a smile \\ud83d\\ude00"}}\n{{"prompt": "a cat {half}"}}\n')
    with pytest.raises(ConfigError, match=r"prompts.train: .*p.jsonl, line 2: the prompt has half"):
        read_prompt_sets(load_config(toml, ["--prompts.train", str(path)]))
    path.write_text('{"prompt": "a smile \\ud83d\\ude00"}\n')
    assert read_prompts(path, "x") == ("a smile \N{GRINNING FACE}",)


def test_text_that_is_not_utf_8_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "p.txt"
    path.write_bytes("a cat\na café".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"^x: .*p.txt, line 2: this is not UTF-8 text") as error:
        read_prompts(path, "x")
    assert "\n" not in str(error.value)
    path.write_bytes("a cat".encode("utf-16"))
    with pytest.raises(ConfigError, match="line 1: this is not UTF-8 text"):
        read_prompts(path, "x")


def test_urls_and_tables_name_the_same_data_set(configure: Callable[..., TrainConfig]) -> None:
    """Of an installed run; reading it is another matter."""
    section = type(configure().prompts)
    url = section(train="hf://owner/name?split=test&column=text")
    table = section(train={"dataset": "owner/name", "split": "test", "column": "text"})
    assert url == table
    assert url.train == HubPrompts(dataset="owner/name", split="test", column="text")
    assert str(url.train) == "hf://owner/name?split=test&column=text"
    assert section.model_validate_json(url.model_dump_json()) == url
    assert section(train="hf://owner/name").train == HubPrompts(dataset="owner/name")


@pytest.fixture
def dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that the real library reads without a connection."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    rows = [{"caption": f"picture {row}", "size": row} for row in range(8)]
    write_jsonl(tmp_path / "data" / "train.jsonl", *rows)
    return tmp_path / "data"


def test_a_data_set_gives_a_column(dataset: Path, toml: Path) -> None:
    source = HubPrompts(dataset=str(dataset), column="caption", split="train[:3]")
    assert read_prompts(source, "x") == ("picture 0", "picture 1", "picture 2")
    toml.write_text(
        toml.read_text().replace(
            'train = "train.txt"', 'train = { dataset = "data", column = "caption" }'
        )
    )
    assert len(read_prompt_sets(load_config(toml)).train) == 8


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"column": "text"}, "has no column 'text', only caption, size: name one with column="),
        ({"column": "size"}, "the column 'size' of .* is not text"),
        ({"column": "caption", "split": "test"}, "cannot load .*: check name, split and conn"),
        ({"dataset": "owner/name"}, "cannot load hf://owner/name.*: check name, split and conn"),
    ],
)
def test_a_data_set_that_cannot_be_read_is_one_sentence(
    dataset: Path, changes: dict[str, str], sentence: str
) -> None:
    source = HubPrompts(**{"dataset": str(dataset), **changes})
    with pytest.raises(ConfigError, match=sentence) as error:
        read_prompts(source, "prompts.train")
    assert "\n" not in str(error.value)


def test_the_library_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(
        ConfigError, match=r"needs datasets .*: pip install 'heliostat\[datasets\]'"
    ):
        read_prompts(HubPrompts(dataset="owner/name"), "prompts.train")


def test_a_wrong_table_is_one_sentence(toml: Path) -> None:
    with pytest.raises(ConfigError, match="a data set of prompts has dataset, split, column"):
        load_config(toml, ["--prompts.train", '{ dataset = "a/b", colunm = "c" }'])
