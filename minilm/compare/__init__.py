"""Checkpoints side by side: what they are made of, how fast they are, how well they read.

text_scores.py    masked words and sentence order on a text
measure.py        size, speed and memory; everything about one comparison
quantities.py     every figure with its unit, its direction and its error
report.py         as text and Markdown
page.py           as one HTML page with charts
scatter.py        as one picture: size against score
similarity.py     what layers do, and whether the layers of two models do the same
"""
