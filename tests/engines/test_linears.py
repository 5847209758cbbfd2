from __future__ import annotations

import torch

from heliostat_engines.linears import LastCall


def test_one_call_is_remembered_until_another_or_until_it_is_forgotten() -> None:
    remembered = LastCall(torch.clone)
    x = torch.ones(2)
    first = remembered(x)
    assert remembered(x) is first
    assert remembered(x.clone()) is not first
    again = remembered(x)
    remembered.forget()
    assert remembered(x) is not again
