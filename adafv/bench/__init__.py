"""The project's measurements, behind `adafv bench` and `jobs/bench.py`. They are not in the wheel.

Each module makes the data that it needs, measures, and formats its figures as a table:

    speed      samples a second, and how near that is to the hardware's limit, beside others; speed_rows: its table
    quality    what pruning costs in accuracy: every strategy and budget on the same questions
    promise    whether a calibrated cascade of two looks agrees as often as it promises
    constrained  what a schema costs a decoding step
    constants  adafv-plus's constants: chosen on all worlds but one, judged on that one
    pipeline   what the job keeps of its engine's speed, and that its memory doesn't grow with its input
    scale      what bounds a job on many workers, with a simulated engine
    peers      the same rows by this job and by ray.data.llm with vLLM; ray_data_llm: what its user writes
    forecast   how near --plan comes to what the run takes
    ledger     memory and time of planning a rerun, by the number of ids
    gpu        everything that is worth measuring on a GPU, in half an hour
    report     memory and time of a report, by the number of labels

What they share:

    command    their options; job_commands: of those that run jobs; arguments: options that a job has, too
    examples   questions whose answers are known: the testbed's, or a user's
    exam       several contenders answer the same questions
    resizing   pictures made smaller instead of pruned
    rivals     ways to answer the same questions: stock transformers, the reference method, the engine
    shapes     models of a named shape with random weights, and questions to ask them
    work       operations and bytes that labelling takes at least
    ceilings   what the hardware can do at best
    process    a process of its own for one measurement
    memory     the most memory that something took
    bootstrap  intervals of means and of differences
    chart      accuracy over budget, drawn; table: rows of figures, printed
    machine    what every figure has to be read with

Nothing else in the package depends on them. How answers are scored is in `adafv.scoring`.
"""
