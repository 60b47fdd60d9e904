"""Compression by blocks: any program reads it, and it is the same on any number of processors."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import random
from concurrent.futures import ThreadPoolExecutor

import pytest

from ropewalk.server.environments.oci import deflate
from ropewalk.server.environments.oci.deflate import BLOCK, Gzip


def compressed(data: bytes, threads: int, part: int = 2**16) -> tuple[bytes, Gzip]:
    target = io.BytesIO()
    with ThreadPoolExecutor(threads) as pool:
        stream = Gzip(target, 4, pool)
        for at in range(0, len(data), part):
            stream.write(data[at : at + part])
        stream.finish()
    return target.getvalue(), stream


@pytest.mark.parametrize("size", [0, 1, BLOCK, BLOCK + 1, 5 * BLOCK + 12345])
def test_what_is_compressed_is_read_again_and_known_by_both_digests(size: int) -> None:
    data = random.Random(1).randbytes(1000) * (size // 1000 + 1)
    data = data[:size]
    one, stream = compressed(data, threads=1)
    assert gzip.decompress(one) == data
    assert stream.digest == f"sha256:{hashlib.sha256(one).hexdigest()}"
    assert stream.diff_id == f"sha256:{hashlib.sha256(data).hexdigest()}"
    assert compressed(data, threads=4, part=777_777)[0] == one, "neither threads nor the parts it is given in matter"


def test_blocks_know_what_was_before_them() -> None:
    unit = os.urandom(2**14)
    data = unit * (4 * BLOCK // len(unit))
    whole = gzip.compress(data, 4)
    assert len(compressed(data, threads=2)[0]) < 1.5 * len(whole), "each block begins with nothing to refer to"


def test_a_disk_that_is_full_ends_it() -> None:
    class Full(io.BytesIO):
        def write(self, data: object) -> int:
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"), deflate.compressing(Full(), 4) as stream:
        stream.write(os.urandom(3 * BLOCK))
