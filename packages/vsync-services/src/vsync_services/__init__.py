"""Services for vsync, one package each: ``quorum`` and ``kv``."""
