"""The transport ``example`` for vsync."""
