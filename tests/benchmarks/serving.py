"""What serving costs: rollouts through Triton compared with the same work in one process.

    python tests/benchmarks/serving.py [--checkpoint FOLDER] [--batch 24] [--out serving.json]

Prints JSON: images/s in process and served, their ratio, wire bytes a candidate, and the time
from publishing an adapter to the first batch drawn with it. Run it on an otherwise idle machine;
where there is none, compare the CPU time an image takes, which others disturb less.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import torch

from heliostat_engines.adapters import AdapterFiles, pack_adapter, parse_adapter
from heliostat_engines.families import get_family
from heliostat_engines.runtimes.torch import TorchEngine
from heliostat_engines.sampling.euler import sample_euler
from heliostat_engines.sampling.noise import initial_noise
from heliostat_server.launcher.background import background_server
from heliostat_server.processes.state_folder import StateFolder
from heliostat_server.rewards.registry import RewardBook
from heliostat_server.settings import LimitSettings, ServeSettings
from tests.server.rollout_client import RolloutClient

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from heliostat_server.processes.state_folder import ServerRecord

PROMPT = "a red cat"
EXPERIMENT = "benchmark"
RANK = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", default=get_family("demo").default_checkpoint)
    parser.add_argument("--reward", default="colourfulness")
    parser.add_argument("--batch", type=int, default=24)
    parser.add_argument("--batches", type=int, default=8)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--publishes", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    result = measure(arguments)
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.out is not None:
        arguments.out.write_text(text + "\n")


def measure(arguments: argparse.Namespace) -> dict[str, object]:
    """All figures; in-process and served runs alternate with the thread settings."""
    cores = len(os.sched_getaffinity(0))
    in_process, cpu_ms = measure_in_process(arguments, cores)
    runs = []
    for score_threads in dict.fromkeys((1, cores)):
        served = measure_served(arguments, cores, score_threads)
        ratios = {
            "ratio": round(served["images_per_s"] / in_process, 3),
            "cpu_ratio": round(cpu_ms / served["cpu_ms_per_image"], 3),
        }
        runs.append({"explore_threads": cores, "score_threads": score_threads, **served, **ratios})
    return {
        "cores": cores,
        "batch": arguments.batch,
        "batches": arguments.batches,
        "steps": arguments.steps,
        "reward": arguments.reward,
        "in_process": {"images_per_s": in_process, "cpu_ms_per_image": cpu_ms},
        "served": runs,
    }


def measure_in_process(arguments: argparse.Namespace, threads: int) -> tuple[float, float]:
    """Images/s and CPU ms an image of denoise, decode and reward one after the other in this process."""
    torch.set_num_threads(threads)
    family = get_family("demo")
    engine = TorchEngine(family, arguments.checkpoint)
    decoder = family.load_decoder(arguments.checkpoint)
    conditioning = family.load_text_encoder(arguments.checkpoint).encode([PROMPT])
    rows = conditioning.repeat(arguments.batch)
    reward = RewardBook("demo").get(arguments.reward)
    adapter = parse_adapter(random_adapter(engine.describe().lora_targets, seed=0))
    engine.make_resident(adapter)
    velocity = partial(engine.velocity, conditioning=rows, adapter=adapter.sha256)

    @torch.inference_mode()
    def draw(seeds: range) -> None:
        noise = initial_noise(seeds, family.latent_shape(family.default_resolution_px))
        sigmas = family.sigmas(arguments.steps, family.default_resolution_px)
        images = decoder.decode(sample_euler(velocity, noise, sigmas))
        reward.score(images, [PROMPT] * len(seeds), rows)

    draw(range(arguments.batch))
    return best_rate(
        arguments, lambda: [draw(seeds) for seeds in batches(arguments)], time.process_time
    )


def measure_served(
    arguments: argparse.Namespace, threads: int, score_threads: int
) -> dict[str, float]:
    """The same through Triton, gRPC and the reward model's own process."""
    with tempfile.TemporaryDirectory() as state:
        settings = ServeSettings(
            checkpoint=arguments.checkpoint,
            state=Path(state),
            limits=LimitSettings(batch=arguments.batch),
            threads=threads,
            score_threads=score_threads,
            port=0,
            http_port=0,
        )
        with background_server(settings) as record:
            assert record.rollout is not None
            assert record.control is not None
            token = StateFolder(settings.state).read_admin_token()
            client = RolloutClient(record.rollout, record.control, token)
            try:
                return measure_client(client, arguments, partial(cpu_seconds, record))
            finally:
                client.close()


def cpu_seconds(record: ServerRecord) -> float:
    """CPU time so far of the server's processes and of this one."""
    launcher = psutil.Process(record.launcher.pid)
    times = [process.cpu_times() for process in (launcher, *launcher.children(recursive=True))]
    return time.process_time() + sum(each.user + each.system for each in times)


def measure_client(
    client: RolloutClient, arguments: argparse.Namespace, cpu_clock: Callable[[], float]
) -> dict[str, float]:
    targets = client.targets()
    client.publish(random_adapter(targets, seed=0), EXPERIMENT)
    spec = {
        "experiment": EXPERIMENT,
        "prompt": PROMPT,
        "steps": arguments.steps,
        "rewards": [arguments.reward],
    }
    count = arguments.batch * arguments.batches
    client.rewards(range(arguments.batch), version=1, **spec)
    rate, cpu_ms = best_rate(
        arguments, lambda: client.rewards(range(count), version=1, **spec), cpu_clock
    )
    client.wire_bytes = 0
    client.rewards(range(count), version=1, **spec)
    bytes_a_candidate = client.wire_bytes / count
    publish, overhead = measure_publishes(client, targets, spec, arguments)
    return {
        "images_per_s": rate,
        "cpu_ms_per_image": cpu_ms,
        "wire_bytes_per_candidate": round(bytes_a_candidate, 1),
        "publish_ms": publish,
        "publish_to_first_batch_overhead_ms": overhead,
    }


def measure_publishes(
    client: RolloutClient,
    targets: dict[str, tuple[int, int]],
    spec: dict[str, object],
    arguments: argparse.Namespace,
) -> tuple[float, float]:
    """Medians in ms: Publish itself; and from Publish to the first batch of the new version,
    less what a batch of a version long resident takes."""
    publishes, totals, plain = [], [], []
    for seed in range(1, arguments.publishes + 1):
        files = random_adapter(targets, seed=seed)
        started = time.perf_counter()
        version = client.publish(files, EXPERIMENT).version
        publishes.append(time.perf_counter() - started)
        client.rewards(range(arguments.batch), version=version, **spec)
        totals.append(time.perf_counter() - started)
        started = time.perf_counter()
        client.rewards(range(arguments.batch), version=version, **spec)
        plain.append(time.perf_counter() - started)
    overhead = statistics.median(totals) - statistics.median(plain)
    return round(statistics.median(publishes) * 1e3, 1), round(overhead * 1e3, 1)


def random_adapter(targets: dict[str, tuple[int, int]], seed: int) -> AdapterFiles:
    generator = torch.Generator().manual_seed(seed)
    pairs = {
        name: (
            torch.randn(RANK, inputs, generator=generator) * 0.02,
            torch.randn(outputs, RANK, generator=generator) * 0.02,
        )
        for name, (inputs, outputs) in targets.items()
    }
    return pack_adapter(pairs, alpha=float(RANK))


def batches(arguments: argparse.Namespace) -> Iterator[range]:
    for start in range(0, arguments.batch * arguments.batches, arguments.batch):
        yield range(start, start + arguments.batch)


def best_rate(
    arguments: argparse.Namespace, work: Callable[[], object], cpu_clock: Callable[[], float]
) -> tuple[float, float]:
    """Images/s and CPU ms an image, the best of some repeats: those least disturbed by others."""
    times, cpu_times = [], []
    for _ in range(arguments.repeats):
        started, cpu_started = time.perf_counter(), cpu_clock()
        work()
        times.append(time.perf_counter() - started)
        cpu_times.append(cpu_clock() - cpu_started)
    images = arguments.batch * arguments.batches
    return round(images / min(times), 2), round(min(cpu_times) * 1e3 / images, 2)


if __name__ == "__main__":
    main()
