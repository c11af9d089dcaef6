"""What there is to do: the `worklist` compares the input with what is done; the `plan` estimates what that takes
(`--plan`)."""
