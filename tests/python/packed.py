"""The packed BatchGet body and the routing of keys, written from docs/protocol.md alone."""

import struct

import xxhash

PARTS = 2400
ROLE_COUNTS = [n for n in range(1, 100) if PARTS % n == 0]

REQUEST_HEADER = struct.Struct("<4sHHQQH6x")
REQUEST_SECTION = struct.Struct("<QBBBxIQ32sI4x")
REPLY_HEADER = struct.Struct("<4sHHQQH6x")
REPLY_SECTION = struct.Struct("<QBBHI" + "Q32sQ" * 2 + "Q32s" + "IIII")

KEY_TYPES = {"u64": 0, "bytes": 1}
VALUE_WIDTH = {2: 8, 3: 4, 4: 2}  # i64, f32, f16: bytes a dimension
SECTION_STATUS = [
    "ok",
    "unknown table",
    "not loaded",
    "wrong topology",
    "content not held",
    "wrong key type",
    "wrong value form",
    "read_ts ahead",
    "reply too large",
    "data fault",
]
KEY_STATUS = ["absent", "found", "expired", "not here"]

assert (REQUEST_HEADER.size, REQUEST_SECTION.size) == (32, 64)
assert (REPLY_HEADER.size, REPLY_SECTION.size) == (32, 168)


def padded(block):
    return block + bytes(-len(block) % 8)


def role_table(roles):
    """Part -> role. Each count's table comes from the next smaller count: every role gives up the tail of its parts."""
    if roles not in ROLE_COUNTS:
        raise ValueError(f"{roles} roles are not possible")
    parts_of = [list(range(PARTS))]
    for count in ROLE_COUNTS[1 : ROLE_COUNTS.index(roles) + 1]:
        share = PARTS // count
        surplus = [part for parts in parts_of for part in parts[share:]]
        parts_of = [parts[:share] for parts in parts_of]
        parts_of += [sorted(surplus[at : at + share]) for at in range(0, len(surplus), share)]
    role_of = [None] * PARTS
    for role, parts in enumerate(parts_of):
        for part in parts:
            role_of[part] = role
    return role_of


def part_of(key):
    """`key` as bytes: 8, little-endian, for a u64 key."""
    return xxhash.xxh3_64_intdigest(key) * PARTS >> 64


def encode_request(generation, read_ts_ms, uid, key_type, keys):
    """A request with one section that asks for what is shown by default, in the table's own value type."""
    body = REQUEST_HEADER.pack(b"FKVQ", 0, 0, generation, read_ts_ms, 1)
    if key_type == "u64":
        packed, key_bytes = b"".join(keys), 0
    else:
        ends, end = [], 0
        for key in keys:
            end += len(key)
            ends.append(struct.pack("<I", end))
        packed, key_bytes = b"".join(ends) + b"".join(keys), end
    body += REQUEST_SECTION.pack(uid, 0, KEY_TYPES[key_type], 0, len(keys), 0, bytes(32), key_bytes)
    return body + padded(packed)


def decode_reply(body, uid, key_count):
    """The one section of a reply: its label and [(status, value)] in the order of the keys."""
    magic, form, flags, _generation, _server_ms, sections = REPLY_HEADER.unpack_from(body)
    assert (magic, form, flags, sections) == (b"FKVR", 0, 0, 1), (magic, form, flags, sections)
    section = REPLY_SECTION.unpack_from(body, REPLY_HEADER.size)
    table, status, value_type, dimension, count = section[:5]
    served_version, served_content, served_epoch, aligned_version, aligned_content, aligned_epoch = section[5:11]
    other_version, _other_content, as_of_s, found, value_bytes, zero = section[11:]
    assert table == uid and zero == 0
    if status != 0:
        raise RuntimeError(f"the section was refused: {SECTION_STATUS[status]}")
    assert count == key_count, f"{count} answers for {key_count} keys"
    label = {
        "version": served_version,
        "content": served_content.hex(),
        "epoch": served_epoch,
        "aligned_version": aligned_version,
        "aligned_content": aligned_content.hex(),
        "aligned_epoch": aligned_epoch,
        "other_version": other_version,
        "as_of_s": as_of_s,
    }
    at = REPLY_HEADER.size + REPLY_SECTION.size
    statuses = [KEY_STATUS[body[at + key // 4] >> key % 4 * 2 & 3] for key in range(count)]
    at += len(padded(bytes((count + 3) // 4)))
    assert statuses.count("found") == found
    answers = []
    if value_type == 1:
        ends = struct.unpack_from(f"<{count}I", body, at)
        values_at = at + 4 * count
        start = 0
        for key_status, end in zip(statuses, ends):
            answers.append((key_status, bytes(body[values_at + start : values_at + end])))
            start = end
        assert start == value_bytes
        end_of_body = values_at + len(padded(bytes(4 * count + value_bytes))) - 4 * count
    else:
        width = VALUE_WIDTH[value_type] * dimension
        assert found * width == value_bytes
        values_at = at
        for key_status in statuses:
            took = width if key_status == "found" else 0
            answers.append((key_status, bytes(body[values_at : values_at + took])))
            values_at += took
        end_of_body = at + len(padded(bytes(value_bytes)))
    assert end_of_body == len(body), f"{len(body) - end_of_body} bytes too many"
    return label, answers
