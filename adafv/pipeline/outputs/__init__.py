"""What stands under --output: a `folder` of whole files, local or on S3, which one job at a time writes (`lease`), in
one way (`recipe`); the `sink` that fills labels/ and rejects/ in the columns of `schema`; the `ledger`: what is done.
"""
