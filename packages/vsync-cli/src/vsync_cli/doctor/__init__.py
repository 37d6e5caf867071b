"""What ``vsync doctor`` looks at: this host, and the way to others."""
