"""What was trained, in the formats that others load: `export_run`, `write_lora_folder`."""

from heliostat_trainer.export.formats import DIFFUSERS_FILE, Format
from heliostat_trainer.export.lora_folder import write_lora_folder
from heliostat_trainer.export.run import Exported, export_run
from heliostat_trainer.export.source import TrainedLora, read_lora

__all__ = [
    "DIFFUSERS_FILE",
    "Exported",
    "Format",
    "TrainedLora",
    "export_run",
    "read_lora",
    "write_lora_folder",
]
