"""From a dataset to a trained model: batches, the loop, and what is fitted to frozen latents afterwards."""
