"""What LeWM is compared with: DINO-WM and goal-conditioned policies."""
