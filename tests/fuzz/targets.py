"""Everything that reads bytes from strangers, as functions that take any bytes and never raise.

What stands behind a checksum is given its bytes with the right one: strangers can compute it, too.
"""

from typing import Final

from tests.fuzz import messages, packets, roce
from tests.fuzz.feeding import Target

TARGETS: Final[dict[str, Target]] = {**packets.TARGETS, **roce.TARGETS, **messages.TARGETS}
