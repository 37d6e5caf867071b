"""UDP multicast transport of vsync."""
