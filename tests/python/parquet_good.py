"""Loads that must succeed: the shapes of Parquet that people really have."""

import decimal
import itertools

import numpy as np
import pyarrow as pa

from case import Case

ROWS = 3000
CODECS = ["none", "snappy", "gzip", "zstd", "brotli", "lz4"]
PAGES = ["1.0", "2.0"]


def rng(name):
    return np.random.default_rng(list(name.encode()))


def u64_keys(name, count=ROWS):
    """Distinct keys over the whole 64-bit range."""
    keys = rng(name + "/keys").integers(0, 1 << 64, size=count * 2, dtype=np.uint64)
    return np.array(list(dict.fromkeys(keys.tolist()))[:count], dtype=np.uint64)


def floats(name, count=ROWS, kind=np.float32):
    """Floats with every special bit pattern among them."""
    values = rng(name + "/floats").standard_normal(count).astype(kind)
    largest = min(np.finfo(kind).max, np.finfo(np.float32).max)
    special = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, np.finfo(kind).tiny / 4, largest], dtype=kind)
    values[: len(special)] = special
    if kind == np.float32:
        values.view(np.uint32)[7:9] = [0x7FC0_1234, 0x0000_0001]  # a NaN with a payload, the smallest subnormal
    return values


def words(name, count=ROWS):
    """Distinct strings with long common prefixes, as ids and URLs have; some not ASCII."""
    salt = rng(name + "/words").integers(0, 1 << 32, size=count)
    return [f"user/{i % 97:04d}/é{i}/{n:x}" if i % 10 == 0 else f"item:{i:08d}:{n:x}" for i, n in enumerate(salt.tolist())]


def table(**columns):
    return pa.table(columns)


def encodings(out):
    """Each encoding a writer may choose for keys and values, with data page v1 and v2."""
    for page in PAGES:
        version = dict(data_page_version=page, data_page_size=4096)
        suffix = f"v{page[0]}"

        case = Case(f"plain_{suffix}")
        data = table(key=u64_keys(case.name), value=floats(case.name))
        case.write(out, data, encodings={"key": "PLAIN", "value": "PLAIN"}, use_dictionary=False, compression="none", **version)
        yield case

        # Few distinct values: dictionary pages, indices in RLE and bit-packed runs.
        case = Case(f"dictionary_{suffix}", key_type="bytes", value_type="i64")
        data = table(key=words(case.name), value=np.repeat(np.arange(30, dtype=np.int64) - 15, ROWS // 30))
        case.write(out, data, encodings={"key": "RLE_DICTIONARY", "value": "RLE_DICTIONARY"}, use_dictionary=True, **version)
        yield case

        # The dictionary overflows in the middle of a row group and the writer falls back to plain.
        case = Case(f"dictionary_fallback_{suffix}", value_type="bytes")
        data = table(key=u64_keys(case.name), value=words(case.name))
        limits = dict(dictionary_pagesize_limit=2048, write_batch_size=64)
        case.write(out, data, encodings={"key": "PLAIN", "value": "RLE_DICTIONARY"}, use_dictionary=True, **limits, **version)
        yield case

        case = Case(f"delta_binary_packed_{suffix}", value_type="i64")
        steps = np.cumsum(rng(case.name).integers(1, 1000, size=ROWS)).astype(np.int64) - 500_000
        data = table(key=steps, value=steps[::-1] * 7_000_000_007)
        wanted = {"key": "DELTA_BINARY_PACKED", "value": "DELTA_BINARY_PACKED"}
        case.write(out, data, encodings=wanted, use_dictionary=False, column_encoding=wanted, **version)
        yield case

        case = Case(f"delta_byte_array_{suffix}", key_type="bytes", value_type="bytes")
        values = rng(case.name).integers(0, 256, size=(ROWS, 20), dtype=np.uint8)
        data = table(key=sorted(words(case.name)), value=[row[: i % 21].tobytes() for i, row in enumerate(values)])
        wanted = {"key": "DELTA_BYTE_ARRAY", "value": "DELTA_LENGTH_BYTE_ARRAY"}
        case.write(out, data, encodings=wanted, use_dictionary=False, column_encoding=wanted, **version)
        yield case

        case = Case(f"byte_stream_split_{suffix}", value_type="f32[4]", value_columns=["a", "b", "c", "d"])
        data = table(
            key=u64_keys(case.name).view(np.int64),
            a=floats("a"),
            b=floats("b", kind=np.float64),
            c=np.arange(ROWS, dtype=np.int32) - 1000,
            d=pa.array(floats("d", kind=np.float16)),
        )
        wanted = {name: "BYTE_STREAM_SPLIT" for name in ("key", "a", "b", "c", "d")}
        case.write(out, data, encodings=wanted, use_dictionary=False, column_encoding=wanted, **version)
        yield case


def compressions(out):
    """One directory per value shape with a file per codec and data page version, as a migrated pipeline leaves it."""
    for value_type, column in [("f32[8]", "vectors"), ("bytes", "blobs")]:
        case = Case(f"codecs_{column}", value_type=value_type)
        for number, (codec, page) in enumerate(itertools.product(CODECS, PAGES)):
            name = f"{case.name}/{number}"
            if column == "vectors":
                flat = pa.array(floats(name, 400 * 8))
                value = pa.FixedSizeListArray.from_arrays(flat, 8)
            else:
                value = pa.array([word.encode() * (i % 5) for i, word in enumerate(words(name, 400))])
            data = table(key=u64_keys(name, 400), value=value)
            file = f"part-{number:05d}-{codec}.parquet"
            case.write(out, data, file=file, compression=codec, data_page_version=page, row_group_size=150)
        yield case


def key_types(out):
    """Every integer width, signed ones with negative keys; every type of bytes."""
    for bits, signed in itertools.product((8, 16, 32, 64), (True, False)):
        kind = np.dtype(f"{'i' if signed else 'u'}{bits // 8}")
        limits = np.iinfo(kind)
        extremes = [limits.min, limits.max, 0, 1, limits.max // 2, limits.min // 2]
        count = 200 if bits == 8 else 1000
        drawn = rng(f"key_{kind}").integers(limits.min, limits.max, size=count, dtype=kind, endpoint=True)
        keys = np.array(list(dict.fromkeys(extremes + drawn.tolist())), dtype=kind)
        case = Case(f"key_{kind.name}", value_type="i64")
        case.write(out, table(key=keys, value=np.arange(len(keys), dtype=np.int64) * -3))
        yield case

    texts = words("texts", 500) + ["", "x" * 1024, "\0", "a\0b"]
    raws = [bytes(rng("raws").integers(0, 256, size=n, dtype=np.uint8)) for n in range(300)]
    fixed = [i.to_bytes(16, "big") for i in range(500)]
    shapes = {
        "string": pa.array(texts, pa.string()),
        "large_string": pa.array(texts, pa.large_string()),
        "string_view": pa.array(texts, pa.string_view()),
        "binary": pa.array(raws, pa.binary()),
        "large_binary": pa.array(raws, pa.large_binary()),
        "fixed_size_binary": pa.array(fixed, pa.binary(16)),
        # What pandas writes for a categorical column: the Arrow schema in the file says dictionary.
        "categorical": pa.array(texts, pa.string()).dictionary_encode(),
    }
    for name, keys in shapes.items():
        case = Case(f"key_{name}", key_type="bytes")
        case.write(out, table(key=keys, value=floats(case.name, len(keys))))
        yield case


def value_types(out):
    """Every value shape: scalars, lists of three kinds, several columns, integers, bytes."""
    keys = u64_keys("values")
    count = len(keys)
    doubles = floats("doubles", count, np.float64)
    doubles[10:13] = [1e-300, 1e-42, 1 + 2**-24]  # below f32's range, among its subnormals, halfway between two f32
    halves = floats("halves", count, np.float16)
    ragged = np.arange(0, 3 * count + 1, 3, dtype=np.int32)
    triple = floats("triple", 3 * count)
    scalars = [
        ("float", "f32", pa.array(floats("float", count))),
        ("double", "f32", pa.array(doubles)),
        ("half", "f32", pa.array(halves)),
        ("int32_as_float", "f32", pa.array(np.arange(count, dtype=np.int32) * 16_777_217 % (1 << 30), pa.int32())),
        ("half_as_half", "f16", pa.array(halves)),
        ("float_as_half", "f16", pa.array((floats("small", count)[9:].tolist() + [1.5] * 9), pa.float32())),
        ("list", "f32[3]", pa.ListArray.from_arrays(ragged, pa.array(triple))),
        ("large_list", "f32[3]", pa.LargeListArray.from_arrays(ragged.astype(np.int64), pa.array(triple.astype(np.float64)))),
        ("fixed_size_list", "f32[3]", pa.FixedSizeListArray.from_arrays(pa.array(triple), 3)),
        ("half_list", "f16[3]", pa.FixedSizeListArray.from_arrays(pa.array(floats("hl", 3 * count, np.float16)), 3)),
        ("list_of_one", "f32", pa.FixedSizeListArray.from_arrays(pa.array(floats("one", count)), 1)),
        ("int64", "i64", pa.array(rng("i64").integers(-(1 << 63), (1 << 63) - 1, size=count, endpoint=True))),
        ("int8", "i64", pa.array((np.arange(count) % 256 - 128).astype(np.int8))),
        ("uint32", "i64", pa.array(rng("u32").integers(0, 1 << 32, size=count, dtype=np.uint32))),
        ("string", "bytes", pa.array(words("string", count))),
        ("large_string", "bytes", pa.array(words("large", count), pa.large_string())),
        ("binary", "bytes", pa.array([bytes([i % 256]) * (i % 50) for i in range(count)], pa.binary())),
        ("large_binary", "bytes", pa.array([b"\xff\0" * (i % 9) for i in range(count)], pa.large_binary())),
        ("categorical", "bytes", pa.array([f"segment-{i % 12}" for i in range(count)]).dictionary_encode()),
        ("long", "bytes", pa.array([bytes([i % 251]) * (3_000_000 if i == 0 else 100_000 if i % 100 == 0 else i % 7) for i in range(count)])),
    ]
    for name, value_type, values in scalars:
        case = Case(f"value_{name}", value_type=value_type)
        case.write(out, table(key=keys, value=values))
        yield case

    case = Case("value_columns", value_type="f32[5]", value_columns=["price", "clicks", "ctr", "age", "score"])
    data = table(
        age=pa.array(np.arange(count) % 100, pa.uint8()),
        clicks=pa.array(np.arange(count, dtype=np.int64) * 1_000_003),
        price=doubles,
        key=keys,
        score=pa.array(halves),
        ctr=floats("ctr", count),
    )
    case.write(out, data)
    yield case

    wide = 768
    case = Case("value_embedding", value_type="f32[768]", storage="native")
    flat = pa.array(rng("embedding").standard_normal(300 * wide).astype(np.float32))
    case.write(out, table(key=keys[:300], value=pa.FixedSizeListArray.from_arrays(flat, wide)), row_group_size=77)
    yield case

    case = Case("value_stored_as_half", value_type="f32[4]", storage="f16")
    flat = pa.array(rng("half storage").standard_normal(4 * count).astype(np.float32))
    case.write(out, table(key=keys, value=pa.FixedSizeListArray.from_arrays(flat, 4)))
    yield case


def layouts(out):
    """Row groups, column order, columns that do not matter, names that need care, directories."""
    case = Case("many_row_groups", value_type="f32[2]", value_columns=["a", "b"])
    count = 60_000
    data = table(b=floats("b", count), key=u64_keys(case.name, count), a=floats("a", count))
    case.write(out, data, row_group_size=7_001, data_page_size=1 << 14, compression="zstd")
    yield case

    # What a job with nothing to say writes: loading it leaves nothing.
    case = Case("no_rows")
    case.write(out, pa.schema([("key", pa.int64()), ("value", pa.float32())]).empty_table())
    yield case

    case = Case("one_row")
    case.write(out, table(key=np.array([42], np.int64), value=np.array([0.5], np.float32)))
    yield case

    # Nested columns before and between shift the numbers of the leaf columns.
    case = Case("extra_columns", value_type="f32[2]", value_columns=["y", "x"])
    count = 500
    data = pa.table(
        {
            "profile": pa.array([{"id": i, "tags": ["a"] * (i % 3)} for i in range(count)]),
            "x": floats("x", count),
            "when": pa.array(np.arange(count) * 1_000_000_000, pa.timestamp("us", tz="UTC")),
            "scores": pa.array([[("k", i)] for i in range(count)], pa.map_(pa.string(), pa.int64())),
            "y": floats("y", count),
            "amount": pa.array([decimal.Decimal(i) / 4 for i in range(count)], pa.decimal128(12, 2)),
            "key": u64_keys(case.name, count).view(np.int64),
            "flag": pa.array([i % 2 == 0 for i in range(count)]),
            "nothing": pa.nulls(count, pa.string()),
        }
    )
    case.write(out, data, row_group_size=120)
    yield case

    # Writers differ in what they put beside the data, and in how they spell lists and small integers.
    keys = np.arange(1000, dtype=np.uint32) + 3_000_000_000
    flavours = {
        "format_1_0": dict(version="1.0"),
        "format_2_4": dict(version="2.4"),
        "format_2_6": dict(version="2.6"),
        "without_arrow_schema": dict(store_schema=False),
        "list_item_names": dict(use_compliant_nested_type=False),
        "page_index_and_checksums": dict(write_page_index=True, write_page_checksum=True, data_page_size=1024),
        "spark_flavour": dict(flavor="spark"),
    }
    for name, options in flavours.items():
        case = Case(name, value_type="f32[2]")
        value = pa.FixedSizeListArray.from_arrays(pa.array(floats(name, 2000)), 2)
        case.write(out, table(value=value, key=keys), **options)
        yield case

    case = Case("names_with_care", key_column="user.id", value_columns=["特征 1", "a b"], value_type="f32[2]")
    case.write(out, pa.table({"a b": floats("ab", 100), "user.id": np.arange(100), "特征 1": floats("t", 100)}))
    yield case

    case = Case("spark_directory", value_type="i64")
    for part in range(3):
        data = table(key=np.arange(part * 100, part * 100 + 100), value=np.arange(100) + part)
        case.write(out, data, file=f"part-0000{part}-c0ffee.snappy.parquet", compression="snappy")
    case.raw(out, b"", "_SUCCESS")
    case.raw(out, b"crc\0\0\x02\0", ".part-00000-c0ffee.snappy.parquet.crc")
    case.raw(out, b"not parquet at all", ".hidden.parquet")
    case.raw(out, b"half written by a killed attempt", "_temporary/0/part-00009.parquet")
    case.raw(out, b"PAR1 nonsense", ".staging/part-00010.parquet")
    yield case

    case = Case("partitioned_directory", value_type="i64")
    for day in range(1, 4):
        data = table(key=np.arange(50) + day * 1000, value=np.arange(50) * day)
        case.write(out, data, file=f"date=2024-05-0{day}/hour=00/part-0.parquet")
    case.raw(out, b"", "_SUCCESS")
    yield case

    case = Case("glob", value_type="i64")
    for part in range(4):
        data = table(key=np.arange(50) + part * 1000, value=np.arange(50) * part)
        case.write(out, data, file=f"part-{part}.parquet")
    case.raw(out, b"a note for people", "README.txt")
    case.inputs = ["glob/part-*.parquet"]
    yield case

    case = Case("several_inputs", value_type="i64")
    for part in "ab":
        data = table(key=np.arange(50) + ord(part) * 1000, value=np.arange(50))
        case.write(out, data, file=f"{part}/part-0.parquet")
    case.inputs = ["several_inputs/a", "several_inputs/b/part-0.parquet"]
    yield case

    # A file without rows beside one with rows, as a filter leaves it.
    case = Case("one_file_without_rows", value_type="i64")
    schema = pa.schema([("key", pa.int64()), ("value", pa.int64())])
    case.write(out, schema.empty_table(), file="part-0.parquet")
    case.write(out, table(key=np.arange(50), value=np.arange(50)), file="part-1.parquet")
    yield case


def policies(out, now):
    """Nulls, duplicates, bad rows within the limit, expiry, narrowing."""
    holes = [None if i % 7 == 3 else float(i) for i in range(1000)]
    for nulls in ("skip", "zero"):
        case = Case(f"null_values_{nulls}", nulls=nulls)
        case.write(out, table(key=np.arange(1000), value=pa.array(holes, pa.float32())), row_group_size=333)
        yield case
        case = Case(f"null_strings_{nulls}", nulls=nulls, value_type="bytes", key_type="bytes")
        texts = [None if i % 5 == 0 else f"v{i}" for i in range(1000)]
        case.write(out, table(key=words(case.name, 1000), value=pa.array(texts)))
        yield case
        case = Case(f"null_lists_{nulls}", nulls=nulls, value_type="f32[2]")
        lists = [None if i % 5 == 0 else [float(i), -float(i)] for i in range(1000)]
        case.write(out, table(key=np.arange(1000), value=pa.array(lists, pa.list_(pa.float32()))))
        yield case
        case = Case(f"null_fixed_lists_{nulls}", nulls=nulls, value_type="f32[2]")
        case.write(out, table(key=np.arange(1000), value=pa.array(lists, pa.list_(pa.float32(), 2))))
        yield case
        case = Case(f"null_among_columns_{nulls}", nulls=nulls, value_type="f32[2]", value_columns=["a", "b"])
        # Some rows have no element at all: those have no value. Some lack one: those are bad.
        ones = [None if i % 14 == 3 else 1.0 for i in range(1000)]
        case.max_bad_rows = 1000
        case.write(out, table(key=np.arange(1000), a=pa.array(ones, pa.float32()), b=pa.array(holes, pa.float64())))
        yield case
        case = Case(f"null_elements_{nulls}", nulls=nulls, value_type="f32[2]", max_bad_rows=1000)
        lists = [[float(i), None if i % 9 == 4 else 2.0] for i in range(1000)]
        case.write(out, table(key=np.arange(1000), value=pa.array(lists, pa.list_(pa.float32()))))
        yield case

    for duplicates in ("last", "first"):
        case = Case(f"duplicates_{duplicates}", value_type="i64", duplicates=duplicates)
        for part in range(3):  # keys repeat within a file, across row groups and across files
            keys = (np.arange(600) * 7 + part * 13) % 500
            case.write(out, table(key=keys, value=np.arange(600) + part * 1000), file=f"part-{part}.parquet", row_group_size=100)
        yield case

    case = Case("null_keys_within_the_limit", value_type="i64", max_bad_rows=4)
    keys = [None if i in (5, 6, 70, 99) else i for i in range(100)]
    case.write(out, table(key=pa.array(keys, pa.int64()), value=np.arange(100)), row_group_size=40)
    yield case

    case = Case("lists_of_wrong_length_within_the_limit", value_type="f32[3]", max_bad_rows=2)
    lists = [[1.0] * (4 if i == 17 else 0 if i == 60 else 3) for i in range(100)]
    case.write(out, table(key=np.arange(100), value=pa.array(lists, pa.list_(pa.float32()))))
    yield case

    # Gone an hour ago, gone within the read timestamp, far in the future, never (0 and null).
    times = [now - 3600, now + 120, now + 86_400, 0, None]
    for name, kind in (("int64", pa.int64()), ("uint32", pa.uint32()), ("int32", pa.int32())):
        case = Case(f"expiry_{name}", value_type="i64", ttl=True, expiry_column="until", read_ts=now + 200)
        until = pa.array([times[i % len(times)] for i in range(1000)], kind)
        case.write(out, table(until=until, key=np.arange(1000), value=np.arange(1000)))
        case.stats["expired"] = 200
        yield case

    # An expired newest row never uncovers an older one of the same key.
    case = Case("expired_newest_row", value_type="i64", ttl=True, expiry_column="until")
    until = pa.array([now + 86_400] * 100 + [now - 10] * 50, pa.int64())
    keys = np.concatenate([np.arange(100), np.arange(50)])
    case.write(out, table(until=until, key=keys, value=np.arange(150)))
    yield case

    case = Case("half_overflow_saturates", value_type="f32", storage="f16", f16_overflow="saturate")
    values = np.linspace(-65_504, 65_504, 500, dtype=np.float32)
    case.write(out, table(key=np.arange(500), value=values))
    yield case


def good_cases(out, now):
    for group in (encodings(out), compressions(out), key_types(out), value_types(out), layouts(out), policies(out, now)):
        yield from group
