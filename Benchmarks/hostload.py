"""Hosts' requests through NBD on a unix socket: the same fio jobs for all servers, and what each of them took."""

import collections
import json
import os
import sys

import figures
import peers

Job = collections.namedtuple("Job", "words kind block depth")
Place = collections.namedtuple("Place", "name uri processes")
Reading = collections.namedtuple("Reading", "iops mib p50 p99 p999 cpu")

JOBS = [
    *(Job(f"4 KiB randwrite, depth {depth}", "randwrite", "4k", depth) for depth in (1, 8, 32, 128)),
    *(Job(f"4 KiB randread, depth {depth}", "randread", "4k", depth) for depth in (1, 8, 32, 128)),
    Job("4 KiB 70/30, depth 32", "randrw", "4k", 32),
    Job("1 MiB write, depth 4", "write", "1m", 4),
    Job("1 MiB read, depth 4", "read", "1m", 4),
]
SMOKE_JOBS = [JOBS[8], JOBS[9]]
RAMP_SECONDS = 0.25


def parser(words):
    """The options of a script that measures hosts' requests."""
    made = peers.parser(words, rounds=5, mib=512, mib_words="size of an element")
    made.add_argument("--seconds", type=float, default=2, help="time of one measurement")
    made.add_argument("--job", default="", help="only jobs with this in their names")
    return made


def parse(made):
    """The options, and the jobs that they ask for."""
    options = made.parse_args()
    if options.smoke:
        options.rounds, options.seconds, options.mib = 1, 0.3, 64
    jobs = SMOKE_JOBS if options.smoke else JOBS
    return options, [job for job in jobs if options.job in job.words]


def fio(place, job, seconds):
    """One job on one server; latencies and processor time are in microseconds."""
    begun = sum(process.cpu_seconds() for process in place.processes)
    report = peers.run(
        "fio", "--name=job", "--thread", "--output-format=json", "--ioengine=nbd", f"--uri={place.uri}", f"--rw={job.kind}",
        "--rwmixread=70", f"--bs={job.block}", f"--iodepth={job.depth}", "--time_based",
        f"--runtime={int(seconds * 1000)}ms", f"--ramp_time={int(RAMP_SECONDS * 1000)}ms", "--norandommap",
        "--randrepeat=0", "--unified_rw_reporting=mixed",
    )
    used = sum(process.cpu_seconds() for process in place.processes) - begun
    # The engine may print a line of its own before the report.
    found = json.loads(report[report.index("{"):])["jobs"][0]
    if found["error"]:
        raise peers.Failed(f"fio on {place.uri}: error {found['error']}")
    total = found["mixed"]
    shares = total["clat_ns"]["percentile"]
    return Reading(
        total["iops"], total["bw_bytes"] / (1 << 20),
        *(shares[f"{share:.6f}"] / 1000 for share in (50, 99, 99.9)),
        # fio does not count what it did before its time began, but the server did it.
        used * 1e6 / (total["iops"] * (seconds + RAMP_SECONDS)),
    )


def measure(places, jobs, options):
    """Readings by job and server, in the order of the rounds; each round starts one server further."""
    results = {(job.words, place.name): [] for job in jobs for place in places}
    for number in range(options.rounds):
        order = places[number % len(places):] + places[:number % len(places)]
        for job in jobs:
            for place in order:
                results[job.words, place.name].append(fio(place, job, options.seconds))
        print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
    return results


def report(results, options, references, title):
    """Prints medians, spread, and ratios to each of the references, which are names of servers by a column's words.

    A column whose words begin with p50 compares that, any other one the operations per second.
    """
    print(f"{os.cpu_count()} cores, elements of {options.mib} MiB on tmpfs; medians of {options.rounds} "
          f"alternating rounds of {options.seconds:g} s; ratios are medians of the rounds' ratios; us\n")
    rows = [["job", "server", "IOPS", "MiB/s", "least", "most", "p50", "p99", "p99.9", "CPU/op", *references]]
    for (words, name), readings in results.items():
        rates = [reading.iops for reading in readings]
        ratios = []
        for column, reference in references.items():
            quantity = "p50" if column.startswith("p50") else "iops"
            its = [getattr(reading, quantity) for reading in results[words, reference]]
            ratios.append(figures.median_ratio([getattr(reading, quantity) for reading in readings], its))
        middle = [figures.median(column) for column in zip(*readings)]
        rows.append([
            words, name, f"{middle[0]:.0f}", f"{middle[1]:.0f}", f"{min(rates):.0f}", f"{max(rates):.0f}",
            *(figures.short(value) for value in middle[2:]), *(f"{ratio:.2f}" for ratio in ratios),
        ])
    figures.print_table(rows)
    pictured = {key: [reading.iops for reading in readings] for key, readings in results.items()}
    figures.write_picture(options.svg, f"{title}: operations a second", pictured)
