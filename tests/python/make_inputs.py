"""Writes input files in the shapes people really have, and what must come of loading each.

    make_inputs.py GROUP OUT_DIR NOW_UNIX_S

OUT_DIR/cases.jsonl has one JSON object per case (see case.Case); paths in it are relative to OUT_DIR.
"""

import itertools
import os
import sys

from json_cases import bad_json_cases, good_json_cases
from parquet_bad import bad_cases
from parquet_good import good_cases
from text_bad import bad_text_cases
from text_good import good_text_cases


GROUPS = {
    "parquet": lambda out, now: [good_cases(out, now), bad_cases(out)],
    "json": lambda out, now: [good_json_cases(out, now), bad_json_cases(out, now)],
    "text": lambda out, now: [good_text_cases(out, now), bad_text_cases(out)],
}


def main(group, out, now):
    os.makedirs(out, exist_ok=True)
    names = set()
    with open(os.path.join(out, "cases.jsonl"), "w", encoding="utf-8") as listing:
        for case in itertools.chain(*GROUPS[group](out, now)):
            assert case.name not in names, f"two cases are called {case.name}"
            names.add(case.name)
            listing.write(case.finish(out, now) + "\n")
    print(f"{len(names)} cases")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
