"""What ``vsync bench`` and ``vsync latency`` share: messages that check themselves, and figures."""
