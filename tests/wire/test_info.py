"""What a server says of itself is read as it was written, and older servers' answers too."""

from __future__ import annotations

from dataclasses import fields, replace

from google.protobuf.message import Message

from heliostat_proto.control_pb2 import InfoResponse
from heliostat_wire.info import ServerInfo
from heliostat_wire.version import OURS, WireVersion

INFO = ServerInfo(
    server_version="0.9",
    rollout_address="gpu:8001",
    family="demo",
    checkpoint="weights",
    runtime="torch",
    precision="nvfp4",
    compute_dtype="bfloat16",
    lora_targets={"a.to_k": (4, 6), "a.to_q": (4, 8)},
    max_rank=64,
    resolution_px=512,
    rewards=("judge", "other"),
    batch=24,
    max_steps=100,
    max_seeds=4096,
    max_prompt_chars=1000,
    max_adapter_bytes=2**30,
    latest_version=7,
    nvfp4_linears=90,
    linears=120,
    weights_digest="aa",
    checks_prompts=True,
    scores_early=True,
    solvers=("euler", "dpm2m"),
    decoders=("full", "tiny"),
    sleeps=True,
    max_queued_images=96,
    resolutions_px=(512, (832, 1216)),
)


def test_all_of_it_is_read_as_it_was_written() -> None:
    written = INFO.message()
    assert ServerInfo.read(InfoResponse.FromString(written.SerializeToString()), "host:1") == INFO
    assert WireVersion.of(written) == OURS
    for field in fields(INFO):  # else what is forgotten on both sides would be found equal
        assert getattr(INFO, field.name), field.name


def test_no_field_of_the_answer_is_left_unwritten() -> None:
    def unset(message: Message) -> list[str]:
        written = {field.name for field, _ in message.ListFields()}
        return sorted(set(message.DESCRIPTOR.fields_by_name) - written)

    answer = INFO.message()
    assert [unset(part) for part in (answer, answer.engine, answer.limits)] == [[], [], []]


def test_images_that_are_no_squares_are_refused_by_who_knows_squares_alone() -> None:
    sizes = ((832, 1216), 1024)
    info = replace(INFO, resolution_px=sizes[0], resolutions_px=sizes)
    message = info.message()
    assert message.engine.resolution_px == 0
    assert ServerInfo.read(message, "host:1") == info
    assert INFO.message().engine.resolution_px == 512


def test_a_size_that_a_server_does_not_draw_is_a_shortcoming() -> None:
    for size in (None, 512, (832, 1216)):
        assert INFO.shortcoming(resolution_px=size) is None
    assert INFO.shortcoming(resolution_px=(1216, 832)) == (
        "(version 0.9) draws 512 and 832x1216 px images alone"
    )
    older = replace(INFO, resolutions_px=())
    assert older.shortcoming(resolution_px=512) is None
    assert older.shortcoming(resolution_px=(832, 1216)) == "(version 0.9) draws 512 px images alone"


def test_without_a_host_rollouts_are_asked_for_where_the_control_plane_is() -> None:
    message = replace(INFO, rollout_address=":8001").message()
    assert ServerInfo.read(message, "gpu.lab:8600").rollout_address == "gpu.lab:8001"


def test_what_an_older_server_does_not_say_is_what_it_can_do() -> None:
    info = ServerInfo.read(InfoResponse(rollout_address="gpu:8001"), "gpu:8600")
    assert (info.solvers, info.decoders, info.max_queued_images) == (("euler",), (), None)
    assert info.resolutions_px == ()
    assert (info.checks_prompts, info.scores_early, info.weights_digest) == (False, False, "")
