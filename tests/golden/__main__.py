"""Judge golden cases: a line an output, exit status 1 if any fails."""

import argparse
import json
import pathlib
import sys

from tests.golden.runner import judge


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.golden", description=__doc__)
    parser.add_argument("cases", nargs="+", type=pathlib.Path, metavar="CASE_DIR")
    parser.add_argument("--json", type=pathlib.Path, help="write all reports to this file")
    arguments = parser.parse_args(argv)
    reports, bad = {}, 0
    # A pattern (goldens/sam/*) also matches what stands beside the cases.
    cases = [path for path in arguments.cases if path.is_dir() or not path.exists()]
    for path in cases:
        report = judge(path)
        reports[str(path)] = report
        failed = sum(not row["ok"] for row in report.values())
        bad += failed
        print(f"{path}: {len(report) - failed} of {len(report)} outputs within tolerance")
        for name, row in report.items():
            print("  " + line(name, row))
    if arguments.json:
        arguments.json.write_text(json.dumps(reports, indent=1, default=str))
    print(f"{len(reports)} cases, {bad} outputs failed")
    return int(bad > 0)


def line(name: str, row: dict) -> str:
    """One output: largest error, noise floor of the original, tolerance, verdict."""
    tolerance = ", ".join(f"{k} {v:g}" for k, v in row["tolerance"].items()) or "exact"
    verdict = "ok" if row["ok"] else "FAILED"
    numbers = (
        f"max_abs {_number(row['max_abs'])}  max_rel {_number(row['max_rel'])}  "
        f"noise_rel {_number(row['noise_rel'])}"
    )
    why = "" if row["ok"] else f"  ({row['why']})"
    return f"{verdict:6} {name:60} {numbers}  {tolerance}{why}"


def _number(value) -> str:
    return "-" if value is None else f"{value:.2e}"


if __name__ == "__main__":
    sys.exit(main())
