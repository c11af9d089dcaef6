"""The crash campaign: kill parts of a running job at random moments, resume it, and see that nothing is lost.

    python -m tests.campaign --kills 200

A real S3 server and a Ray cluster, a head and two nodes that work, are started on this machine. An undisturbed run
gives the reference.
Then the job runs again and again, each time into a fresh output. Its driver, its workers, their child processes, a
whole node and the store are killed with SIGKILL (the store also hangs for a while); nodes and the store come back after
a while. A job that ended with another status than 0 is resumed by the same command. When it has ended with 0 and no
reject, every id must be in `labels/` exactly once, with the answer, the kept tokens and the prompt of the reference.

    data      the input, and the check of an output against the reference
    job       one process of the job, and how far it is
    faults    what can be killed, and how
    campaign  when; the course of it all, and its log
    command   jobs/label.py itself, with a sink that can be told to write more often
"""
