"""Records of answers: what was asked, of what, what was answered and what judges said, as one signed statement."""
