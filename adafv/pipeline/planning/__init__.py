"""What there is to do: the `worklist`, input rows held against what is done; and the `plan`, what that would take, as
`--plan` prints it."""
