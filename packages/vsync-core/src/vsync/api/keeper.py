"""Keeper: a node's keys on disk while its ring changes its key.

It has a thread of its own: neither the ring nor the program is to wait for a disk.
"""

import logging
import threading
import time
from collections.abc import Callable, Collection
from pathlib import Path
from queue import SimpleQueue
from typing import Final

from vsync.engine.rekeying import KeyStep, Name, Step
from vsync.errors import MisuseError, SettingsError, VsyncError
from vsync.key_change import KeyFiles, do_step, switch
from vsync.key_file import make_key
from vsync.keys import KeyRing
from vsync.seal.wrapping import wrap_key
from vsync.vocabulary import NodeId
from vsync.wire import KeyNews

logger = logging.getLogger(__name__)

AGAIN_S: Final = 2.0
"""How long to wait before something is tried again that has to be done."""

NO_KEY: Final = (
    "this ring has no key that could be changed: make one with `vsync keygen`, name it as key_file "
    "in [security] of every node, and restart them"
)


class Keeper:
    """Does the steps of changes of the key, one after the other.

    *done* is called, in its own thread, with the change's name, what is done, why it failed
    and the id of the key that seals.
    """

    def __init__(
        self,
        node: NodeId,
        keys: KeyRing | None,
        key_file: str | None,
        done: Callable[[Name, Step, str, bytes], None],
    ) -> None:
        self._node = node
        self._keys = keys
        self._files = None if key_file is None else KeyFiles(Path(key_file))
        self._done = done
        self._steps: SimpleQueue[KeyStep | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._ended = threading.Event()
        self.trouble: str = ""
        """What has to be done and cannot be, at the moment."""

    def do(self, step: KeyStep) -> None:
        """Do a step: in memory at once, and on disk soon; called in the ring's thread."""
        if self._keys is not None:
            switch(step, self._keys)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="vsync keys", daemon=True)
            self._thread.start()
        self._steps.put(step)

    def close(self) -> None:
        """Do nothing more."""
        self._ended.set()
        self._steps.put(None)
        if self._thread is not None:
            self._thread.join(1.0)

    def _run(self) -> None:
        while (step := self._steps.get()) is not None and not self._ended.is_set():
            done, failure = self._try(step)
            while failure and not step.may_fail:
                self.trouble = failure
                logger.error("node %d: %s; it is tried again", self._node, failure)
                if self._ended.wait(AGAIN_S):
                    return
                done, failure = self._try(step)
            self.trouble = ""
            if step.step is not Step.UNDO:
                used = b"" if self._keys is None else self._keys.used.id
                self._done(step.name, done, failure, used)

    def _try(self, step: KeyStep) -> tuple[Step, str]:
        """What is done now; or why it cannot be."""
        if self._keys is None or self._files is None:
            return step.step, f"node {self._node} has no key_file in [security]"
        if self._keys.kept and step.step is Step.ACCEPT:
            return step.step, (
                f"node {self._node} has accepted_key_files in [security]: its keys are being "
                "changed by hand; take that out, use `vsync reload` there, and try again"
            )
        try:
            return do_step(step, self._keys, self._files), ""
        except (VsyncError, OSError) as error:
            return step.step, f"node {self._node}: {error}"

    # --- a change that begins here --------------------------------------------------------------

    def propose(self, *, copied: bool, without: Collection[int]) -> KeyNews:
        """What to tell the ring to change its key. Reads and writes files.

        With *copied* the new key is in every node's files already. Raises MisuseError and
        SettingsError.
        """
        keys, files = self._keys, self._files
        if keys is None or files is None:
            raise MisuseError(NO_KEY)
        used, coming, previous = files.load_used(), files.load_next(), files.load_previous()
        if used.id != keys.used.id:
            raise SettingsError(
                f"{files.path} has key {used}, and this node uses {keys.used}: somebody has "
                "replaced the file. Put the right one back; `vsync key rotate` writes it itself"
            )
        old = keys.used
        if copied and coming is None:
            raise SettingsError(
                f"there is no {files.next}: make it with `vsync keygen {files.next}`, copy it to "
                "every node as the .next of its key file, and try again"
            )
        if coming is not None:
            new = coming  # copied there, or left by a change that was broken off
        elif previous is not None and previous.id != used.id:
            new, old = used, previous  # likewise, and all use the new one already
        else:
            new = make_key()
        if new.id == old.id:
            raise SettingsError(f"{files.next} has the key that is in use; make another one")
        body = b"" if copied else wrap_key(new, old)
        nodes = frozenset(map(NodeId, without))
        return KeyNews(time.time_ns(), new.id, old.id, body, without=nodes)

    def warnings(self, *, changing: bool) -> list[str]:
        """What is not as it should be with the keys."""
        found = []
        if self.trouble:
            found.append(f"the change of the key waits for this node: {self.trouble}")
        keys = self._keys
        if keys is not None and not changing:
            left = [key for key in keys.keys if key.id not in (keys.used.id, *keys.kept)]
            if left:
                found.append(
                    f"key {left[0]} is accepted besides {keys.used}: a change of the key was "
                    "broken off; `vsync key rotate` completes it"
                )
        return found
