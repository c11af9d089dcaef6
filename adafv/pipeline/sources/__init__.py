"""What stands under --input: `discovery` finds its files and cuts them into units, `formats` reads a unit's records,
and `rows` is what becomes of a record: the row that travels from stage to stage, as an Arrow table."""
