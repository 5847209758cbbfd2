"""Messages that travel within tensors, as protobuf JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np
from google.protobuf import json_format

from heliostat_engines.decoders import DecoderName
from heliostat_engines.sampling.solvers import Solver

if TYPE_CHECKING:
    from google.protobuf.message import Message
    from numpy.typing import NDArray

MessageT = TypeVar("MessageT", bound="Message")


def json_element(message: Message) -> NDArray[np.object_]:
    """A message as the one element of a BYTES tensor."""
    return np.array([json_format.MessageToJson(message, indent=None).encode()], np.object_)


def read_json_element(array: NDArray[np.object_], message: MessageT) -> MessageT:
    """What `json_element` wrote, filled into an empty message; fields of a newer side are passed over."""
    return json_format.Parse(array.reshape(-1)[0], message, ignore_unknown_fields=True)


def spec_name(choice: Solver | DecoderName) -> str:
    """How a spec names it: left out where it is the default, for servers of before there was another."""
    return "" if choice in (Solver.EULER, DecoderName.FULL) else choice.value
