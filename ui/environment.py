"""What must be in the environment before gradio, torch and transformers are imported."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path


class DataFolderError(OSError):
    """The data folder cannot be used; the message says why and what to do."""


def prepare_environment(data_dir: Path) -> None:
    """Nothing is reported to anybody; uploads and compiled kernels stay in the data folder.

    Only their owner can read uploads. Other folders for kernels that the environment names already
    are left as they are.

    Args:
        data_dir: Made if it is not there.

    Raises:
        DataFolderError: Nothing can be written there.
    """
    uploads = data_dir / "uploads"
    try:
        uploads.mkdir(parents=True, exist_ok=True)
        uploads.chmod(0o700)
        with tempfile.TemporaryFile(dir=uploads) as probe:
            probe.write(bytes(1))
    except OSError as error:
        raise DataFolderError(
            f"Nothing can be written to the data folder {data_dir} ({error.strerror}). Make room "
            "or give yourself access, or choose another folder with --data-dir."
        ) from error
    os.environ.update(
        GRADIO_ANALYTICS_ENABLED="False",
        GRADIO_TEMP_DIR=str(uploads),
        HF_HUB_DISABLE_TELEMETRY="1",
        HF_HUB_DISABLE_SYMLINKS_WARNING="1",
    )
    kernels = data_dir / "kernels"
    # CUDA C++, then Triton, whose own place is a hidden folder in the user's home
    os.environ.setdefault("NEXUSQUANT_KERNEL_CACHE", str(kernels))
    os.environ.setdefault("TRITON_CACHE_DIR", str(kernels / "triton"))
    # does not exist on Windows
    if sys.platform == "linux":
        os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
