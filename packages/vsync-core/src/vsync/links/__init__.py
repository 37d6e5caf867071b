"""Several networks as one: which link carries what, and which of them can be relied on.

Sans-IO, as the engine is: ``vsync.transports.redundant`` gives it packets and time.
"""

from vsync.links.hello import Hello, build_hello, is_hello, parse_hello
from vsync.links.links import Links, Manner, Mode, Path
from vsync.links.quality import LinkState

__all__ = [
    "Hello",
    "LinkState",
    "Links",
    "Manner",
    "Mode",
    "Path",
    "build_hello",
    "is_hello",
    "parse_hello",
]
