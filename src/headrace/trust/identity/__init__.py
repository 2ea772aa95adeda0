"""Who calls, by tokens and signatures: what they must be, and whom they name. Judges values; fetches none."""
