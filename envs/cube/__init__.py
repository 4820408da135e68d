"""The cube task of OGBench."""
