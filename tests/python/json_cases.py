"""Loads of JSON lines: those that must succeed, and those that must fail with words that name the place."""

import gzip
import json
import math

import numpy as np
import pyarrow as pa

from case import Case
from parquet_bad import file_bytes, good_table
from parquet_good import rng, u64_keys, words
from text_good import awkward, text_floats, zstd

ROWS = 2000


def lines(rows, end="\n", **options):
    return "".join(json.dumps(row, **options) + end for row in rows)


def number(value):
    """JSON has no NaN and no infinity: as text, as Spark writes them."""
    return value if math.isfinite(value) else {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}[str(value)]


def numbered(count=100, change={}):
    """Objects 0, 1, … a line each, some lines changed."""
    return "".join(change.get(i, json.dumps({"key": i, "value": i / 2}) + "\n") for i in range(count))


def good_json_cases(out, now):
    keys, values = u64_keys("json", ROWS), text_floats("json", ROWS)
    data = pa.table({"key": keys, "value": values})
    rows = [{"key": k, "value": number(v)} for k, v in zip(keys.tolist(), values.tolist())]
    plain = lines(rows)
    variants = {
        "plain": plain,
        "without_last_line_end": plain[:-1],
        "crlf": lines(rows, "\r\n"),
        "compact": lines(rows, separators=(",", ":")),
        "blanks": lines(rows, " \t\n", separators=(" , ", " : ")),
        "byte_order_mark": "\ufeff" + plain,
        "blank_lines": "\n \n" + plain.replace("\n", "\n\n", 50) + "\r\n\n",
        "members_in_any_order": lines({name: row[name] for name in (list(row) if i % 2 else reversed(row))} for i, row in enumerate(rows)),
        "keys_as_strings": lines({**row, "key": str(row["key"])} for row in rows),
        "member_twice": plain.replace('{"key": ', '{"key": 7, "key": '),
        "other_members": lines(
            {"z": [{"key": 1, "value": [2]}, None], **row, "text": 'a "key": 3,\n\\', "deep": {"key": {"key": i}}, "t": True}
            for i, row in enumerate(rows)
        ),
    }
    for name, content in variants.items():
        case = Case(f"jsonl_{name}", format="jsonl")
        case.text(out, data, content)
        yield case

    for name, options in {"escaped": {}, "utf8": dict(ensure_ascii=False)}.items():
        case = Case(f"jsonl_strings_{name}", format="jsonl", key_type="bytes", value_type="bytes")
        strings = pa.table({"key": words(case.name, ROWS), "value": awkward(ROWS)})
        case.text(out, strings, lines(strings.to_pylist(), **options))
        yield case

    case = Case("jsonl_slashes_and_controls", format="jsonl", key_type="bytes", value_type="bytes")
    case.text(out, pa.table({"key": ["a/b"], "value": ["\x00\x1f\x7f/\b\f\u2028"]}), '{"key": "a\\/b", "value": "\\u0000\\u001f\\u007f\\/\\b\\f\\u2028"}')
    yield case

    for name, kind in {"signed": np.int64, "unsigned": np.uint64}.items():
        info = np.iinfo(kind)
        extremes = np.array([info.min, info.max, 0, 1, 2**53 + 1, 2**62 + 1], kind)
        case = Case(f"jsonl_{name}_keys", format="jsonl", value_type="i64")
        truth = pa.table({"key": extremes, "value": np.array([info.min >> 1, info.max >> 1, 0, 1, 2, 3], np.int64)})
        case.text(out, truth, lines(truth.to_pylist()))
        yield case

    for dimension in (1, 3, 64):
        flat = text_floats(f"json lists {dimension}", 200 * dimension)
        lists = pa.FixedSizeListArray.from_arrays(pa.array(flat), dimension)
        case = Case(f"jsonl_lists_of_{dimension}", format="jsonl", value_type=f"f32[{dimension}]")
        truth = pa.table({"key": np.arange(200), "value": lists})
        rows = [{"key": i, "value": [number(v) for v in row]} for i, row in enumerate(flat.reshape(200, dimension).tolist())]
        case.text(out, truth, lines(rows))
        yield case

    case = Case("jsonl_columns", format="jsonl", value_type="f16[3]", value_columns=["c", "a", "b"])
    columns = {name: rng(name).uniform(-100, 100, 300).astype(np.float32) for name in "abc"}
    truth = pa.table({"key": np.arange(300), **columns})
    case.text(out, truth, lines(truth.to_pylist()))
    yield case

    for nulls in ("skip", "zero"):
        # A member that is not there is null, as writers that leave nulls out have it.
        case = Case(f"jsonl_nulls_{nulls}", format="jsonl", nulls=nulls)
        holes = [None if i % 7 in (2, 3) else i / 8 for i in range(300)]
        rows = [{"key": i} if i % 7 == 2 else {"key": i, "value": v} for i, v in enumerate(holes)]
        case.text(out, pa.table({"key": np.arange(300), "value": pa.array(holes, pa.float32())}), lines(rows))
        yield case
        case = Case(f"jsonl_null_strings_{nulls}", format="jsonl", nulls=nulls, value_type="bytes")
        texts = [None if i % 3 == 0 else "" if i % 3 == 1 else f"v{i}" for i in range(300)]
        truth = pa.table({"key": np.arange(300), "value": pa.array(texts)})
        case.text(out, truth, lines(truth.to_pylist()))
        yield case
        case = Case(f"jsonl_null_elements_{nulls}", format="jsonl", nulls=nulls, value_type="f32[2]", max_bad_rows=100)
        lists = [None if i % 5 == 0 else [float(i), None] if i % 5 == 1 else [float(i), -1.0] for i in range(300)]
        truth = pa.table({"key": np.arange(300), "value": pa.array(lists, pa.list_(pa.float32()))})
        case.text(out, truth, lines(truth.to_pylist()))
        yield case

    times = [now - 3600, now + 120, now + 86_400, 0, None]
    case = Case("jsonl_expiry", format="jsonl", value_type="i64", ttl=True, expiry_column="until", read_ts=now + 200)
    truth = pa.table({"until": pa.array([times[i % 5] for i in range(1000)], pa.int64()), "key": np.arange(1000), "value": np.arange(1000)})
    case.text(out, truth, lines(truth.to_pylist()))
    case.stats["expired"] = 200
    yield case

    case = Case("jsonl_directory", format="jsonl", value_type="i64", duplicates="last")
    for part, pack in enumerate([bytes, gzip.compress, zstd, bytes]):
        truth = pa.table({"key": np.arange(30_000) + part * 5000, "value": np.arange(30_000) + part})
        case.text(out, truth, pack(lines(truth.to_pylist()).encode()), f"part-{part:05d}.json")
    # What a job writes for a partition without rows.
    case.raw(out, b"", "part-00009.json")
    case.raw(out, b"", "_SUCCESS")
    yield case


def json_case(out, name, content, error, **settings):
    settings.setdefault("format", "jsonl")
    case = Case(name, error=error, **settings)
    case.raw(out, content.encode() if isinstance(content, str) else content)
    return case


def bad_json_cases(out, now):
    bad = lambda name, line, error, **settings: json_case(out, name, numbered(change={57: line + "\n"}), ["row 57 (line 58)", *error], **settings)
    yield bad("jsonl_not_json", '{"key": 57, "value": }', ["the line is not a JSON object", "column 22"])
    yield bad("jsonl_nan", '{"key": 57, "value": NaN}', ["the line is not a JSON object"])
    yield bad("jsonl_cut_line", '{"key": 57, "val', ["the line is not a JSON object", "EOF"])
    yield bad("jsonl_two_objects", '{"key": 57, "value": 1} {"key": 58}', ["trailing characters"])
    yield bad("jsonl_no_object", "[57, 1.5]", ["expected an object"])
    yield bad("jsonl_no_key", '{"Key": 57, "value": 1}', ["column `key`: the object has no member of this name"])
    yield bad("jsonl_null_key", '{"key": null, "value": 1}', ["column `key`: the key is null"])
    yield bad("jsonl_key_of_fraction", '{"key": 57.0, "value": 1}', ["column `key`: `57.0` is not an integer"])
    yield bad("jsonl_key_of_exponent", '{"key": 57e0, "value": 1}', ["column `key`: `57e0` is not an integer"])
    yield bad("jsonl_key_of_list", '{"key": [57], "value": 1}', ["column `key`: it is an array, expected is an integer"])
    yield bad("jsonl_key_beyond", '{"key": 18446744073709551616, "value": 1}', ["does not fit into u64"])
    yield bad("jsonl_value_of_text", '{"key": 57, "value": "one"}', ["column `value`: `one` is not a number"])
    yield bad("jsonl_value_of_flag", '{"key": 57, "value": true}', ["column `value`: it is true or false, expected is a number"])
    yield bad("jsonl_value_of_object", '{"key": 57, "value": {"x": 1}}', ["column `value`: it is an object, expected is a number"])
    yield bad("jsonl_value_beyond", '{"key": 57, "value": 1e39}', ["column `value`: 1e39 does not fit into f32"])
    yield bad("jsonl_value_of_list", '{"key": 57, "value": [1, 2]}', ["the list has 2 elements instead of 1"])
    yield json_case(out, "jsonl_text_of_number", '{"key": 1, "value": "a"}\n{"key": 2, "value": 3}\n', ["row 1 (line 2), column `value`: it is a number, expected is text"], value_type="bytes")
    yield json_case(out, "jsonl_utf8", b'{"key": 1, "value": "gr\xf6\xdfe"}\n', ["row 0 (line 1)"], value_type="bytes")
    yield json_case(out, "jsonl_short_list", '{"key": 1, "value": [1, 2, 3]}\n{"key": 2, "value": [1, 2]}\n', ["row 1", "2 elements instead of 3"], value_type="f32[3]")
    yield json_case(out, "jsonl_nested_list", '{"key": 1, "value": [[1, 2]]}\n', ["row 0", "is not a number"], value_type="f32[2]")
    yield json_case(out, "jsonl_expiry_of_text", '{"key": 1, "value": 1, "until": "soon"}\n', ["column `until`: soon is not an expiry time"], ttl=True, expiry_column="until")
    yield json_case(out, "jsonl_lines_and_rows", "\n\n" + numbered(change={7: '\n{"key": 7}\n\n', 9: "{\n"}), ["row 9 (line 14)"])

    # A name that no row has is mistyped, even where each row could do without.
    yield json_case(out, "jsonl_missing_value_column", numbered(), ["no column `score`", "`key`, `value` in the first row"], value_columns=["score"])
    yield json_case(out, "jsonl_missing_column_of_many", lines({"key": i, "a": 1, "b": 2} for i in range(100)), ["no column `c`"], nulls="zero", value_type="f32[3]", value_columns=["a", "b", "c"])
    yield json_case(out, "jsonl_pretty", json.dumps({"key": 1, "value": 2}, indent=2), ["row 0 (line 1)", "the line is not a JSON object"])
    yield json_case(out, "jsonl_array", json.dumps([{"key": 1, "value": 2}]), ["not a JSON lines file", "a JSON array", "one JSON object a line"])
    yield json_case(out, "jsonl_that_is_csv", "key,value\n1,2\n", ["not a JSON lines file", "text of another kind"])
    yield json_case(out, "jsonl_that_is_parquet", file_bytes(good_table()), ["not a JSON lines file", "a Parquet file"])
    yield json_case(out, "jsonl_gzip_cut", gzip.compress(numbered(1000).encode())[:-9], ["truncated", "gzip"])
    yield json_case(out, "jsonl_long_line", numbered(5) + '{"key": 5, "value": "' + "x" * (65 << 20) + '"}\n', ["row 5 (line 6)", "does not end within 67108864 bytes"])
    yield json_case(out, "csv_that_is_jsonl", numbered(), ["not a CSV file", "JSON", "`jsonl`"], format="csv")
    yield json_case(out, "parquet_that_is_jsonl", numbered(), ["not a Parquet file", "JSON", "`jsonl`"], format="parquet")
