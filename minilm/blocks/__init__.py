"""The parts all three encoders are built from.

Blocks take numbers, never configurations, and accept any leading shape of their input: a hidden
state is (..., H), whether the tokens lie in padded rows (B, S, H) or in one packed line
(T, H). Only the layout knows where sequences begin and end.

Shape letters used in every file:

    B batch      S sequence   T tokens of a packed batch
    H hidden     E embedding  A heads   D = H / A
    I feed-forward            V vocabulary   L layers   C classes or choices
"""
