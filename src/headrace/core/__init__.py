"""The values that everybody shares and the one contract; imports nothing of Headrace and does nothing."""
