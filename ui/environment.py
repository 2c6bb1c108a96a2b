"""What must be in the environment before gradio, torch and transformers are imported."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def prepare_environment(data_dir: Path) -> None:
    """Nothing is reported to anybody; uploads stay in the data folder, readable by its owner.

    Args:
        data_dir: Made if it is not there.
    """
    uploads = data_dir / "uploads"
    uploads.mkdir(parents=True, exist_ok=True)
    uploads.chmod(0o700)
    os.environ.update(
        GRADIO_ANALYTICS_ENABLED="False",
        GRADIO_TEMP_DIR=str(uploads),
        HF_HUB_DISABLE_TELEMETRY="1",
        HF_HUB_DISABLE_SYMLINKS_WARNING="1",
    )
    # does not exist on Windows
    if sys.platform == "linux":
        os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
