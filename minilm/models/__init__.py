"""BERT, DistilBERT and ALBERT: each reads its configuration once and composes the blocks."""
