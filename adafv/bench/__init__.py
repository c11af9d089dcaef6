"""The project's measurements, behind `jobs/bench.py`.

Each module makes the data that it needs, measures, and formats its figures as a table:

    ledger     memory and time of planning a rerun, by the number of ids
    isolation  what working in child processes costs
    machine    what every figure has to be read with

Nothing else in the package depends on them.
"""
