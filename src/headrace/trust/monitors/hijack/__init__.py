"""The monitor of agents that somebody else may steer: what texts that nobody vouches for say, and what agents do."""
