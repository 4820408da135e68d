"""Commands that measure agents on pairs of start and goal that no training has seen, and look into their latents."""
