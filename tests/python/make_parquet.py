"""Writes Parquet files with pyarrow in the shapes people really have, and what must come of loading each.

    make_parquet.py OUT_DIR NOW_UNIX_S

OUT_DIR/cases.jsonl has one JSON object per case (see parquet_case.Case); paths in it are relative to OUT_DIR.
"""

import os
import sys

from parquet_bad import bad_cases
from parquet_good import good_cases


def main(out, now):
    os.makedirs(out, exist_ok=True)
    names = set()
    with open(os.path.join(out, "cases.jsonl"), "w", encoding="utf-8") as listing:
        for case in [*good_cases(out, now), *bad_cases(out)]:
            assert case.name not in names, f"two cases are called {case.name}"
            names.add(case.name)
            listing.write(case.finish(out, now) + "\n")
    print(f"{len(names)} cases")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(sys.argv[1], int(sys.argv[2]))
