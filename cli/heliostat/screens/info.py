"""`heliostat info`: what a running server serves."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from heliostat.credentials import token_for
from heliostat_trainer.rollouts.client import RolloutClient
from heliostat_trainer.rollouts.connection import Caller
from heliostat_trainer.rollouts.tokens import GivenTokens


def show(url: str) -> None:
    """Print model, rewards and limits of the server at `url`.

    Raises:
        HeliostatError: it cannot be reached.
    """
    with RolloutClient.at(url, Caller(tokens=GivenTokens(token_for(url)))) as server:
        info = server.info()
    table = Table(show_header=False, box=None)
    for field, value in vars(info).items():
        if field != "lora_targets":
            table.add_row(field.replace("_", " "), str(value))
    table.add_row("lora targets", str(len(info.lora_targets)))
    Console().print(table)
