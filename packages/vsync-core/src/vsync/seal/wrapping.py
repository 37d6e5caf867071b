"""Wrapping: a new key under the old one, so that it can be told to those who have that.

AES-256-GCM under a key of its own, derived with HKDF (RFC 5869) from the old one: what wraps keys
never seals packets. Who has the old key can read the new one; where it may be known to others, the
new one must go another way.
"""

import secrets
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from vsync.keys import KEY_BYTES, Key

NONCE_BYTES: Final = 12
TAG_BYTES: Final = 16
WRAPPED_BYTES: Final = NONCE_BYTES + KEY_BYTES + TAG_BYTES


def wrap_key(new: Key, old: Key) -> bytes:
    """*new*, for those who have *old*."""
    nonce = secrets.token_bytes(NONCE_BYTES)
    return nonce + _cipher(old).encrypt(nonce, new.secret, new.id)


def unwrap_key(wrapped: bytes, new_id: bytes, old: Key) -> Key | None:
    """The key of that id which *wrapped* has; None if it has not, or was made with another key."""
    if len(wrapped) != WRAPPED_BYTES:
        return None
    try:
        secret = _cipher(old).decrypt(wrapped[:NONCE_BYTES], wrapped[NONCE_BYTES:], new_id)
    except InvalidTag:
        return None
    key = Key(secret)
    return key if key.id == new_id else None


def _cipher(old: Key) -> AESGCM:
    return AESGCM(HKDF(SHA256(), KEY_BYTES, salt=None, info=b"vsync key change").derive(old.secret))
