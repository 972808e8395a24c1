"""Direct images of the same faulty scans by two programs, side by side.

    python -m benchmarks.direct_images --stated --methods --folder FOLDER --out ours.json
    python -m benchmarks.peers.quantem_direct FOLDER --out quantem.json      # in quantem's environment
    python -m benchmarks.direct_contest ours.json quantem.json --out direct-quantem-DATE.json
    python -m benchmarks.direct_contest benchmarks/results/direct-quantem-DATE.json
    python -m benchmarks.peers.py4dstem_direct FOLDER --out py4dstem.json    # in py4DSTEM's environment
    python -m benchmarks.direct_contest ours.json py4dstem.json --peer py4dstem --out both.json

Correlations are moduli: peers do not choose between an object and its twin. ``ours.json`` may be a joined
record.
"""

import argparse
import json
import statistics
from pathlib import Path

__all__ = ["compare_courses", "join_py4dstem", "join_records", "summarize"]

COURSES = ("default", "best", "oracle")
TIMED_COURSES = ("default", "best")  # an oracle takes all of both
PY4DSTEM_COURSES = ("dpc", "default", "best", "oracle")
KERNEL_COURSES = ("best ssb", "best obf", "best wdd", "best prlx")  # `best` with another kernel


def join_records(ours, quantem):
    """One record of both programs, a row for each scan that both have."""
    found = {row["case"]: row for row in quantem["rows"]}
    rows = [{**row, "quantem": found[row["case"]]} for row in ours["rows"] if row["case"] in found]
    head = {name: value for name, value in ours.items() if name != "rows"}
    record = {**head, "quantem": {name: value for name, value in quantem.items() if name != "rows"}}
    record["rows"] = rows
    record["summary"] = {course: compare_courses(rows, course) for course in (*COURSES, *KERNEL_COURSES)}
    fine = [(abs(row["fine"]), row["quantem"]["best"]["fine"]) for row in rows]
    record["summary"]["best"] |= {
        "fine_higher": sum(ours > theirs for ours, theirs in fine),
        "median_fine": [round(statistics.median(values), 4) for values in zip(*fine, strict=True)],
    }
    return record


def join_py4dstem(ours, peer):
    """One record of both programs, a row for each scan, and where ours is higher than each course."""
    found = {row["case"]: row for row in peer["rows"]}
    rows = [
        {"case": row["case"], "electrons": row["electrons"], "true_defocus": row["true_defocus"]}
        | {"modulus": row["modulus"], "cpu_s": row["cpu_s"], "py4dstem": found[row["case"]]}
        for row in ours["rows"]
        if row["case"] in found
    ]
    names = ("machine", "date", "commit", "threads", "set", "faults", "stated")
    record = {"ours": {name: ours[name] for name in names}}
    record["py4dstem"] = {name: value for name, value in peer.items() if name != "rows"}
    record["rows"] = rows
    record["summary"] = {}
    for course in PY4DSTEM_COURSES:
        theirs = [row["py4dstem"][course]["correlation"] for row in rows]
        differences = [row["modulus"] - one for row, one in zip(rows, theirs, strict=True)]
        worst = min(range(len(rows)), key=differences.__getitem__)
        record["summary"][course] = {
            "scans": len(rows),
            "ours_higher": sum(one > 0 for one in differences),
            "median_ours": statistics.median(row["modulus"] for row in rows),
            "median_py4dstem": statistics.median(theirs),
            "worst_difference": round(differences[worst], 4),
            "worst_scan": rows[worst]["case"],
        }
        if course != "oracle":
            ratios = [row["py4dstem"][course]["cpu_s"] / row["cpu_s"] for row in rows]
            record["summary"][course]["median_ratio_of_seconds"] = round(statistics.median(ratios), 3)
    return record


def read_correlation(row, course):
    """Modulus of quantem's correlation on one scan."""
    peer = row["quantem"]
    return peer[course]["correlation"] if course in COURSES else peer["kernels"][course]


def compare_courses(rows, course):
    """Where ours is higher than one course of quantem, the worst difference, the ratio of CPU seconds."""
    differences = {row["case"]: row["modulus"] - read_correlation(row, course) for row in rows}
    worst = min(differences, key=differences.__getitem__)
    summary = {
        "scans": len(rows),
        "ours_higher": sum(one > 0 for one in differences.values()),
        "median_ours": round(statistics.median(row["modulus"] for row in rows), 4),
        "median_quantem": round(statistics.median(read_correlation(row, course) for row in rows), 4),
        "median_difference": round(statistics.median(differences.values()), 4),
        "worst_difference": round(differences[worst], 4),
        "worst_scan": worst,
    }
    if course in TIMED_COURSES:
        ratios = [row["quantem"][course]["cpu_s"] / row["cpu_s"] for row in rows]
        summary["median_ratio_of_seconds"] = round(statistics.median(ratios), 2)
        spent = sum(row["quantem"][course]["cpu_s"] for row in rows)
        summary["ratio_of_all_seconds"] = round(spent / sum(row["cpu_s"] for row in rows), 2)
    return summary


def summarize(record):
    """Lines of a table, and of what it comes to."""
    lines = [
        "| scan | ours | default | best | oracle | method of oracle | our s | best s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in record["rows"]:
        peer = row["quantem"]
        numbers = " | ".join(f"{peer[course]['correlation']:.3f}" for course in COURSES)
        lines.append(
            f"| {row['case']} | {row['modulus']:.3f} | {numbers} | {peer['oracle']['method']} "
            f"| {row['cpu_s']:.1f} | {peer['best']['cpu_s']:.1f} |"
        )
    for course, one in record["summary"].items():
        line = (
            f"{course}: ours higher on {one['ours_higher']} of {one['scans']} scans; median "
            f"{one['median_ours']:.3f} against {one['median_quantem']:.3f}; worst difference "
            f"{one['worst_difference']:+.3f} ({one['worst_scan']})"
        )
        if "median_ratio_of_seconds" in one:
            line += (
                f"; quantem's CPU seconds over ours: median {one['median_ratio_of_seconds']}, "
                f"all {one['ratio_of_all_seconds']}"
            )
        if "fine_higher" in one:
            line += f"; without slow changes ours higher on {one['fine_higher']}"
        lines += ["", line]
    return lines


def main():
    """Join two records, or show a joined one."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("records", type=Path, nargs="+", help="ours and quantem's, or one joined record")
    parser.add_argument("--peer", choices=("quantem", "py4dstem"), default="quantem")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    records = [json.loads(path.read_text()) for path in asked.records]
    if asked.peer == "py4dstem":
        record = join_py4dstem(*records)
        asked.out.write_text(json.dumps(record, indent=1) + "\n")
        print(json.dumps(record["summary"], indent=1))
        return
    record = join_records(*records) if len(records) == 2 else records[0]
    if asked.out is not None:
        asked.out.write_text(json.dumps(record, indent=1) + "\n")
    print("\n".join(summarize(record)))


if __name__ == "__main__":
    main()
