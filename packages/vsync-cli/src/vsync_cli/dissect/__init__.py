"""What ``vsync dissect`` does: captures read, layers taken off, packets of rings named."""
