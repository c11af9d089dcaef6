"""What stands under --output: files that one job at a time writes (`lease`), in one way (`recipe`); the `sink`, which
fills labels/ and rejects/ in the columns of `schema`; the `ledger`: what is done."""
