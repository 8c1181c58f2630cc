"""Checkpoints side by side: what they are made of, how fast they are, how well they read.

text_scores.py    masked words and sentence order on a text
measure.py        size, speed and memory; everything about one comparison
report.py         as text and Markdown
page.py           as one HTML page with charts
"""
