"""What a reader must get back for rows that pyarrow wrote: the documented conversions, done independently in Python.

The expected content of a case is a binary file of entries, little-endian, no padding:

    +-----------+-------------+-----+---------------+-------+
    | status u8 | key_len u32 | key | value_len u32 | value |
    +-----------+-------------+-----+---------------+-------+

    status   0 absent, 1 found, 2 expired (by the case's `read_ts`)
    key      8 bytes for u64 tables, the bytes themselves otherwise
    value    empty unless found; as clients see it (f32[d]: 4*d bytes, f16[d]: 2*d, i64: 8, bytes as they are)
"""

import struct

import numpy as np
import pyarrow as pa

ABSENT, FOUND, EXPIRED = 0, 1, 2
U64_MASK = (1 << 64) - 1


def parse_value_type(text):
    """('f32', 16) of 'f32[16]'; ('bytes', None); ('i64', None)."""
    if text in ("bytes", "i64"):
        return text, None
    base, _, rest = text.partition("[")
    return base, int(rest.rstrip("]")) if rest else 1


def plain(array):
    """A chunked or dictionary-typed column as one plain array."""
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    if isinstance(array, pa.ChunkedArray):  # several chunks of no rows
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], array.type)
    if pa.types.is_dictionary(array.type):
        array = array.cast(array.type.value_type)
    return array


def key_bytes(column, key_type):
    """Per row the key as it is looked up, or None for a null."""
    rows = plain(column).to_pylist()
    if key_type == "u64":
        return [None if key is None else struct.pack("<Q", key & U64_MASK) for key in rows]
    return [None if key is None else key.encode() if isinstance(key, str) else bytes(key) for key in rows]


def numbers(array):
    """A numeric array as numpy with its validity; floats keep their bits."""
    valid = np.asarray(array.is_valid())
    return array.fill_null(0).to_numpy(zero_copy_only=False), valid


def narrow(values, base, storage):
    """Rounds once to the stored type and gives the bytes a client sees."""
    with np.errstate(over="ignore"):
        if base == "f16":
            return values.astype("<f2")
        as_f32 = values.astype("<f4")
        return as_f32.astype("<f2").astype("<f4") if storage == "f16" else as_f32


def vector_rows(columns, base, dimension, storage, nulls):
    """Per row the packed vector, None for a null, or ValueError for a row that cannot be used."""
    if len(columns) > 1 or dimension == 1 and not is_list(plain(columns[0]).type):
        pairs = [numbers(plain(column)) for column in columns]
        width = {"f32": 4, "f16": 2}[base]
        stack = np.stack([narrow(values, base, storage) for values, _ in pairs], axis=1)
        valid = np.stack([valid for _, valid in pairs], axis=1)
        # A vector without any element is a null; one that lacks some of its elements is a bad row.
        hole = [None if not any_valid else ValueError("null element") for any_valid in valid.any(axis=1)]
        raw = np.ascontiguousarray(stack).tobytes()
        step = width * len(columns)
        return [
            raw[i * step : (i + 1) * step] if nulls == "zero" or valid[i].all() else hole[i] for i in range(len(stack))
        ]
    rows = []
    for scalar in plain(columns[0]):
        if not scalar.is_valid:
            zero = np.zeros(dimension, "<f2" if base == "f16" else "<f4").tobytes()
            rows.append(zero if nulls == "zero" else None)
            continue
        values, valid = numbers(plain(scalar.values))
        if len(values) != dimension:
            rows.append(ValueError("wrong length"))
        elif nulls == "skip" and not valid.all():
            rows.append(ValueError("null element"))
        else:
            rows.append(narrow(values, base, storage).tobytes())
    return rows


def is_list(kind):
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def value_rows(table, case):
    """Per row the value as bytes, None for a null, or ValueError."""
    columns = [table.column(name) for name in case.value_columns]
    base, dimension = parse_value_type(case.value_type)
    if base in ("f32", "f16"):
        return vector_rows(columns, base, dimension, case.storage, case.nulls)
    rows = plain(columns[0]).to_pylist()
    if base == "i64":
        if case.nulls == "zero":
            rows = [0 if value is None else value for value in rows]
        return [None if value is None else struct.pack("<q", value) for value in rows]
    if case.nulls == "zero":
        rows = [b"" if value is None else value for value in rows]
    return [None if v is None else v.encode() if isinstance(v, str) else bytes(v) for v in rows]


def expiry_rows(table, case):
    """Per row the expiry in Unix seconds, 0 for never."""
    if case.expiry_column is None:
        return [0] * table.num_rows
    return [0 if seconds is None else seconds for seconds in plain(table.column(case.expiry_column)).to_pylist()]


def expected_content(tables, case, now):
    """Entries and counts for `tables`, the frozen input in its order. `now` is before the task's as_of."""
    counts = dict(rows_read=0, records=0, duplicates=0, nulls=0, bad_rows=0)
    newest = {}
    for table in tables:
        rows = zip(key_bytes(table.column(case.key_column), case.key_type), value_rows(table, case), expiry_rows(table, case))
        for key, value, expiry in rows:
            counts["rows_read"] += 1
            if key is None or isinstance(value, ValueError):
                counts["bad_rows"] += 1
            elif value is None:
                counts["nulls"] += 1
            elif key in newest and case.duplicates == "first":
                counts["duplicates"] += 1
            else:
                counts["duplicates"] += key in newest
                newest[key] = (value, expiry)
    entries = []
    for key, (value, expiry) in newest.items():
        if expiry != 0 and expiry <= now:
            entries.append((ABSENT, key, b""))
        elif expiry != 0 and case.read_ts is not None and expiry <= case.read_ts:
            entries.append((EXPIRED, key, b""))
            counts["records"] += 1
        else:
            entries.append((FOUND, key, value))
            counts["records"] += 1
    entries.extend((ABSENT, key, b"") for key in absent_keys(newest, case))
    return entries, counts


def absent_keys(present, case):
    """Keys that were never written: near misses of those that were, and extremes."""
    if case.key_type == "u64":
        near = [struct.pack("<Q", (struct.unpack("<Q", key)[0] ^ 1 << 40) & U64_MASK) for key in list(present)[:50]]
        near += [struct.pack("<Q", n) for n in (0, 1, U64_MASK, 1 << 63, 0xDEAD_BEEF_DEAD_BEEF)]
    else:
        near = [key + b"\0" for key in list(present)[:25]] + [key[:-1] for key in list(present)[:25] if key]
        near += [b"", b"no such key", b"\xff" * 1024]
    return [key for key in dict.fromkeys(near) if key not in present]


def encode(entries):
    out = bytearray()
    for status, key, value in entries:
        out += struct.pack("<BI", status, len(key)) + key + struct.pack("<I", len(value)) + value
    return bytes(out)
