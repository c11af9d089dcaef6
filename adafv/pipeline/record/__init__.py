"""What is on record of a run: `tally`, the counts and sums; `prices`, what workers cost; `run_record`, the JSON under
runs/ and the closing table; `estimate`, how fast a recorded run was; `progress`, a line every ten seconds; `metrics`,
what Prometheus sees; `hook`, who is told of the end; `reasons`, what rejects have in common;
`audit`, how far a share of the rows agrees with the unpruned model."""
