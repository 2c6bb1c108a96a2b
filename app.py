"""Start Nexusquant: flags, settings, page, server. Knows the order of these; holds no logic."""

from __future__ import annotations

import sys

from ui.environment import DataFolderError, prepare_environment
from ui.options import parse_options


def main() -> int:
    """Serve the page as the flags say; returns the exit code."""
    options = parse_options()
    try:
        prepare_environment(options.data_dir)
    except DataFolderError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    # after the environment, which gradio and torch read as they are imported
    from ui.server import serve

    return serve(options)


if __name__ == "__main__":
    sys.exit(main())
