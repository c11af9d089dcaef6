"""What every family must do, run over each on random-weight models in its real configuration scaled down.

variant    one model that is tried: how it is built, and how stock transformers runs it
llava, llava_onevision, internvl, idefics3, qwen
           the families' variants; a new family is a file here and a line in `variants`
subject    a variant's checkpoint with what runs it
stock      transformers' own way: processor, `generate`, and the cues from whole attention matrices
test_conformance   the columns of the matrix
matrix     what came out, as the table in docs/measurements/models.md, which it writes when run as a program
"""
