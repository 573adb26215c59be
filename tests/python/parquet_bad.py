"""Loads that must fail, and the words their message must contain: the file, the column, the row."""

import decimal
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from case import Case


def good_table(count=100):
    return pa.table({"key": np.arange(count), "value": np.arange(count, dtype=np.float32)})


def file_bytes(table):
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return sink.getvalue().to_pybytes()


def bad_rows(out):
    """Rows that cannot be used, one more than tolerated."""
    keys = [None if i == 57 else i for i in range(100)]
    case = Case("null_key", error=["null_key.parquet", "key", "row 57"])
    case.write(out, pa.table({"key": pa.array(keys, pa.int64()), "value": np.zeros(100, np.float32)}), row_group_size=20)
    yield case

    keys = [None if i % 10 == 0 else i for i in range(100)]
    case = Case("null_keys_beyond_the_limit", max_bad_rows=5, error=["null_keys_beyond_the_limit.parquet", "key", "bad row"])
    case.write(out, pa.table({"key": pa.array(keys, pa.int64()), "value": np.zeros(100, np.float32)}))
    yield case

    lists = [[1.0] * (2 if i == 33 else 3) for i in range(100)]
    case = Case("list_of_wrong_length", value_type="f32[3]", error=["list_of_wrong_length.parquet", "value", "row 33"])
    case.write(out, pa.table({"key": np.arange(100), "value": pa.array(lists, pa.list_(pa.float32()))}))
    yield case

    case = Case("fixed_list_of_other_length", value_type="f32[3]", error=["row 0", "value", "2 elements instead of 3"])
    case.write(out, pa.table({"key": np.arange(9), "value": pa.array([[1.0, 2.0]] * 9, pa.list_(pa.float32(), 2))}))
    yield case

    values = np.ones(100, np.float32)
    values[41] = 1e6
    case = Case("half_overflow_rejected", storage="f16", error=["half_overflow_rejected.parquet", "value", "row 41"])
    case.write(out, pa.table({"key": np.arange(100), "value": values}))
    yield case

    values = np.ones(100)
    values[23] = 1e39
    case = Case("double_beyond_float", error=["double_beyond_float.parquet", "value", "row 23", "f32"])
    case.write(out, pa.table({"key": np.arange(100), "value": values}))
    yield case

    values = np.ones(100, np.uint64)
    values[11] = 1 << 63
    case = Case("unsigned_beyond_i64", value_type="i64", error=["unsigned_beyond_i64.parquet", "value", "row 11", "i64"])
    case.write(out, pa.table({"key": np.arange(100), "value": values}))
    yield case

    lists = [[1.0, None if i == 8 else 2.0] for i in range(10)]
    case = Case("null_element", value_type="f32[2]", error=["null_element.parquet", "value", "row 8", "null"])
    case.write(out, pa.table({"key": np.arange(10), "value": pa.array(lists, pa.list_(pa.float32()))}))
    yield case

    case = Case("negative_expiry", ttl=True, expiry_column="until", error=["negative_expiry.parquet", "until", "row 3", "-5"])
    until = [-5 if i == 3 else 0 for i in range(10)]
    case.write(out, pa.table({"key": np.arange(10), "value": np.ones(10), "until": until}))
    yield case

    case = Case("duplicates_refused", duplicates="error", error=["duplicate"])
    case.write(out, pa.table({"key": np.arange(100) % 99, "value": np.ones(100, np.float32)}))
    yield case

    case = Case("key_too_long", key_type="bytes", error=["key_too_long.parquet", "key", "row 7"])
    keys = ["x" * 100_000 if i == 7 else f"k{i}" for i in range(20)]
    case.write(out, pa.table({"key": keys, "value": np.ones(20, np.float32)}))
    yield case


def bad_columns(out):
    """Columns that are missing, or of a type that cannot be meant."""
    missing = [
        ("missing_key_column", dict(key_column="user_id"), "user_id"),
        ("missing_value_column", dict(value_columns=["embedding"]), "embedding"),
        ("missing_expiry_column", dict(ttl=True, expiry_column="until"), "until"),
    ]
    for name, options, column in missing:
        # The message also lists the columns there are.
        case = Case(name, **options, error=[f"{name}.parquet", column, "value"])
        case.write(out, good_table())
        yield case

    wrong = [
        ("string_key_in_u64_table", dict(), dict(key=[str(i) for i in range(50)]), "key"),
        ("float_key", dict(), dict(key=np.arange(50) * 1.0), "key"),
        ("boolean_key", dict(), dict(key=[i % 2 == 0 for i in range(50)]), "key"),
        ("date_key", dict(), dict(key=pa.array(np.arange(50), pa.int32()).cast(pa.date32())), "key"),
        ("timestamp_expiry", dict(ttl=True, expiry_column="until"), dict(until=pa.array(np.arange(50), pa.timestamp("ms"))), "until"),
        ("decimal_value", dict(), dict(value=pa.array([decimal.Decimal(i) for i in range(50)], pa.decimal128(9, 2))), "value"),
        ("integer_key_in_bytes_table", dict(key_type="bytes"), dict(key=np.arange(50)), "key"),
        ("string_value_in_float_table", dict(), dict(value=["1.0"] * 50), "value"),
        ("list_value_in_integer_table", dict(value_type="i64"), dict(value=[[1]] * 50), "value"),
        ("float_value_in_integer_table", dict(value_type="i64"), dict(value=np.ones(50)), "value"),
        ("float_value_in_bytes_table", dict(value_type="bytes"), dict(value=np.ones(50)), "value"),
        ("struct_value", dict(), dict(value=[{"a": 1.0}] * 50), "value"),
        ("list_of_strings", dict(value_type="f32[2]"), dict(value=[["a", "b"]] * 50), "value"),
        ("string_expiry", dict(ttl=True, expiry_column="until"), dict(until=["tomorrow"] * 50), "until"),
    ]
    for name, options, columns, column in wrong:
        data = {"key": np.arange(50), "value": np.ones(50, np.float32)} | columns
        # The message also has the type that was found.
        kind = pa.table(data).column(column).type
        found = {pa.float64(): "double", pa.int64(): "int64", pa.bool_(): "bool"}.get(kind, str(kind).split("<")[0].split("[")[0])
        case = Case(name, **options, error=[f"{name}.parquet", column, found])
        case.write(out, pa.table(data))
        yield case

    # The second file of a directory differs from the first: the message names the second.
    case = Case("second_file_differs", error=["part-1.parquet", "key"])
    case.write(out, good_table(), file="part-0.parquet")
    case.write(out, pa.table({"key": ["a"], "value": np.ones(1, np.float32)}), file="part-1.parquet")
    yield case

    case = Case("two_columns_for_three_dimensions", value_type="f32[3]", value_columns=["value", "value2"], error=["f32[3]", "not 2"])
    case.write(out, pa.table({"key": np.arange(9), "value": np.ones(9, np.float32), "value2": np.ones(9, np.float32)}))
    yield case


def bad_files(out):
    """Files that are not what their name says."""
    whole = file_bytes(good_table(5000))

    case = Case("empty_file", error=["empty_file.parquet", "empty"])
    case.raw(out, b"")
    yield case

    case = Case("truncated_file", error=["truncated_file.parquet", "footer"])
    case.raw(out, whole[: len(whole) // 2])
    yield case

    # The end is there, so the footer reads well; pages in the middle are not.
    case = Case("hole_in_the_middle", error=["hole_in_the_middle.parquet"])
    case.raw(out, whole[:200] + bytes(len(whole) - 1400) + whole[-1200:])
    yield case

    case = Case("footer_length_beyond_file", error=["footer_length_beyond_file.parquet"])
    case.raw(out, whole[:-8] + (0x7FFF_FFFF).to_bytes(4, "little") + b"PAR1")
    yield case

    case = Case("text_named_parquet", error=["text_named_parquet.parquet", "text"])
    case.raw(out, b"key,value\n1,2.0\n" * 100)
    yield case

    case = Case("truncated_among_good", error=["part-1.parquet"])
    case.write(out, good_table(), file="part-0.parquet")
    case.raw(out, whole[:-100], "part-1.parquet")
    yield case

    case = Case("empty_among_good", error=["part-1.parquet", "empty"])
    case.write(out, good_table(), file="part-0.parquet")
    case.raw(out, b"", "part-1.parquet")
    yield case

    case = Case("no_such_path", error=["nowhere"])
    case.inputs = ["nowhere/at/all.parquet"]
    yield case

    case = Case("directory_without_input", error=["directory_without_input"])
    case.raw(out, b"", "_SUCCESS")
    case.raw(out, b"hidden", ".part-0.parquet")
    yield case

    case = Case("glob_without_match", error=["nothing-*.parquet"])
    case.raw(out, whole, "part-0.parquet")
    case.inputs = ["glob_without_match/nothing-*.parquet"]
    yield case

    case = Case("path_that_climbs_out", error=[".."])
    case.raw(out, whole, "part-0.parquet")
    case.inputs = ["path_that_climbs_out/../../etc/part-0.parquet"]
    yield case


def bad_cases(out):
    for group in (bad_rows(out), bad_columns(out), bad_files(out)):
        yield from group
    assert not os.path.exists(os.path.join(out, "nowhere"))
