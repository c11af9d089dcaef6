"""The labelling job on Ray Data: rows in, Parquet out, no row lost.

A source reads a row, `fetch` gets its image bytes, and `prepare` decodes the image and makes a sample (CPU tasks). A
worker labels batches of samples (one actor per GPU), and the `sink` in the driver writes whole files. A row that fails
carries a `Reject` through the stages; stages raise nothing.

From top to bottom; imports only point downwards (tests/test_layers.py):

    run         one run from start to end; arguments: options from the command line; result: how the run ended
    collector   writes and counts results, and checks limits; config: options from YAML
    stream      the Ray Data stages; limits: --max-cost and --max-hours
    planning/   which rows to label, and what that would take (--plan)
    setup       opens what the options name: input, output, resources
    workers/    the CPU stage (prepare) and the GPU stage (label); where a model's files are
    isolation/  child processes for work that may crash or hang, and which row caused it
    images/     image bytes and pixels
    outputs/    labels/ and rejects/, the lease on them, and the ledger of done rows
    sources/    the input formats, and the row that travels between stages as an Arrow table
    record/     counts, costs, runs/<run_id>.json, progress, metrics
    control/    the Ray session, resources, worker status
    store/      S3, the Hub and local files
    options     the job's options
    rejects     the closed list of reject reasons; schema: the columns of labels and rejects
    fields      columns for JSON answers and carried-over input columns; where: the --where expression
    passed      input that makes no row
    errors      how a whole job fails; uris, redaction: names and texts that are safe to show
"""
