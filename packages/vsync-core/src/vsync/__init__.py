"""Virtual synchrony for Python."""
