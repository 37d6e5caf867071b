"""Three real nodes on this machine, to look at and to harm: what ``vsync demo`` is made of."""
