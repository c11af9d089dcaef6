"""The labelling job on Ray Data: rows in, Parquet out, nothing lost.

A row's way: a source reads it, `fetch` gets its image's bytes, `prepare` decodes the image and makes a sample (CPU
tasks), a `worker` labels batches of samples (an actor on each GPU), and the `sink`, in the driver, writes whole files.
What goes wrong with a row is a `Reject` that travels with it; the stages raise nothing.

From the top down; imports point downwards only (tests/test_layers.py):

    run         one run, its parts put together; arguments: its options from a command line; result: how it ended
    collector   results as they come out: written, counted, held against limits; config: options from YAML
    stream      the stages, from the worklist's tasks to results; limits: --max-cost and --max-hours
    planning/   which rows are to be labelled, and what that would take (--plan)
    setup       what the options name: input, output, who does the work
    workers/    the CPU stage, prepare, and the GPU stage, label; where a model's files are
    isolation/  child processes for what may kill or hang one, and which row it was
    images/     an image's bytes, and its pixels
    outputs/    labels/ and rejects/: written by one job at a time; the ledger: what is done
    sources/    what stands under --input, and the row that travels, as an Arrow table between stages
    record/     counts, costs, runs/<run_id>.json, progress, metrics
    control/    Ray's session, resources, the workers that are there
    store/      S3 and files
    options     what the job is asked to do
    rejects     the closed list of reasons why a row has no label; schema: the columns of labels and rejects
    fields      the columns of what answers in JSON hold
    passed      what an input shows and no row is made of
    errors      how a whole job fails; uris, redaction: names and texts that may be shown
"""
