"""What is under --output. One job at a time writes it.

lease    the right to write
recipe   the options that decide what a label is
sink     fills labels/ and rejects/
ledger   which rows are done
batches  reads files back in bounded memory; reader: labels and rejects for users of an output
"""
