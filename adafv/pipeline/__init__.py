"""The labelling job on Ray Data: rows in, Parquet out, nothing lost.

A row's way: a source reads it, `fetch` gets its image's bytes, `prepare` decodes the image and makes a sample (CPU
tasks), a `worker` labels batches of samples (an actor on each GPU), and the `sink`, in the driver, writes whole files.
What goes wrong with a row is a `Reject` that travels with it; the stages raise nothing.

    options     what the job is asked to do
    sources     what stands under --input: which files, in which format; formats read them
    plan        which rows are new: input ids against the ledger, which is the output itself
    rows        the row that travels, as an Arrow table between stages
    fetch       an image's bytes; http: from public addresses only
    decode      bytes to RGB
    prepare     the CPU stage; worker: the GPU stage
    sink        labels/ and rejects/; output: whole files, local or S3
    summary     runs/<run_id>.json and the closing table; progress: a line every ten seconds
    run         puts them together
"""
