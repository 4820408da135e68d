"""An agent's own attempts: gathering them, and rounds of trying and learning."""
