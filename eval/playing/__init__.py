"""Pairs of start and goal, and agents that play them."""
