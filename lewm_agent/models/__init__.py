"""Encoders, predictors and heads, the world model made of them, and the objectives it is trained on."""
