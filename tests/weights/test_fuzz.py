"""Seeded damage: nothing crashes, nothing is quietly something else. FUZZ=10 in the environment draws ten times as many."""
import os
import random
import resource
import time

import pytest
import torch
from forms import DIT, TINY, quantised, random_dit, save, tiny_decoder, turbo

from turbo_engine.errors import WeightsError
from turbo_engine.weights import open_checkpoint

TIMES = int(os.environ.get("FUZZ", "1"))
JUNK = b'0123456789{}[]":,-.eE\\ \x00\xff'


def flip(header, rng):
    at = rng.randrange(len(header))
    header[at] ^= 1 << rng.randrange(8)


def junk(header, rng):
    for _ in range(rng.randrange(1, 4)):
        header[rng.randrange(len(header))] = rng.choice(JUNK)


def insert(header, rng):
    at = rng.randrange(len(header))
    header[at:at] = bytes(rng.choice(JUNK) for _ in range(rng.randrange(1, 9)))


def delete(header, rng):
    at = rng.randrange(len(header))
    del header[at:at + rng.randrange(1, 40)]


def swap(header, rng):
    a, b = sorted(rng.randrange(len(header) - 64) for _ in range(2))
    header[a:a + 32], header[b:b + 32] = header[b:b + 32], header[a:a + 32]


def digits(header, rng):
    spots = [i for i, byte in enumerate(header) if 48 <= byte <= 57]
    for at in rng.sample(spots, 3):
        header[at] = rng.choice(b"0123456789-")


def huge(header, rng):
    spots = [i for i, byte in enumerate(header) if 48 <= byte <= 57]
    at = rng.choice(spots)
    header[at:at] = str(rng.choice((2 ** 31, 2 ** 63, 2 ** 64, 10 ** 30))).encode()


def repeat(header, rng):
    start = header.index(b'"', rng.randrange(1, len(header) // 2))
    end = header.index(b"}", start) + 2
    header[start:start] = header[start:end]


MUTATORS = (flip, junk, insert, delete, swap, digits, huge, repeat)


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A tiny decoder and a quantised transformer: (bytes, numbers, tensors)."""
    folder = tmp_path_factory.mktemp("sound")
    small = quantised(random_dit())[0]
    return [(save(folder / f"{i}.safetensors", state).read_bytes(), numbers, state)
            for i, (state, numbers) in enumerate(((tiny_decoder(), TINY), (small, DIT)))]


def attempt(path, numbers):
    """Tensors as stored, or None where refused in one line."""
    try:
        with open_checkpoint(path, numbers) as checkpoint:
            return dict(checkpoint.tensors(dequantise=False))
    except WeightsError as error:
        assert "\n" not in str(error) and path.name in str(error) and "expected" in str(error)
        return None


def test_mutated_headers(tmp_path, sound):
    """8 mutators: each mutant is refused, or harmless (white space, a unicode escape): the same tensors come out."""
    rng, path, accepted, slowest = random.Random(0), tmp_path / "model.safetensors", 0, 0.0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for n in range(500 * TIMES):
        data, numbers, state = sound[0]
        if n % 10 == 0:
            data, numbers, state = sound[1]
        length = int.from_bytes(data[:8], "little")
        header = bytearray(data[8:8 + length])
        MUTATORS[n % 8](header, rng)
        path.write_bytes((length if n % 3 == 0 else len(header)).to_bytes(8, "little") + header + data[8 + length:])
        start = time.perf_counter()
        found = attempt(path, numbers)
        slowest = max(slowest, time.perf_counter() - start)
        if found is not None:
            accepted += 1
            assert found.keys() == state.keys() and all(torch.equal(found[key], state[key]) for key in state), n
    assert accepted < 25 * TIMES and slowest < 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10          # KiB


def test_mutated_lengths(tmp_path, sound):
    data, numbers, _ = sound[0]
    length, path = int.from_bytes(data[:8], "little"), tmp_path / "model.safetensors"
    for claimed in (0, 1, length - 1, length + 1, length + 8, 2 ** 31, 2 ** 63, 2 ** 64 - 1):
        path.write_bytes(claimed.to_bytes(8, "little") + data[8:])
        assert attempt(path, numbers) is None


def test_bit_flips_are_found_where_a_digest_is_known(tmp_path, sound):
    """60 flips anywhere in the file. In the data the container and the manifest see nothing: only a digest does."""
    from hashlib import sha256
    data, numbers, _ = sound[0]
    path, rng, unseen = tmp_path / "model.safetensors", random.Random(1), 0
    digest = {path.name: sha256(data).hexdigest()}
    for _ in range(60 * TIMES):
        damaged = bytearray(data)
        damaged[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        unseen += attempt(path, numbers) is not None
        with pytest.raises(WeightsError), open_checkpoint(path, numbers) as checkpoint:
            checkpoint.verify(digest)
    assert unseen > 0                                           # the reason for the digest


def test_random_key_and_shape_edits(tmp_path):
    """150 edits of names, shapes and dtypes in a Turbo file: none is accepted."""
    rng, state, path = random.Random(2), turbo(random_dit()), tmp_path / "model.safetensors"
    for _ in range(150 * TIMES):
        edited, key = dict(state), rng.choice(list(state))
        tensor = edited.pop(key)
        kind = rng.randrange(4)
        if kind == 0:
            edited[key.replace(*rng.choice(((".", "_"), ("weight", "bias_"), ("blocks", "block"), ("m", "n"), ("q", "Q"), ("e", "")))) + "_"] = tensor
        elif kind == 1:
            edited[key] = torch.cat((tensor, tensor[:1]))
        elif kind == 2:
            edited[key] = tensor.unsqueeze(rng.randrange(tensor.ndim + 1))
        else:
            edited[key] = tensor.to(rng.choice((torch.float64, torch.float16, torch.int8, torch.int64, torch.bool)))
        assert attempt(save(path, edited), DIT) is None
