from __future__ import annotations

from heliostat_engines.families import get_family
from heliostat_trainer.settings.run import ModelSection


def test_the_model_is_the_familys_own_unless_another_is_named() -> None:
    family = get_family("demo")
    own = ModelSection()
    assert own.checkpoint_of(family) == family.default_checkpoint
    assert own.resolution_of(family) == family.default_resolution_px
    for written in ((832, 1216), [832, 1216], "832x1216"):
        section = ModelSection.model_validate({"resolution_px": written})
        assert section.resolution_of(family) == (832, 1216)
        assert ModelSection.model_validate_json(section.model_dump_json()) == section
    other = ModelSection(checkpoint="owner/name", resolution_px=128)
    assert (other.checkpoint_of(family), other.resolution_of(family)) == ("owner/name", 128)
