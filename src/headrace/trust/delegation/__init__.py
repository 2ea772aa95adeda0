"""Acting for somebody else: tokens that their holder can narrow and nobody can widen."""
