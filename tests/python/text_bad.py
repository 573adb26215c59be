"""Loads of CSV and TSV that must fail, and the words their message must contain."""

import gzip

import numpy as np
import pyarrow as pa

from case import Case
from parquet_bad import file_bytes, good_table
from text_good import with_csv_module, zstd


def csv_case(out, name, content, error, **settings):
    settings.setdefault("format", "csv")
    case = Case(name, error=error, **settings)
    case.raw(out, content.encode() if isinstance(content, str) else content)
    return case


def numbered(rows=100, change={}, header="key,value\n"):
    """Rows 0, 1, … with some of them changed."""
    return header + "".join(change.get(i, f"{i},{i / 2}\n") for i in range(rows))


def bad_rows(out):
    """Rows that cannot be used: the row, its line in the file and the column are named."""
    yield csv_case(out, "csv_null_key", numbered(change={57: ",1\n"}), ["csv_null_key.csv, row 57 (line 59), column `key`: the key is null"])
    yield csv_case(out, "csv_key_of_text", numbered(change={3: "u3,1\n"}), ["row 3 (line 5), column `key`: `u3` is not an integer"])
    yield csv_case(out, "csv_key_of_fraction", numbered(change={3: "3.0,1\n"}), ["row 3 (line 5), column `key`: `3.0` is not an integer"])
    yield csv_case(out, "csv_key_beyond", numbered(change={3: f"{2**64},1\n"}), ["row 3", f"{2**64} does not fit into u64"])
    yield csv_case(out, "csv_value_of_text", numbered(change={99: "99,one\n"}), ["row 99 (line 101), column `value`: `one` is not a number"])
    yield csv_case(out, "csv_comma_as_point", numbered(change={9: '9,"1,5"\n'}), ["row 9", "the list has 2 elements instead of 1"])
    yield csv_case(out, "csv_value_beyond", numbered(change={23: "23,1e39\n"}), ["row 23", "1e39 does not fit into f32"])
    yield csv_case(out, "csv_half_beyond", numbered(change={23: "23,1e6\n"}), ["row 23", "does not fit into f16"], storage="f16")
    yield csv_case(out, "csv_integer_beyond", numbered(change={i: f"{i},{i}\n" for i in range(9)} | {9: f"9,{2**63}\n"}, rows=10), ["row 9", f"{2**63} does not fit into i64"], value_type="i64")
    yield csv_case(out, "csv_integer_of_fraction", numbered(rows=10), ["row 0", "`0.0` is not an integer"], value_type="i64")
    yield csv_case(out, "csv_few_fields", numbered(change={41: "41\n"}), ["row 41 (line 43): the row has 1 field, the header has 2"])
    yield csv_case(out, "csv_many_fields", numbered(change={41: "41,1,2\n"}), ["row 41 (line 43): the row has 3 fields, the header has 2"])
    yield csv_case(out, "csv_stray_quote", numbered(change={8: '8,"1"2\n'}), ["row 8 (line 10)", "text follows the quote that ends a field"])
    # The lines of a file are not its rows once a row has several lines, or none.
    lines = {4: '4,"\n\n4.5"\n', 6: "\n\n6,1\n", 50: "50,x\n"}
    yield csv_case(out, "csv_lines_and_rows", numbered(change=lines), ["row 50 (line 56), column `value`: `x`"])
    yield csv_case(out, "csv_utf8", b"key,value\n1,good\n2,gr\xf6\xdfe\n", ["row 1 (line 3), column `value`: the text is not valid UTF-8"], value_type="bytes")
    yield csv_case(out, "csv_long_key", "key,value\n" + "x" * 1025 + ",1\n", ["row 0", "the key has 1025 bytes, at most 1024"], key_type="bytes")
    yield csv_case(out, "csv_long_value", 'key,value\n1,"' + "x" * ((16 << 20) + 1) + '"\n', ["row 0", "the value has 16777217 bytes"], value_type="bytes")
    yield csv_case(out, "csv_short_list", "key,value\n1,1;2;3\n2,1;2\n", ["row 1", "the list has 2 elements instead of 3"], value_type="f32[3]")
    yield csv_case(out, "csv_null_element", "key,value\n1,1;2\n2,;2\n", ["row 1", "element 0 of the vector is null"], value_type="f32[2]")
    yield csv_case(out, "csv_expiry_of_text", "key,value,until\n1,1,0\n2,2,tomorrow\n", ["row 1 (line 3), column `until`: tomorrow is not an expiry time"], ttl=True, expiry_column="until")
    yield csv_case(out, "csv_negative_expiry", "key,value,until\n1,1,-5\n", ["row 0", "-5 is not an expiry time"], ttl=True, expiry_column="until")
    beyond = {i: f"{i},x\n" for i in range(0, 100, 10)}
    yield csv_case(out, "csv_bad_rows_beyond_the_limit", numbered(change=beyond), ["bad rows", "max_bad_rows is 5", "row 0 (line 2)"], max_bad_rows=5)

    case = Case("csv_duplicates_refused", format="csv", duplicates="error", error=["key 42", "row 42 of", "part-0.csv", "row 7 of", "part-1.csv"])
    case.raw(out, numbered().encode(), "part-0.csv")
    case.raw(out, numbered(rows=20, header="\nkey,value\n", change={i: f"{1000 + i},1\n" for i in range(20)} | {7: "42,1\n"}).encode(), "part-1.csv")
    yield case


def bad_columns(out):
    yield csv_case(out, "csv_missing_column", "id,value\n1,2\n", ["csv_missing_column.csv", "no column `key`", "`id`, `value`"])
    yield csv_case(out, "csv_column_twice", "key,value,value\n1,2,3\n", ["2 columns named `value`"])
    yield csv_case(out, "csv_names_are_exact", "Key, value\n1,2\n", ["no column `key`", "`Key`, ` value`"])
    yield csv_case(out, "csv_of_tabs", "key\tvalue\n1\t2\n", ["no column `key`", "'\\t'"])
    yield csv_case(out, "csv_of_semicolons", "key;value\n1;2\n", ["no column `key`", "';'"])
    yield csv_case(out, "tsv_of_commas", "key,value\n1,2\n", ["no column `key`", "','"], format="tsv")
    yield csv_case(out, "csv_without_header", "1,2\n3,4\n", ["no column `key`", "`1`, `2`"])


def bad_files(out):
    good = numbered(1000).encode()
    yield csv_case(out, "csv_empty", b"", ["csv_empty.csv", "empty (0 bytes)", "header"])
    yield csv_case(out, "csv_empty_gzip", gzip.compress(b""), ["csv_empty_gzip.csv", "empty"])
    yield csv_case(out, "csv_that_is_parquet", file_bytes(good_table()), ["csv_that_is_parquet.csv", "not a CSV file", "a Parquet file"])
    yield csv_case(out, "csv_that_is_json", b'{"key": 1, "value": 2}\n', ["not a CSV file", "JSON"])
    yield csv_case(out, "csv_that_is_utf16", "key,value\n1,2\n".encode("utf-16"), ["not a CSV file", "UTF-16"])
    yield csv_case(out, "csv_that_is_noise", bytes(range(256)) * 9, ["not a CSV file"])
    yield csv_case(out, "csv_that_is_bzip2", b"BZh91AY&SY" + bytes(50), ["not a CSV file", "bzip2"])
    yield csv_case(out, "csv_gzip_of_parquet", gzip.compress(file_bytes(good_table())), ["not a CSV file", "a Parquet file"])
    yield csv_case(out, "csv_header_not_utf8", b"key,gr\xf6\xdfe\n1,2\n", ["csv_header_not_utf8.csv: the header is not valid UTF-8"])
    yield csv_case(out, "csv_old_mac", "key,value\r" + "1,2\r" * 9, ["csv_old_mac.csv", "the header", "\\r"])
    yield csv_case(out, "csv_open_quote", numbered(change={60: '60,"1\n'}), ["csv_open_quote.csv", "truncated", "row 60 (line 62)", "never closed"])
    yield csv_case(out, "csv_gzip_cut", gzip.compress(good)[:-9], ["csv_gzip_cut.csv", "truncated", "gzip"])
    yield csv_case(out, "csv_gzip_cut_short", gzip.compress(good)[:40], ["csv_gzip_cut_short.csv", "truncated", "gzip"])
    yield csv_case(out, "csv_zstd_cut", zstd(good)[:-9], ["csv_zstd_cut.csv", "truncated", "zstd"])
    yield csv_case(out, "csv_gzip_followed_by_text", gzip.compress(good) + b"1,2\n", ["damaged", "follow the end"])
    damaged = bytearray(gzip.compress(good))
    damaged[-6] ^= 1
    yield csv_case(out, "csv_gzip_checksum", bytes(damaged), ["csv_gzip_checksum.csv", "damaged", "gzip"])
    yield csv_case(out, "csv_gzip_bomb", gzip.compress(b"key,value\n1," + b" " * (100 << 20)), ["csv_gzip_bomb.csv", "gzip", "expands to more than 500 times its size"])
    rows = b"".join(b"%d,0\n" % i for i in range(1000)) * 20_000
    yield csv_case(out, "csv_zstd_bomb", zstd(b"key,value\n" + rows), ["csv_zstd_bomb.csv", "zstd", "expands to more than 500 times its size"])
    yield csv_case(out, "csv_long_record", 'key,value\n1,2\n3,"' + "x\n" * (33 << 20), ["row 1 (line 3)", "does not end within 67108864 bytes"])

    case = Case("csv_gzip_cut_among_good", format="csv", error=["part-1.csv.gz", "truncated"])
    case.raw(out, good, "part-0.csv")
    case.raw(out, gzip.compress(with_csv_module(pa.table({"key": np.arange(1000), "value": np.ones(1000)}), ",").encode())[:500], "part-1.csv.gz")
    yield case

    # The default is Parquet: whoever forgets to say otherwise is told what the file looks like.
    yield csv_case(out, "parquet_that_is_csv", good, ["not a Parquet file", "text", "`csv`"], format="parquet")


def bad_text_cases(out):
    for group in (bad_rows(out), bad_columns(out), bad_files(out)):
        yield from group
