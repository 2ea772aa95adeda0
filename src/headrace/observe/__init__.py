"""What operators see: metrics and logs. Knows no request, no model and no socket."""
