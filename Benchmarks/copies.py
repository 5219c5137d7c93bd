"""Copies of a whole volume: what is copied, and the table that says how fast."""

import os
import sys

import figures
import peers

# How much of a sparse source has data, in pieces of a MiB.
SPARSE_SHARE = 8


def make_sparse_file(path, byte_count):
    """A file of which one MiB in eight has data."""
    peers.sparse(path, byte_count)
    with open(path, "r+b") as file:
        for number in range(0, byte_count >> 20, SPARSE_SHARE):
            file.seek(number << 20)
            file.write(os.urandom(1 << 20))
    return path


def check_copy(source, target):
    """Stops when a copy is none."""
    if peers.run("cmp", source, target):
        raise peers.Failed(f"{target} differs from {source}")


def measure(copies, rounds):
    """Seconds by (group, name), round by round; `copies` are lists of names and functions by group."""
    results = {(group, name): [] for group, members in copies.items() for name, _ in members}
    for number in range(rounds):
        for group, members in copies.items():
            first = number % len(members)
            for name, copy in members[first:] + members[:first]:
                results[group, name].append(copy())
        print(f"round {number + 1} of {rounds}", file=sys.stderr)
    return results


def report(results, options, references, title):
    """Prints speeds, and ratios of speed to the references, which are names by a column's words."""
    print(f"{os.cpu_count()} cores, {options.mib} MiB on tmpfs; medians of {options.rounds} alternating rounds; "
          "ratios of speed are medians of the rounds' ratios\n")
    rows = [["source", "copy", "seconds", "GiB/s", "least", "most", *references]]
    speeds = {key: [options.mib / 1024 / value for value in seconds] for key, seconds in results.items()}
    for (group, name), values in speeds.items():
        ratios = [figures.median_ratio(values, speeds[group, reference]) for reference in references.values()]
        rows.append([
            group, name, f"{figures.median(results[group, name]):.2f}", f"{figures.median(values):.2f}",
            f"{min(values):.2f}", f"{max(values):.2f}", *(f"{ratio:.2f}" for ratio in ratios),
        ])
    figures.print_table(rows)
    figures.write_picture(options.svg, f"{title}: GiB/s", speeds)
