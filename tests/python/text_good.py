"""Loads of CSV and TSV that must succeed: as the programs that people use write them, and as people do."""

import csv
import gzip
import io

import numpy as np
import pyarrow as pa
import pyarrow.csv

from case import Case
from parquet_good import floats, rng, u64_keys, words

ROWS = 2000
DELIMITERS = {"csv": ",", "tsv": "\t"}


def zstd(content):
    """One frame, as the zstd tool writes it."""
    return pa.Codec("zstd").compress(content, asbytes=True)


def rows_of(table):
    return zip(*[column.to_pylist() for column in table.columns])


def with_csv_module(table, delimiter, **options):
    """As Python's csv module and pandas write: null and the empty string look alike."""
    out = io.StringIO()
    writer = csv.writer(out, delimiter=delimiter, **options)
    writer.writerow(table.column_names)
    writer.writerows(rows_of(table))
    return out.getvalue()


def with_pyarrow(table, delimiter, quoting="needed"):
    sink = io.BytesIO()
    options = pa.csv.WriteOptions(delimiter=delimiter, quoting_style=quoting)
    pa.csv.write_csv(table, sink, options)
    return sink.getvalue()


def plain_nan(values):
    """Text has one NaN only."""
    values[np.isnan(values)] = np.float32(np.nan)
    return values


def text_floats(name, count=ROWS):
    return plain_nan(floats(name, count))


def awkward(count):
    """Text with everything that has to be quoted, and some that looks as if it had."""
    parts = ["plain", 'a "quoted" word', "comma, tab\t, both", "line\nbreak", "crlf\r\nbreak", '"', '""', "é\u2028漢字🙂", " blanks ", "\\N.", "'"]
    return [f"{parts[i % len(parts)]}{i}{parts[(i * 7) % len(parts)]}" for i in range(count)]


def writers(out):
    """Every writer, delimiter and way of quoting gives the same values."""
    for form, delimiter in DELIMITERS.items():
        keys, values = u64_keys(f"{form}/numbers", ROWS), text_floats(f"{form}/numbers")
        data = pa.table({"key": keys, "value": values})
        ways = {
            "csv_module": lambda data, d=delimiter: with_csv_module(data, d),
            "csv_module_unix": lambda data, d=delimiter: with_csv_module(data, d, lineterminator="\n"),
            "csv_module_quote_all": lambda data, d=delimiter: with_csv_module(data, d, quoting=csv.QUOTE_ALL),
            "csv_module_quote_strings": lambda data, d=delimiter: with_csv_module(data, d, quoting=csv.QUOTE_NONNUMERIC),
            "pyarrow": lambda data, d=delimiter: with_pyarrow(data, d),
            "pyarrow_all_quoted": lambda data, d=delimiter: with_pyarrow(data, d, "all_valid"),
        }
        for name, write in ways.items():
            case = Case(f"{form}_numbers_{name}", format=form)
            case.text(out, data, write(data))
            yield case
            case = Case(f"{form}_strings_{name}", format=form, key_type="bytes", value_type="bytes")
            strings = pa.table({"key": words(case.name, ROWS), "value": awkward(ROWS)})
            case.text(out, strings, write(strings))
            yield case


def shapes(out):
    """Line ends, byte order marks, blank lines, columns in any order and number, names that need care."""
    keys = np.arange(500, dtype=np.int64)
    values = text_floats("shapes", 500)
    data = pa.table({"key": keys, "value": values})
    body = "".join(f"{k},{v!r}\n" for k, v in zip(keys.tolist(), values.tolist()))

    plain = "key,value\n" + body
    variants = {
        "plain": plain,
        "without_last_line_end": plain[:-1],
        "crlf": plain.replace("\n", "\r\n"),
        "crlf_without_last": plain.replace("\n", "\r\n")[:-2],
        "byte_order_mark": "\ufeff" + plain,
        "byte_order_mark_and_quotes": '\ufeff"key","value"\r\n' + body,
        "blank_lines": "\n\r\n" + plain.replace("\n", "\n\n", 40) + "\n\n\r\n",
        "blanks_around_numbers": "key,value\n" + body.replace(",", " ,  "),
        "quoted_header": '"key","value"\n' + body,
        "plus_signs": "key,value\n" + "".join(f"+{k},{v!r}\n" for k, v in zip(keys.tolist(), values.tolist())),
    }
    for name, content in variants.items():
        case = Case(f"csv_{name}", format="csv")
        case.text(out, data, content)
        yield case

    case = Case("csv_header_only", format="csv")
    case.text(out, data.slice(0, 0), "key,value\n")
    yield case

    case = Case("csv_extra_columns", format="csv", value_type="f32[2]", value_columns=["y", "x"])
    x, y = text_floats("extra x", 500), text_floats("extra y", 500)
    content = "".join(
        f'"a, ""b""\nc",{v!r},,{k},\\N,"",{w!r},é\n' for k, v, w in zip(keys.tolist(), x.tolist(), y.tolist())
    )
    case.text(out, pa.table({"key": keys, "x": x, "y": y}), "text,x,empty,key,null,none,y,last\n" + content)
    yield case

    names = ["user id", "特征 1", 'with "quotes"', "with\nline"]
    case = Case("csv_names_with_care", format="csv", key_column=names[0], value_columns=names[1:], value_type="f32[3]")
    columns = {name: text_floats(name, 50) for name in names[1:]}
    care = pa.table({names[0]: np.arange(50), **columns})
    case.text(out, care, with_csv_module(care, ","))
    yield case

    case = Case("csv_key_is_the_value", format="csv", key_type="bytes", value_type="bytes", value_columns=["key"])
    text = pa.table({"key": words(case.name, 100)})
    case.text(out, text, with_csv_module(text, ","))
    yield case

    case = Case("csv_wide", format="csv", value_type="f32[300]", value_columns=[f"c{i}" for i in range(300)])
    columns = {f"c{i}": text_floats(f"wide {i}", 20) for i in range(300)}
    wide = pa.table({"before": ["x"] * 20, "key": np.arange(20), **columns})
    case.text(out, wide, with_csv_module(wide, ","))
    yield case


def types(out):
    """Every key and value type, at the ends of their ranges."""
    extremes = [0, 1, -1, 2**63 - 1, -(2**63), 2**31, -(2**31), 12345678901234567]
    case = Case("csv_signed_keys", format="csv", value_type="i64")
    case.text(
        out,
        pa.table({"key": np.array(extremes, np.int64), "value": np.array(extremes[::-1], np.int64)}),
        "key,value\n" + "".join(f"{k},{v}\n" for k, v in zip(extremes, extremes[::-1])),
    )
    yield case
    case = Case("csv_unsigned_keys", format="csv", value_type="i64")
    unsigned = [2**64 - 1, 2**63, 2**63 + 1, 10**19]
    content = "key,value\n" + "".join(f"{k:030d},{i}\n" for i, k in enumerate(unsigned))
    case.text(out, pa.table({"key": np.array(unsigned, np.uint64), "value": np.arange(4)}), content)
    yield case

    spelled = {
        "1": 1.0, "-0": -0.0, "1e-05": 1e-05, "1E+5": 1e5, ".5": 0.5, "5.": 5.0, "NaN": np.nan, "nan": np.nan,
        "inf": np.inf, "-inf": -np.inf, "Infinity": np.inf, "-Infinity": -np.inf, "1e-60": 0.0,
        "0.1000000000000000055511151231257827": 0.1, "3.4028235677973366e38": 3.4028235e38, "16777217": 16777217.0,
    }  # fmt: skip
    case = Case("csv_spellings_of_floats", format="csv")
    truth = pa.table({"key": np.arange(len(spelled)), "value": np.array(list(spelled.values()), np.float32)})
    case.text(out, truth, "key,value\n" + "".join(f"{i},{text}\n" for i, text in enumerate(spelled)))
    yield case

    case = Case("csv_half", format="csv", value_type="f16[2]", value_columns=["a", "b"])
    a, b = (rng(name).uniform(-60000, 60000, 300).astype(np.float32) for name in "ab")
    data = pa.table({"key": np.arange(300), "a": a, "b": b})
    case.text(out, data, with_csv_module(data, ","))
    yield case

    case = Case("csv_stored_as_half", format="csv", storage="f16", f16_overflow="saturate")
    data = pa.table({"key": np.arange(300), "value": a})
    case.text(out, data, with_csv_module(data, ","))
    yield case

    keys = np.arange(200)
    for dimension in (1, 3, 64):
        flat = text_floats(f"lists {dimension}", 200 * dimension)
        lists = pa.FixedSizeListArray.from_arrays(pa.array(flat), dimension)
        truth = pa.table({"key": keys, "value": lists})
        rows = [[repr(v) for v in row.tolist()] for row in flat.reshape(200, dimension)]
        spellings = {
            "json": lambda row: '"[' + ", ".join(row) + ']"',
            "json_with_strings": lambda row: '"[' + ",".join(f'""{v}""' for v in row) + ']"',
            "semicolons": ";".join,
            "bars": " | ".join,
            "blanks": " ".join,
            "numpy": lambda row: '"[' + "\n ".join("  ".join(row[i : i + 4]) for i in range(0, len(row), 4)) + ']"',
            "postgres": lambda row: '"{' + ",".join(row) + '}"',
        }
        for name, spell in spellings.items():
            case = Case(f"csv_lists_of_{dimension}_{name}", format="csv", value_type=f"f32[{dimension}]")
            case.text(out, truth, "key,value\n" + "".join(f"{k},{spell(row)}\n" for k, row in zip(keys.tolist(), rows)))
            yield case


def compressed(out):
    """gzip and zstd, in one piece and in several, whatever the name says; more text than one block holds."""
    count = 60_000
    keys, values = u64_keys("compressed", count), text_floats("compressed", count)
    data = pa.table({"key": keys, "note": awkward(count), "value": values})
    content = with_csv_module(data, ",").encode()
    assert len(content) > 3 << 20
    third = len(content) // 3
    parts = [content[:third], content[third : 2 * third], content[2 * third :]]
    for name, packed in {
        "none": content,
        "gzip": gzip.compress(content),
        "gzip_members": b"".join(map(gzip.compress, parts)),
        "gzip_padded": gzip.compress(content) + bytes(1000),
        "zstd": zstd(content),
        "zstd_frames": b"".join(map(zstd, parts)),
    }.items():
        case = Case(f"csv_compressed_{name}", format="csv")
        case.text(out, data, packed)
        yield case

    case = Case("csv_directory", format="csv", duplicates="last")
    for part, pack in enumerate([bytes, gzip.compress, zstd, gzip.compress, bytes]):
        # Keys repeat in every file: the later file wins, however it is compressed.
        data = pa.table({"key": np.arange(3000) + part * 1000, "value": text_floats(f"part {part}", 3000)})
        name = f"part-{part:05d}.csv" + (".gz" if pack is gzip.compress else ".zst" if pack is zstd else "")
        case.text(out, data, pack(with_csv_module(data, ",").encode()), name)
    case.raw(out, b"", "_SUCCESS")
    case.raw(out, b"half written", "_temporary/0/part-00009.csv")
    yield case

    case = Case("tsv_many_small_files", format="tsv", value_type="i64", duplicates="first")
    for part in range(40):
        data = pa.table({"key": (np.arange(50) * 7 + part * 13) % 300, "value": np.arange(50) + part * 100})
        content = with_csv_module(data, "\t").encode()
        case.text(out, data, gzip.compress(content) if part % 3 == 0 else content, f"part-{part:03d}.tsv")
    yield case


def policies(out, now):
    """Nulls, duplicates, bad rows within the limit, expiry."""
    keys = np.arange(300)
    for nulls in ("skip", "zero"):
        for spelling, null in {"empty": "", "backslash_n": "\\N", "quoted_empty": '""'}.items():
            case = Case(f"csv_null_numbers_{spelling}_{nulls}", format="csv", nulls=nulls)
            holes = [None if i % 7 == 3 else i / 8 for i in range(300)]
            content = "key,value\n" + "".join(f"{i},{null if v is None else v}\n" for i, v in enumerate(holes))
            case.text(out, pa.table({"key": keys, "value": pa.array(holes, pa.float32())}), content)
            yield case
        case = Case(f"csv_null_and_empty_strings_{nulls}", format="csv", nulls=nulls, value_type="bytes")
        texts = [None if i % 3 == 0 else "" if i % 3 == 1 else f"v{i}" for i in range(300)]
        spell = lambda text: "" if text is None else f'"{text}"'
        content = "key,value\n" + "".join(f"{i},{spell(text)}\n" for i, text in enumerate(texts))
        case.text(out, pa.table({"key": keys, "value": pa.array(texts)}), content)
        yield case
        case = Case(f"csv_null_lists_{nulls}", format="csv", nulls=nulls, value_type="f32[2]", max_bad_rows=100)
        lists = [None if i % 5 == 0 else [float(i), None] if i % 5 == 1 else [float(i), -1.0] for i in range(300)]
        spell = lambda row: "" if row is None else ";".join("" if v is None else str(v) for v in row)
        content = "key,value\n" + "".join(f"{i},{spell(row)}\n" for i, row in enumerate(lists))
        case.text(out, pa.table({"key": keys, "value": pa.array(lists, pa.list_(pa.float32()))}), content)
        yield case
        case = Case(f"csv_null_among_columns_{nulls}", format="csv", nulls=nulls, value_type="f32[2]", value_columns=["a", "b"], max_bad_rows=100)
        pairs = [(None, None) if i % 5 == 0 else (i / 2, None) if i % 5 == 1 else (i / 2, -1.0) for i in range(300)]
        content = "a,key,b\n" + "".join(f"{'' if a is None else a},{i},{'' if b is None else b}\n" for i, (a, b) in enumerate(pairs))
        columns = {name: pa.array([pair[at] for pair in pairs], pa.float32()) for at, name in enumerate("ab")}
        case.text(out, pa.table({"key": keys, **columns}), content)
        yield case

    for duplicates in ("last", "first"):
        case = Case(f"csv_duplicates_{duplicates}", format="csv", value_type="i64", duplicates=duplicates)
        for part in range(3):
            data = pa.table({"key": (np.arange(60_000) * 7 + part * 13) % 5000, "value": np.arange(60_000) + part * 100_000})
            case.text(out, data, with_csv_module(data, ","), file=f"part-{part}.csv")
        yield case

    case = Case("csv_bad_rows_within_the_limit", format="csv", max_bad_rows=4)
    content, truth = "key,value\n", []
    for i in range(100):
        bad = {5: ",1\n", 17: "x,1\n", 60: f"{i},1,2\n", 99: f"{i},one\n"}
        content += bad.get(i, f"{i},{i / 4}\n")
        truth.append(None if i in bad else i)
    values = pa.array([i / 4 for i in range(100)], pa.float32())
    case.text(out, pa.table({"key": pa.array(truth, pa.int64()), "value": values}), content)
    yield case

    # Gone an hour ago, gone within the read timestamp, far in the future, never (0 and null).
    times = [now - 3600, now + 120, now + 86_400, 0, None]
    case = Case("csv_expiry", format="csv", value_type="i64", ttl=True, expiry_column="until", read_ts=now + 200)
    until = pa.array([times[i % len(times)] for i in range(1000)], pa.int64())
    data = pa.table({"until": until, "key": np.arange(1000), "value": np.arange(1000)})
    case.text(out, data, with_csv_module(data, ","))
    case.stats["expired"] = 200
    yield case


def good_text_cases(out, now):
    for group in (writers(out), shapes(out), types(out), compressed(out), policies(out, now)):
        yield from group
