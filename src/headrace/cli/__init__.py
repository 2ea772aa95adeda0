"""The composition root: reads configuration, builds everything, runs. The only folder that reads the environment."""
