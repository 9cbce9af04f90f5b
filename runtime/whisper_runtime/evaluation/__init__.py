"""Evaluation: word error rates of one or more ways of transcribing, on the same recordings. Needs no torch."""
