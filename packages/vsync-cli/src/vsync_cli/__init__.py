"""The ``vsync`` command."""
