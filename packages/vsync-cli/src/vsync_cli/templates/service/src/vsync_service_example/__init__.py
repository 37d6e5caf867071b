"""The service ``example`` for vsync."""
