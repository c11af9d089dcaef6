"""What stands under --input, and the row that is made of it.

A file is cut into units, a unit holds records, and a record becomes a row or several, which travel from stage to stage
as an Arrow table:

    discovery  the files of an input; listing: those of a folder or a pattern; kinds: the format of each
    preview    whether the columns are there that a job needs
    units      a part of a file that one task reads; streams: its bytes, decompressed
    formats    a unit's records, by format; json_text, csv_text, tars: those of JSON, CSV and tars
    neighbours texts beside the images of a folder
    tables     a table's columns by their types (arrow_types); values, image_values: theirs as Python values
    pixels     images that stand as numbers
    records    what a file holds, and which columns mean what; questions: records that ask several
    rows       the row
"""
