"""Readers of labelled data: sentences, pairs, tagged words, questions.

Every reader returns `Records` (base.py): a sequence of plain dictionaries that knows the file and
line of each of them. `read_records` (files.py) chooses the reader:

    tables.py      .csv and .tsv, a record in each row (table_layout.py finds the layout)
    json_lines.py  .jsonl, a JSON object in each line
    json_files.py  .json in any of its layouts
    parquet.py     .parquet, through pyarrow
    texts.py       .txt, a text in each line
    conll.py       a word in each line, a blank line after a sentence
    utterances.py  the three files seq.in, seq.out and label
    squad.py       questions about paragraphs
    glue.py        the layouts of the GLUE tasks
    frames.py      data frames and data sets of other libraries

A record that cannot be used is an error or, on request, left out and counted (`base.Skips`).
lines.py decodes stored bytes, and tag_schemes.py converts tags of entities between schemes.
"""
