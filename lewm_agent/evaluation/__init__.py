"""How an agent is measured: trials of an environment, what success is, and the result with its floors."""
