"""What steers a run while it goes: `session`, Ray started or joined; `resources`, which stage gets which CPUs and GPUs;
`roster`, which workers are there; `gate`, what tells the stages that no more work may begin."""
