"""Who acts while data are gathered: experts, random and Stable-Baselines3 policies."""
