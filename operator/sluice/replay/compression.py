"""Kafka's four codecs, each in the framing that Kafka's brokers and clients read."""

from __future__ import annotations

import struct
import zlib
from typing import Final

import cramjam

from sluice.replay.errors import CorruptBatchError

NONE, GZIP, SNAPPY, LZ4, ZSTD = range(5)
CODEC_NAMES: Final = {NONE: "none", GZIP: "gzip", SNAPPY: "snappy", LZ4: "lz4", ZSTD: "zstd"}

_XERIAL_MAGIC: Final = b"\x82SNAPPY\x00"
_XERIAL_HEADER: Final = _XERIAL_MAGIC + struct.pack(">ii", 1, 1)
_XERIAL_BLOCK: Final = 32 * 1024
_INT: Final = struct.Struct(">i")
_LZ4_HEADER: Final = b"\x04\x22\x4d\x18\x60\x40\x82"
"""Magic; version 1 with independent blocks (Kafka reads no linked ones); blocks of 64 KiB; the header's checksum."""
_LZ4_BLOCK: Final = 64 * 1024
_LZ4_STORED: Final = 0x80000000
_LITTLE_UINT: Final = struct.Struct("<I")


def decompress(codec: int, data: memoryview) -> bytes | memoryview:
    """The records of a batch, without compression.

    Raises:
        CorruptBatchError: the bytes don't fit the codec, or the codec isn't known.
    """
    try:
        match codec:
            case 0:
                return data
            case 1:
                return zlib.decompress(data, wbits=31)
            case 2:
                return _snappy_decompress(data)
            case 3:
                return bytes(cramjam.lz4.decompress(data))
            case 4:
                return bytes(cramjam.zstd.decompress(data))
    except (cramjam.DecompressionError, zlib.error, struct.error, ValueError) as error:
        raise CorruptBatchError(f"a batch compressed with {CODEC_NAMES[codec]} can't be read: {error}") from error
    raise CorruptBatchError(f"compression codec {codec} isn't known to this release")


def compress(codec: int, data: bytes | bytearray) -> bytes:
    """The records of a batch, compressed so that every Kafka client can read them."""
    match codec:
        case 1:
            compressor = zlib.compressobj(wbits=31)
            return compressor.compress(data) + compressor.flush()
        case 2:
            return _snappy_compress(data)
        case 3:
            return _lz4_compress(data)
        case 4:
            return bytes(cramjam.zstd.compress(data))
        case _:
            return bytes(data)


def _snappy_decompress(data: memoryview) -> bytes:
    if bytes(data[: len(_XERIAL_MAGIC)]) != _XERIAL_MAGIC:
        return bytes(cramjam.snappy.decompress_raw(data))
    blocks = []
    position = len(_XERIAL_HEADER)
    while position < len(data):
        (size,) = _INT.unpack_from(data, position)
        position += _INT.size
        if size < 0 or size > len(data) - position:
            raise ValueError(f"a block of {size} bytes reaches beyond the batch")
        blocks.append(bytes(cramjam.snappy.decompress_raw(data[position : position + size])))
        position += size
    return b"".join(blocks)


def _snappy_compress(data: bytes | bytearray) -> bytes:
    parts = [_XERIAL_HEADER]
    view = memoryview(data)
    for start in range(0, len(view), _XERIAL_BLOCK):
        block = bytes(cramjam.snappy.compress_raw(view[start : start + _XERIAL_BLOCK]))
        parts += (_INT.pack(len(block)), block)
    return b"".join(parts)


def _lz4_compress(data: bytes | bytearray) -> bytes:
    parts = [_LZ4_HEADER]
    view = memoryview(data)
    for start in range(0, len(view), _LZ4_BLOCK):
        plain = view[start : start + _LZ4_BLOCK]
        block = bytes(cramjam.lz4.compress_block(plain, store_size=False))
        if len(block) < len(plain):
            parts += (_LITTLE_UINT.pack(len(block)), block)
        else:
            parts += (_LITTLE_UINT.pack(len(plain) | _LZ4_STORED), bytes(plain))
    parts.append(_LITTLE_UINT.pack(0))
    return b"".join(parts)
