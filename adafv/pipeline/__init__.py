"""The labelling job on Ray Data: rows in, Parquet out, nothing lost.

A row's way: a source reads it, `fetch` gets its image's bytes, `prepare` decodes the image and makes a sample (CPU
tasks), a `worker` labels batches of samples (an actor on each GPU), and the `sink`, in the driver, writes whole files.
What goes wrong with a row is a `Reject` that travels with it; the stages raise nothing.

    options     what the job is asked to do
    sources/    what stands under --input, and the row that travels, as an Arrow table between stages
    plan        which rows are new: input ids against the ledger, which is the output itself
    images/     an image's bytes, and its pixels
    workers/    the CPU stage, prepare, and the GPU stage, label; where a model's files are
    isolation/  child processes for what may kill or hang one, and which row it was
    outputs/    labels/ and rejects/: whole files, local or S3, written by one job at a time
    rejects     the closed list of reasons why a row has no label
    session     Ray, started or joined; resources: which stage gets which CPUs and GPUs; roster: which workers are there
    stream      the stages, from the plan's tasks to results
    budget      --max-cost and --max-hours; gate: what tells the stages that they are reached; prices: of workers
    summary     runs/<run_id>.json and the closing table; progress: a line every ten seconds; hook: --on-finish
    forecast    --plan; estimate: what a run takes, by one that is on record
    run         puts them together
"""
