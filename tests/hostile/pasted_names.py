"""Names of models as people paste them, right and wrong. Knows nothing of ours."""

from __future__ import annotations

import random
from pathlib import Path


def pasted_name(rng: random.Random, folder: Path) -> str:
    """Draw what somebody might paste.

    Args:
        rng: Everything is drawn from it.
        folder: Of a model that is there.
    """
    good = str(folder)
    name = rng.choice(
        (
            *(
                good,
                f"{good}/config.json",
                f"{good}/",
                f"file://{good}",
                "Qwen/Qwen2.5-7B-Instruct",
            ),
            *("https://huggingface.co/a/b/tree/main", "hf.co/a/b", "http://127.0.0.1:1/a/b"),
            *("https://huggingface.co@evil.example/a/b", "https://evil.example/huggingface.co/a/b"),
            *("ftp://x/y", "file://host/x", "https://[::1", "https://huggingface.co/", "/dev/zero"),
            *("../../etc/passwd", "/etc/passwd", "~nobody-there/x", "$HOME/x", "%s%n", "a/b/c/d"),
            *(
                "x" * 5000,
                "a\0b",
                "\ud83d",
                "a\nb",
                "\u202eabc",
                "",
                "   ",
                "'",
                '""',
                "C:\\m\\x.gguf",
            ),
            *("https://huggingface.co/datasets/a/b", "models--a--b", "a" * 300, "git clone x"),
        )
    )
    for _ in range(rng.choice((0, 1, 1, 3))):
        around = rng.choice(
            ("{}", "  {}\n", '"{}"', "'{}'", "“{}”", "{}/", "\ufeff{}", "`{}`", "<{}>")
        )
        name = around.format(name)
    return name
