"""What stands under --output, which one job at a time writes.

lease    the right to write
recipe   the one way in which its labels are made
sink     fills labels/ and rejects/
ledger   which rows are done
batches  files read back in bounded memory; reader: labels and rejects for those who use them
"""
