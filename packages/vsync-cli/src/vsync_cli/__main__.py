"""``python -m vsync_cli`` is the ``vsync`` command."""

from vsync_cli.main import main

main(prog_name="vsync")
