"""Password hashes: argon2id with the parameters that argon2-cffi recommends (RFC 9106, section 4, second choice).

A hash takes some 50 ms and 64 MiB, so they are computed in two threads of their own: the event loop goes on, and a
flood of logins neither fills the memory nor starves the rest of the server.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

from pwdlib import PasswordHash
from pwdlib.exceptions import UnknownHashError
from pwdlib.hashers.argon2 import Argon2Hasher

__all__ = ["hash_password", "verify_password"]

HASHER = PasswordHash((Argon2Hasher(),))
CONCURRENCY = 2

_threads = ThreadPoolExecutor(CONCURRENCY, thread_name_prefix="argon2")


async def hash_password(password: str) -> str:
    """Return the hash to store of *password*."""
    return await asyncio.get_running_loop().run_in_executor(_threads, HASHER.hash, password)


async def verify_password(password: str, stored: str | None) -> tuple[bool, str | None]:
    """Compare, taking the same time when there is nothing to compare with.

    Args:
        password: What was entered.
        stored: The hash; None: there is no such user, or no password.

    Returns:
        Whether it is right, and the new hash to store when the parameters have changed since.
    """
    return await asyncio.get_running_loop().run_in_executor(_threads, _verify, HASHER, password, stored)


def _verify(hasher: PasswordHash, password: str, stored: str | None) -> tuple[bool, str | None]:
    try:
        right, update = hasher.verify_and_update(password, stored or _nobody(hasher))
    except UnknownHashError:
        right, update = False, None
    return (right, update) if stored else (False, None)


@lru_cache(maxsize=4)
def _nobody(hasher: PasswordHash) -> str:
    """Return a hash with the parameters of today that no password is compared with in earnest."""
    return hasher.hash("nobody's password")
