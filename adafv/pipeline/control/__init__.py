"""Steers a run: `session` starts or joins Ray, `resources` divides CPUs and GPUs among the stages, `roster` tells which
workers are alive, and `gate` tells the stages to begin no more work."""
