"""One case: input files in one shape, the table and the load that take them, and what must come of it."""

import json
import os
from dataclasses import dataclass, field

import pyarrow.parquet as pq

from expected import encode, expected_content


@dataclass
class Case:
    """A load to try. `files` are written in the order of their names, which is the order they are frozen in."""

    name: str
    format: str = "parquet"
    key_type: str = "u64"
    value_type: str = "f32"
    storage: str = "native"
    f16_overflow: str = "reject"
    ttl: bool = False
    key_column: str = "key"
    value_columns: list = field(default_factory=lambda: ["value"])
    expiry_column: str = None
    nulls: str = "skip"
    duplicates: str = "last"
    max_bad_rows: int = 0
    # Read timestamp (Unix seconds) for the comparison; None: the present.
    read_ts: int = None
    # Paths below the output directory, as submitted; None: the case's directory, or its one file.
    inputs: list = None
    # Counts that the finished task must show, beside those computed.
    stats: dict = field(default_factory=dict)
    # Computed counts that are not compared (the case says why).
    unchecked: list = field(default_factory=list)
    # Words that the failed task's (or refused submit's) message must all contain; None: the load succeeds.
    error: list = None
    tables: list = field(default_factory=list)
    written: list = field(default_factory=list)

    def write(self, out, table, file=None, encodings=None, **options):
        """Writes `table` with pyarrow; `encodings` maps column paths to an encoding the file must really have."""
        relative = f"{self.name}/{file}" if file else f"{self.name}.parquet"
        path = os.path.join(out, relative)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        pq.write_table(table, path, **options)
        check_encodings(path, encodings or {}, options)
        self.tables.append((relative, table))
        self.written.append(relative)

    def text(self, out, table, content, file=None):
        """Writes `content`, text or bytes, which says what `table` says."""
        content = content.encode() if isinstance(content, str) else content
        self.tables.append((self.raw(out, content, file), table))

    def raw(self, out, content, file=None):
        """Writes bytes that no table stands for."""
        relative = f"{self.name}/{file}" if file else f"{self.name}.{self.format}"
        path = os.path.join(out, relative)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as target:
            target.write(content)
        self.written.append(relative)
        return relative

    def finish(self, out, now):
        """The case as one JSON object for the Rust side; writes the expected content beside the files."""
        inputs = self.inputs
        if inputs is None:
            inputs = [self.name] if any("/" in path for path in self.written) else list(self.written)
        described = {
            name: getattr(self, name)
            for name in (
                "name format key_type value_type storage f16_overflow ttl key_column value_columns expiry_column nulls "
                "duplicates max_bad_rows read_ts error"
            ).split()
        }
        described["inputs"] = inputs
        if self.error is None:
            tables = [table for _, table in sorted(self.tables, key=lambda pair: pair[0])]
            entries, counts = expected_content(tables, self, now)
            counts = {name: count for name, count in counts.items() if name not in self.unchecked}
            described["stats"] = counts | self.stats
            described["expected"] = f"{self.name}.expected"
            with open(os.path.join(out, described["expected"]), "wb") as target:
                target.write(encode(entries))
        return json.dumps(described)


def check_encodings(path, encodings, options):
    """A case that asks for an encoding must have got it: pyarrow falls back silently."""
    metadata = pq.ParquetFile(path).metadata
    for group in range(metadata.num_row_groups):
        for index in range(metadata.num_columns):
            column = metadata.row_group(group).column(index)
            wanted = encodings.get(column.path_in_schema)
            if wanted is not None and metadata.row_group(group).num_rows > 0:
                assert wanted in column.encodings, f"{path}: {column.path_in_schema} has {column.encodings}, not {wanted}"
            codec = options.get("compression")
            if isinstance(codec, str) and codec != "none":
                assert column.compression.lower().startswith(codec.lower()), f"{path}: {column.compression}, not {codec}"
