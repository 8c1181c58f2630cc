"""Labelled data in files: sentences, pairs, tagged words, questions.

Every reader gives `Records` (base.py): a sequence of plain dictionaries that knows which line of
which file each of them comes from. `read_records` (files.py) chooses the reader:

    tables.py      .csv and .tsv, one record a row (table_layout.py: what a file looks like)
    json_lines.py  .jsonl, one JSON object a line
    json_files.py  .json in any of its layouts
    parquet.py     .parquet, through pyarrow
    texts.py       .txt, one text a line
    conll.py       one word a line, a blank line after a sentence
    utterances.py  the three files seq.in, seq.out and label
    squad.py       questions about paragraphs
    glue.py        the layouts of the GLUE tasks
    frames.py      data frames and data sets of other libraries

A record that cannot be used is an error or, where that is asked for, left out and counted
(`base.Skips`). lines.py turns stored bytes into text, and tag_schemes.py one way to mark entities
into another.
"""
