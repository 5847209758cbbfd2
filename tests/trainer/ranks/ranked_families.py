"""For torchrun: gradients of every family's sharded transformer, against those of the whole one.

python ranked_families.py FOLDER, which has a tiny checkpoint of each family by its name.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import torch
from torch.distributed.tensor import DTensor

from heliostat_engines.families import get_family
from heliostat_trainer.policy.policy import Policy, PolicyName
from heliostat_trainer.ranks.ranks import open_ranks
from tests.trainer.policy.test_policy import family_policy, stir


def gradients(policy: Policy, name: str) -> dict[str, torch.Tensor]:
    family = get_family(name)
    stir(policy, PolicyName.TRAINED)
    random = torch.Generator().manual_seed(0)
    latents = torch.randn(1, *family.latent_shape(family.resolutions.smallest_px), generator=random)
    point = latents, torch.tensor([0.5]), family.probe_conditioning(policy._transformer, 8)
    before = policy.velocity(PolicyName.BASE, *point)
    velocity = policy.velocity(PolicyName.TRAINED, *point)
    policy.backward(velocity.square().mean())
    assert not torch.equal(before, velocity)
    return {key: value.grad for key, value in policy.trained.tensors.items()}


def main() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    with open_ranks() as ranks:
        for folder in sorted(Path(sys.argv[1]).iterdir()):
            name, mesh = folder.name, ranks.mesh(torch.device("cpu"))
            whole = gradients(family_policy(name, folder), name)
            for checkpointed in (False, True):
                policy = family_policy(name, folder, mesh=mesh, gradient_checkpointing=checkpointed)
                frozen = [p for n, p in policy._transformer.named_parameters() if "lora_" not in n]
                assert all(isinstance(parameter, DTensor) for parameter in frozen)
                sharded = gradients(policy, name)
                assert all(torch.equal(whole[key], sharded[key]) for key in whole), name
                ranks.meet()
            print(f"{name} agrees on rank {ranks.rank}", flush=True)


if __name__ == "__main__":
    main()
