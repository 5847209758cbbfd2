"""The processes of one run: torchrun starts them, and they exchange tensors by torch.distributed.

Rank 0 leads: it alone talks to the rollout server, writes the run folder and shows progress. The
others draw and train their share of what it tells them (`team.py`).

A rank that waits for others keeps looking whether one of them has failed, and answers signals: the
run then ends on all of them. Nothing is pickled: what is exchanged is tensors and JSON.
"""

from __future__ import annotations

import json
import time
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from safetensors.torch import load, save
from torch.distributed import PrefixStore  # type: ignore[attr-defined]
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.rendezvous import rendezvous

from heliostat_engines.errors import HeliostatError, first_line
from heliostat_engines.machine.network import rendezvous_problem
from heliostat_trainer.errors import ConfigError, RankFailedError
from heliostat_trainer.ranks.interrupts import StopRequestedError
from heliostat_trainer.ranks.launch import world_size

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch.distributed import Store  # type: ignore[attr-defined]
    from torch.distributed.device_mesh import DeviceMesh

Tensors = dict[str, torch.Tensor]

WORK_TIMEOUT = timedelta(minutes=30)
"""How much longer than another a rank may take to draw or train its share."""
WAIT_TIMEOUT = timedelta(days=7)
"""How long ranks wait for the leader, which may wait for a server or for a paused experiment."""
POLL_S = 0.0005
LOOK_EVERY_S = 0.5
END_S = 20.0
"""How long a rank that failed waits for the leader to save and to say why."""
FAILED, ENDED = "failed", "ended"


class RunEndedError(BaseException):
    """The leader has ended the run; no ordinary handler catches it."""


class Ranks:
    """A process by itself: nobody to exchange with."""

    rank = 0
    size = 1

    def shares(self, count: int) -> list[int | None]:
        """Which of so many pieces of work are this rank's, every size-th.

        All ranks get a list of the same length: None stands for work whose result is not wanted,
        which a sharded transformer needs all the same.
        """
        rounds = range(0, count, self.size)
        mine = [first + self.rank for first in rounds]
        return [piece if piece < count else None for piece in mine]

    def sum(self, tensor: torch.Tensor) -> None:
        """Make the tensor the sum of all ranks', in place and equal on all, to the bit."""

    def broadcast(self, call: str, tensors: Mapping[str, torch.Tensor]) -> tuple[str, Tensors]:
        """The leader's text and tensors, on every rank; what others pass is not looked at."""
        return call, dict(tensors)

    def gather(self, tensors: Mapping[str, torch.Tensor]) -> list[Tensors]:
        """Every rank's tensors by rank, on the CPU of the leader; others get their own alone."""
        return [dict(tensors)]

    def exchange(self, text: str) -> list[str]:
        """Every rank's text by rank, on every rank."""
        return [text]

    def mesh(self, device: torch.device) -> DeviceMesh:
        """All ranks' devices, to shard over."""
        raise NotImplementedError

    def meet(self) -> None:
        """Wait until all ranks are here: where one has failed, the others do not go on."""

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Within: what torch.distributed raises because another rank failed says so."""
        yield

    def failed(self, sentence: str, *, stop: bool = False) -> bool:
        """Tell the leader why this rank goes, or that the user stopped it, and wait for the end.

        False if the run had ended before.
        """
        raise NotImplementedError


class DistributedRanks(Ranks):
    """One of several processes; made by `open_ranks`."""

    def __init__(self, store: Store, rank: int, size: int) -> None:
        self.rank = rank
        self.size = size
        self._store = store
        self._looked = 0.0
        self._control = dist.new_group(backend="gloo", timeout=WAIT_TIMEOUT)

    def sum(self, tensor: torch.Tensor) -> None:
        """Make the tensor the sum of all ranks', in place and equal on all, to the bit."""
        self._wait(dist.all_reduce(tensor, async_op=True))

    def broadcast(self, call: str, tensors: Mapping[str, torch.Tensor]) -> tuple[str, Tensors]:
        """The leader's text and tensors, on every rank; what others pass is not looked at."""
        message = _packed({"call": _of_text(call), **tensors}) if self.rank == 0 else None
        length = torch.tensor([0 if message is None else len(message)])
        self._send(length)
        if message is None:
            message = torch.empty(int(length), dtype=torch.uint8)
        self._send(message)
        received = _unpacked(message)
        return _to_text(received.pop("call")), received

    def gather(self, tensors: Mapping[str, torch.Tensor]) -> list[Tensors]:
        """Every rank's tensors by rank, on the CPU of the leader; others get their own alone."""
        messages = self._gather(_packed(tensors), to_all=False)
        return [_unpacked(message) for message in messages] or [dict(tensors)]

    def exchange(self, text: str) -> list[str]:
        """Every rank's text by rank, on every rank."""
        return [_to_text(message) for message in self._gather(_of_text(text), to_all=True)]

    def mesh(self, device: torch.device) -> DeviceMesh:
        """All ranks' devices, to shard over."""
        return init_device_mesh(device.type, (self.size,))

    def meet(self) -> None:
        """Wait until all ranks are here: where one has failed, the others do not go on."""
        self._wait(dist.all_reduce(torch.zeros(1), group=self._control, async_op=True))

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Within: what torch.distributed raises because another rank failed says so.

        Raises:
            RankFailedError: it failed, or is gone without a word.
            StopRequestedError: the user stopped it.
        """
        try:
            yield
        except RuntimeError as error:
            if isinstance(error, HeliostatError):
                raise
            self._look(at_once=True)
            if isinstance(error, dist.DistError) or "gloo" in str(error):
                raise RankFailedError(
                    f"another rank is gone or out of reach: its own output says why, or this one's: "
                    f"{first_line(error)}"
                ) from error
            raise

    def failed(self, sentence: str, *, stop: bool = False) -> bool:
        """Tell the leader why this rank goes, or that the user stopped it, and wait for the end.

        False if the run had ended before.
        """
        report = {"sentence": f"rank {self.rank}: {sentence}", "stop": stop}
        deadline = time.monotonic() + END_S
        try:
            if self._store.check([ENDED]):
                return False
            self._store.set(FAILED, json.dumps(report))
            while not self._store.check([ENDED]) and time.monotonic() < deadline:
                time.sleep(LOOK_EVERY_S)
        except RuntimeError:
            return False  # the store went with the leader
        return True

    def close(self) -> None:
        """If this is the leader, let the others go."""
        if self.rank == 0:
            self._store.set(ENDED, "")

    def _gather(self, message: torch.Tensor, *, to_all: bool) -> list[torch.Tensor]:
        """Messages of different lengths, which travel as long as the longest."""
        lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        own = torch.tensor([len(message)])
        self._wait(dist.all_gather(lengths, own, group=self._control, async_op=True))
        sizes = [int(length) for length in lengths]
        padded = torch.zeros(max(sizes), dtype=torch.uint8)
        padded[: len(message)] = message
        received = [torch.empty_like(padded) for _ in sizes] if to_all or not self.rank else []
        if to_all:
            work = dist.all_gather(received, padded, group=self._control, async_op=True)
        else:
            work = dist.gather(padded, received or None, group=self._control, async_op=True)
        self._wait(work)
        return [whole[:size] for whole, size in zip(received, sizes, strict=False)]

    def _send(self, tensor: torch.Tensor) -> None:
        self._wait(dist.broadcast(tensor, src=0, group=self._control, async_op=True))

    def _wait(self, work: Any) -> None:
        """Wait for the other ranks.

        Raises:
            RankFailedError: one of them failed, in its words.
            StopRequestedError: the user stopped one of them.
            RunEndedError: the leader has ended the run.
        """
        while not work.is_completed():
            self._look()
            time.sleep(POLL_S)
        with self.explained():
            work.wait()

    def _look(self, *, at_once: bool = False) -> None:
        now = time.monotonic()
        if now - self._looked < LOOK_EVERY_S and not at_once:
            return
        self._looked = now
        try:
            ended = self._store.check([ENDED])
        except RuntimeError:
            raise RunEndedError from None  # the store went with the leader
        if ended:
            raise RunEndedError
        if self.rank == 0 and self._store.check([FAILED]):
            report = json.loads(self._store.get(FAILED))
            if report["stop"]:
                raise StopRequestedError
            raise RankFailedError(report["sentence"])


@contextmanager
def open_ranks() -> Iterator[Ranks]:
    """The ranks that torchrun started; a process by itself if it did not.

    When the leader leaves, the others are let go.

    Raises:
        ConfigError: they could not find one another: a name does not resolve.
    """
    if world_size() == 1:
        yield Ranks()
        return
    if problem := rendezvous_problem():
        raise ConfigError(problem)
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    store, rank, size = next(rendezvous("env://"))
    prefixed = PrefixStore("collectives", store)
    dist.init_process_group(
        backend, store=prefixed, rank=rank, world_size=size, timeout=WORK_TIMEOUT
    )
    ranks = DistributedRanks(PrefixStore("heliostat", store), rank, size)
    try:
        yield ranks
    except BaseException:
        ranks.close()
        if backend == "gloo":
            dist.destroy_process_group()
        # NCCL's waits for collectives that the others will not join any more.
        raise
    ranks.close()
    dist.destroy_process_group()


def _packed(tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
    content = save({name: value.detach().cpu().contiguous() for name, value in tensors.items()})
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)


def _unpacked(message: torch.Tensor) -> Tensors:
    return load(message.numpy().tobytes())


def _of_text(text: str) -> torch.Tensor:
    return torch.tensor(list(text.encode()), dtype=torch.uint8)


def _to_text(message: torch.Tensor) -> str:
    return bytes(message.tolist()).decode()
