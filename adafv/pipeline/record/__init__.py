"""The record of a run.

tally       counts and sums; prices: what workers cost
run_record  the JSON under runs/, and the closing table; estimate: how fast a recorded run was
progress    a log line every ten seconds; metrics: what Prometheus sees; hook: --on-finish
reasons     what rejects have in common; audit: agreement with the unpruned model
"""
