"""The input formats, and the row that is made of each record.

A file is cut into units, a unit holds records, and a record becomes one row or several, which travel between stages as
an Arrow table:

    discovery  the files of an input; listing: those of a folder or pattern; kinds: the format of each
    preview    checks for the columns that a job needs
    units      a part of a file that one task reads; streams: its bytes, decompressed
    formats    a unit's records, by format; json_text, csv_text, tars: those of JSON, CSV and tars
    sidecars   the .txt and .json beside the images of a folder
    tables     a table's columns by type; values, image_values: their Python values
    records    what a file holds, and what its columns mean; questions: records with several questions
    rows       the row
"""
